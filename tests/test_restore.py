"""A run's folder gives its model back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LocalGrid, make_texts

from fedpeft_app.adapters import AdapterState
from fedpeft_app.config import defaults, parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import RunFolderError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.restore import predict, restore, round_of
from fedpeft_app.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedpeft_app.runs.directory import RunFolder, create_run


@pytest.fixture
def unfinished(tmp_path: Path, state: AdapterState) -> RunFolder:
    """A run that was ended after round 4; round 3 was not evaluated."""
    settings = {**defaults(), "evaluate.select-by": "loss"}
    run = create_run(tmp_path, "run", run_id=1, config=settings)
    for number, loss in ((1, 2.0), (2, 0.5), (3, None), (4, 0.5)):
        measured = {} if loss is None else {"validation": {"loss": loss, "accuracy": loss}}
        metrics = {"precision": "fp32", **measured, "test": {"loss": 1 / number, "accuracy": 0.9}}
        save_checkpoint(run, Checkpoint(state=state, round_number=number, metrics=metrics))
    return run


@pytest.mark.parametrize(("which", "number"), [("last", 4), ("best", 2), ("3", 3), ("007", 7)])
def test_rounds_have_names(unfinished: RunFolder, which: str, number: int) -> None:
    """The best of an unfinished run is the earliest best on validation data."""
    assert round_of(unfinished, which) == number


def test_a_finished_run_has_chosen_itself(unfinished: RunFolder) -> None:
    journal = Journal(unfinished.journal)
    journal.note("run_finished", round=3)
    journal.close()
    assert round_of(unfinished, "best") == 3
    assert round_of(unfinished, "last") == 4


def test_of_rounds_that_nobody_judged_the_last_is_the_best(
    tmp_path: Path, state: AdapterState
) -> None:
    run = create_run(tmp_path, "run", run_id=1, config=defaults())
    for number in (1, 2):
        save_checkpoint(run, Checkpoint(state=state, round_number=number, metrics={}))
    assert round_of(run, "best") == 2


@pytest.mark.parametrize("which", ["first", "-1", "²", "", "1.0"])
def test_other_names_are_refused(unfinished: RunFolder, which: str) -> None:
    with pytest.raises(RunFolderError, match="Expected a round's number, 'best' or 'last', got"):
        round_of(unfinished, which)


def test_a_run_without_rounds_has_nothing_to_restore(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", run_id=1, config=defaults())
    with pytest.raises(RunFolderError, match="has no checkpoint yet"):
        round_of(run, "last")


def test_a_journal_without_labels_is_refused(unfinished: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="does not say which labels it had"):
        restore(unfinished, parse(unfinished.config()), 1)


def test_a_run_comes_back_with_its_bits_and_predicts(tiny_settings: dict[str, Any]) -> None:
    run = coordinate(LocalGrid(4, tiny_settings), parse(tiny_settings), run_id=1)
    config = parse(run.config())
    restored = restore(run, config, 2)
    assert restored.labels == ("crude", "grain", "money")
    kept = load_checkpoint(run, 2).state.vector.tobytes()
    assert restored.adapted.read().vector.tobytes() == kept

    texts, _ = make_texts(9, seed=5)
    found = predict(restored, config, texts)
    encoded = restored.processor(texts, padding=True, return_tensors="pt")
    logits = restored.adapted.model(**encoded).logits.detach().numpy().astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    best = probabilities.argmax(axis=1)
    assert [one.answer for one in found] == [restored.labels[index] for index in best]
    sure = [one.probability for one in found]
    np.testing.assert_allclose(sure, probabilities.max(axis=1), atol=1e-6)
