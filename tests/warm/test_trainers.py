"""How a machine is shared out, and whom the processes of a worker serve; without Ray."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fedpeft_app.errors import LaunchError
from fedpeft_app.warm.code import own_code
from fedpeft_app.warm.trainers import Limits, Trainers


@pytest.mark.parametrize(
    ("slots", "machines", "expected"),
    [
        (0, [(8.0, 0.0)], (1, 8.0, 0.0)),  # no GPU: one process with all cores
        (0, [(8.0, 2.0)], (2, 4.0, 1.0)),  # one a GPU
        (3, [(8.0, 0.0)], (3, 8 / 3, 0.0)),
        (3, [(6.0, 2.0)], (3, 2.0, 0.5)),  # two GPUs hold three at halves, not at two thirds
        (2, [(8.0, 3.0)], (2, 4.0, 1.0)),  # whole ones, where there are enough
        (1, [(8.0, 4.0)], (1, 8.0, 4.0)),
        (0, [(8.0, 0.0), (8.0, 0.0)], (2, 8.0, 0.0)),  # one a machine
        (3, [(8.0, 0.0), (8.0, 0.0)], (3, 4.0, 0.0)),  # no process is larger than its machine
        (0, [(4.0, 0.0), (16.0, 1.0)], (1, 16.0, 1.0)),
    ],
)
def test_processes_have_as_much_as_all_of_them_can(
    slots: int, machines: list[tuple[float, float]], expected: tuple[int, float, float]
) -> None:
    shared = Limits(slots=slots, memory=5).shared_out(machines)
    assert (shared.slots, shared.cpus, shared.gpus) == pytest.approx(expected)
    assert shared.memory == 5


def test_more_than_there_is_room_for_is_refused() -> None:
    with pytest.raises(LaunchError, match="fewer --trainers"):
        Limits(slots=2).shared_out([(0.0, 0.0)])


class Recording(Trainers):
    """Trainers without processes."""

    asked: int = 0

    def _require(self, *_: object) -> None:
        """Start nothing."""

    def _asked(self, *_: object) -> tuple[dict[str, Any], bytes]:
        """Answer at once."""
        self.asked += 1
        return {"status": "done"}, b""


def header(node: int = 0, **code: str) -> Mapping[str, Any]:
    wanted = replace(own_code(), **code)
    return {"node_config": {"partition-id": node}, "code": wanted.to_json()}


def test_a_run_with_another_python_disturbs_nobody() -> None:
    trainers = Recording(limits=Limits())
    told = trainers.answer(header(python="/elsewhere"), b"", lambda: True)
    assert told is not None
    assert told[0]["status"] == "refused"
    assert sys.prefix in told[0]["reason"]
    assert trainers.asked == 0


def test_what_nobody_waits_for_is_not_begun() -> None:
    trainers = Recording(limits=Limits())
    assert trainers.answer(header(), b"", lambda: False) is None
    with trainers._slots[0].lock:  # while another message is being answered
        assert trainers.answer(header(), b"", lambda: False) is None
    assert trainers.asked == 0
    assert trainers.answer(header(), b"", lambda: True) is not None


def test_after_the_end_nothing_is_begun() -> None:
    trainers = Recording(limits=Limits())
    trainers.close()
    assert trainers.answer(header(), b"", lambda: True) is None
    assert trainers.asked == 0


def test_a_node_keeps_its_place_and_places_are_given_evenly() -> None:
    trainers = Recording(limits=Limits(slots=2))
    places = [trainers._seat(str(node)) for node in range(6)]
    assert sorted(places) == [0, 0, 0, 1, 1, 1]
    assert [trainers._seat(str(node)) for node in range(6)] == places
