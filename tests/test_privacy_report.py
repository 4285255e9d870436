"""What is known of a run's privacy is what nodes said last, and who did not say it."""

from collections.abc import Mapping

import pytest
from decoded import Decoded

from fedpeft_app.adapters import AdapterState
from fedpeft_app.config import parse
from fedpeft_app.privacy_report import SampleReport
from fedpeft_app.strategies.dropouts import DROPPED_OUT
from fedpeft_app.strategies.exchange import NOT_SENT
from fedpeft_app.strategies.guard import SatOut
from fedpeft_app.strategies.strategy import Member, Reply


class Rounds:
    """Lets a report see rounds go by."""

    def __init__(self, state: AdapterState) -> None:
        private = {"privacy.mode": "sample", "privacy.target-epsilon": 8.0}
        self.report = SampleReport(config=parse(private))
        self._state = state

    def __call__(
        self, good: Mapping[int, float], rejected: Mapping[int, str] | None = None
    ) -> dict[str, str]:
        """Some nodes say what they have spent, others send nothing good; give the statement."""
        rejected = rejected or {}
        self.report.asked([*good, *rejected])
        replies = [
            Reply(
                member=Member(node_id=node, partition=node, examples=1),
                start=self._state,
                update=Decoded(state=self._state),
                weight=1.0,
                metrics={
                    "epsilon": spent,
                    "epsilon-unamplified": 10 * spent,
                    "noise-multiplier": 2.0 - spent / 10,
                    "sampling": spent / 10,
                    "steps": 4.0 * spent,
                },
            )
            for node, spent in good.items()
        ]
        self.report.answered(replies, rejected)
        return self.report.statement()


@pytest.fixture
def rounds(state: AdapterState) -> Rounds:
    return Rounds(state)


def unknown(rows: Mapping[str, str]) -> str:
    """The nodes of which it is not known what they spent."""
    return (
        rows.get("not known", "").partition(" spent in")[0].removeprefix("what node").lstrip("s ")
    )


def test_the_largest_epsilon_is_the_run(rounds: Rounds) -> None:
    rounds({0: 1.0, 1: 2.0})
    assert rounds.report.epsilon() == 2.0
    rows = rounds({0: 3.0})
    assert rounds.report.epsilon() == 3.0
    assert rows["epsilon of each node"] == "0: 3.00, 1: 2.00"
    assert "not known" not in rows


def test_who_failed_stays_unknown_until_a_good_reply_of_its_own(rounds: Rounds) -> None:
    rounds({0: 1.0, 1: 1.0})
    assert unknown(rounds({0: 2.0}, {1: "connection lost"})) == "1"
    assert unknown(rounds({0: 3.0})) == "1"  # it was not even asked
    assert "not known" not in rounds({1: 3.0})


@pytest.mark.parametrize("why", [SatOut("no more to spend"), DROPPED_OUT, NOT_SENT])
def test_who_did_not_train_has_spent_nothing(why: str, rounds: Rounds) -> None:
    rounds({0: 1.0, 1: 1.0})
    rows = rounds({0: 2.0}, {1: why})
    assert "not known" not in rows
    assert rows["epsilon of each node"] == "0: 2.00, 1: 1.00"


def test_who_sits_out_does_not_tell_what_it_spent_before(rounds: Rounds) -> None:
    rounds({0: 1.0}, {1: "connection lost"})
    assert unknown(rounds({0: 2.0}, {1: SatOut("no more to spend")})) == "1"


def test_who_is_still_at_work_is_unknown(rounds: Rounds) -> None:
    rounds({0: 1.0, 1: 1.0})
    rounds.report.asked([1])  # and there the connection breaks off, or the server does
    assert unknown(rounds.report.statement()) == "1"
    assert "but for those of node 1: not known" in rounds.report.statement()["privacy"]


def test_that_nobody_said_anything_is_stated_too(rounds: Rounds) -> None:
    rows = rounds({}, {0: "connection lost", 1: SatOut("no more to spend")})
    assert rows["privacy"].startswith("not known")
    assert unknown(rows) == "0"


def test_what_nodes_did_is_what_they_say(rounds: Rounds) -> None:
    rows = rounds({0: 1.0, 1: 3.0})
    assert (
        "z = 1.7 to 1.9 times that on their sum (the least with which a node that trains in every "
        f"one of {parse({}).rounds} rounds stays within epsilon 8)"
    ) in rows["mechanism"]
    assert "each example in one with probability q = 0.1 to 0.3; 4 to 12 steps" in rows["mechanism"]
    assert rounds.report.each() == {"0": 1.0, "1": 3.0}


def test_what_nobody_has_said_yet_is_what_was_set(rounds: Rounds) -> None:
    rows = rounds({}, {0: "connection lost"})
    assert "on their sum: the least with which a node that trains" in rows["mechanism"]
    assert "q =" not in rows["mechanism"]


def test_other_runs_are_not_covered(rounds: Rounds) -> None:
    assert "other runs over the same data" in rounds({0: 1.0})["not covered"]


def test_nothing_is_stated_before_anybody_was_asked(rounds: Rounds) -> None:
    assert rounds.report.epsilon() is None
    assert rounds.report.statement() == {}
