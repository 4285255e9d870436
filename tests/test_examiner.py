"""The examiner: what the server measures, and what it leaves out."""

import math
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedpeft_app.adapters import AdapterState
from fedpeft_app.examiner import Examiner
from fedpeft_app.observe.journal import Journal


def test_what_is_no_number_is_left_out_as_undefined(
    tmp_path: Path, state: AdapterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"loss": 0.5, "accuracy": 0.25, "auroc": math.nan, "perplexity": math.inf}
    monkeypatch.setattr("fedpeft_app.examiner.evaluate", lambda *_, **__: measured)
    poured: list[AdapterState] = []
    with closing(Journal(tmp_path / "journal.jsonl")) as journal:
        examiner = Examiner(
            adapted=SimpleNamespace(pour=poured.append, model=None),
            task=None,
            splits=SimpleNamespace(validation=[1], test=[]),
            batch_size=1,
            journal=journal,
        )
        assert examiner.examine(state, "validation", "fp32") == {"loss": 0.5, "accuracy": 0.25}
        assert examiner.examine(state, "test", "fp32") == {}
    assert poured == [state]
