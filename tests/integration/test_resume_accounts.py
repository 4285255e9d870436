"""What a run that goes on must not forget: who was asked, what was spent, that it had ended."""

from contextlib import closing
from typing import Any

import pytest
from conftest import LocalGrid
from private_settings import USER
from resumed_runs import NODES, SETTINGS, Dying, KilledError, finished, killed, resumed, run

from fedpeft_app.config import parse
from fedpeft_app.errors import PrivacyError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.resume import reopen
from fedpeft_app.runs.directory import RunFolder


def asked_in(folder: RunFolder, settings: dict[str, Any]) -> tuple[int, ...]:
    """Say whom a run that is reopened counts as asked for nothing."""
    return reopen(folder, parse({**settings, "resume": str(folder.path)})).asked


def test_whom_a_further_attempt_asked_is_not_forgotten(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SETTINGS}
    folder = killed(settings, NODES + 2 + 2 + 1)  # in round 3
    with closing(Journal(folder.journal)) as journal:
        journal.note("asked_again", round=3, cohort=[0, 3])
    assert {0, 3} <= set(asked_in(folder, settings))


def test_an_attempt_is_remembered_until_its_round_has_ended(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SETTINGS}
    folder = killed(settings, NODES + 2 + 2 + 1)
    cohort = [event for event in folder.events() if event["event"] == "round_started"][-1]["cohort"]
    assert asked_in(folder, settings) == tuple(cohort)
    assert asked_in(folder, settings) == tuple(cohort)  # killed before anybody was asked again
    with pytest.raises(KilledError):
        again = {**settings, "resume": folder.path.name}
        run(again, Dying(NODES, again, NODES + 2))  # round 3 ends, round 4 does not
    cohort = [event for event in folder.events() if event["event"] == "round_started"][-1]["cohort"]
    assert asked_in(folder, settings) == tuple(cohort)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_servers_book_that_lost_rows_is_refused(tiny_settings: dict[str, Any], rows: int) -> None:
    settings = {**tiny_settings, **SETTINGS, **USER, "strategy.fraction-train": 0.5}
    folder = run(settings)
    book = folder.path / "privacy.jsonl"
    book.write_bytes(b"".join(book.read_bytes().splitlines(keepends=True)[:rows]))
    with pytest.raises(PrivacyError, match=rf"Expected 4 rows in .*privacy\.jsonl.*found {rows}"):
        resumed(settings, folder, rounds=6)


@pytest.mark.parametrize(
    "ended",
    [
        {"budget.uplink-mib": 0.001},
        {"budget.patience": 1, "train.learning-rate": 1e-12, "train.head-learning-rate": 1e-12},
    ],
)
def test_a_run_that_had_ended_trains_no_round_more(
    tiny_settings: dict[str, Any], ended: dict[str, Any]
) -> None:
    settings = {**tiny_settings, **SETTINGS, "rounds": 6, **ended}
    folder = run(settings)
    before = [event["round"] for event in finished(folder)]
    assert len(before) < 6
    resumed(settings, folder)
    assert [event["round"] for event in finished(folder)] == before
    assert folder.events()[-1]["event"] == "run_finished"


def test_a_log_does_not_tell_who_was_drawn(
    tiny_settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    flower = {"strategy.name": "flwr.serverapp.strategy:FedAvg", "strategy.fraction-train": 0.5}
    settings = {**tiny_settings, **SETTINGS, **USER, **flower}
    run(settings, LocalGrid(NODES, settings))
    said = capfd.readouterr()
    assert "Sampled" not in said.out + said.err
