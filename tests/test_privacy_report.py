"""What is known of a run's privacy is what nodes said last, and who did not say it."""

from collections.abc import Collection

import pytest
from decoded import Decoded

from fedpeft_app.adapters import AdapterState
from fedpeft_app.config import parse
from fedpeft_app.privacy_report import SampleReport
from fedpeft_app.strategies.guard import SatOut
from fedpeft_app.strategies.rounds import RoundResult
from fedpeft_app.strategies.strategy import Member, Reply


@pytest.fixture
def report() -> SampleReport:
    return SampleReport(config=parse({"privacy.mode": "sample", "privacy.target-epsilon": 8.0}))


def finished(
    state: AdapterState, good: dict[int, float], rejected: dict[int, str] | None = None
) -> RoundResult:
    """A round in which nodes said what they had spent, and others sent nothing good."""
    replies = [
        Reply(
            member=Member(node_id=node, partition=node, examples=1),
            start=state,
            update=Decoded(state=state),
            weight=1.0,
            metrics={"epsilon": spent, "epsilon-unamplified": 10 * spent},
        )
        for node, spent in good.items()
    ]
    return RoundResult(
        round_number=1,
        state=state,
        good=replies,
        rejected=rejected or {},
        seconds=0.0,
        client_metrics={},
    )


def told_unknown(report: SampleReport, nodes: Collection[int]) -> bool:
    row = report.statement().get("not known", "")
    return all(f" {node}" in row.split("spent")[0] for node in nodes) and bool(row)


def test_the_largest_epsilon_is_the_run(report: SampleReport, state: AdapterState) -> None:
    assert report.note(finished(state, {0: 1.0, 1: 2.0})) == 2.0
    assert report.note(finished(state, {0: 3.0})) == 3.0
    assert report.statement()["epsilon of each node"] == "0: 3.00, 1: 2.00"
    assert "not known" not in report.statement()


def test_who_failed_stays_unknown_until_a_good_reply_of_its_own(
    report: SampleReport, state: AdapterState
) -> None:
    report.note(finished(state, {0: 1.0, 1: 1.0}))
    report.note(finished(state, {0: 2.0}, {1: "connection lost"}))
    assert told_unknown(report, [1])
    report.note(finished(state, {0: 3.0}))  # node 1 was not even asked
    assert told_unknown(report, [1])
    report.note(finished(state, {1: 3.0}))
    assert "not known" not in report.statement()


def test_who_sat_out_has_spent_nothing(report: SampleReport, state: AdapterState) -> None:
    report.note(finished(state, {0: 1.0, 1: 1.0}))
    report.note(finished(state, {0: 2.0}, {1: SatOut("no more to spend")}))
    assert "not known" not in report.statement()


def test_nothing_is_stated_before_anybody_spent(report: SampleReport, state: AdapterState) -> None:
    assert report.note(finished(state, {})) is None
    assert report.statement() == {}
