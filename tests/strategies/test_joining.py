"""Nodes that come and go between rounds."""

from collections.abc import Iterable, Sequence
from typing import Any

from strategy_samples import ScriptedGrid, members

from fedpeft_app.strategies.joining import Door
from fedpeft_app.strategies.roll_call import Roster
from fedpeft_app.strategies.strategy import Member


class Hall(ScriptedGrid):
    """A grid to which nodes connect: one set after the other."""

    def __init__(self, *connected: Iterable[int]) -> None:
        super().__init__({})
        self._connected = [list(ids) for ids in connected]

    def get_node_ids(self) -> Iterable[int]:
        return self._connected.pop(0) if len(self._connected) > 1 else self._connected[0]


def door(
    grid: Hall, *, refused: Sequence[int] = (), before: Sequence[int] = (), patience_s: float = 0.0
) -> Any:
    """Make a door that admits Flower id 100 + p as partition p; give what it told too."""
    told: list[Any] = []

    def call(node_ids: Sequence[int], present: Sequence[Member]) -> Roster:
        told.append(("called", list(node_ids)))
        admitted = [
            Member(node_id=node_id, partition=node_id % 100, examples=5)
            for node_id in node_ids
            if node_id not in refused
        ]
        reasons = {f"node {node_id}": "another model" for node_id in node_ids if node_id in refused}
        turned_away = frozenset(node_ids) & frozenset(refused)
        return Roster(members=tuple(admitted), labels=(), refused=reasons, refused_ids=turned_away)

    made = Door(
        grid=grid,
        call=call,
        came=lambda roster: told.append(
            ("came", [one.partition for one in roster.members], dict(roster.refused))
        ),
        left=lambda gone: told.append(("left", [one.partition for one in gone])),
        patience_s=patience_s,
        refused=frozenset(before),
    )
    return made, told


THREE = [Member(node_id=100 + place, partition=place, examples=5) for place in range(3)]


def test_nothing_is_asked_while_everyone_stays() -> None:
    made, told = door(Hall([100, 101, 102]))
    assert made(THREE, 0) == THREE
    assert told == []


def test_who_left_is_not_there() -> None:
    made, told = door(Hall([100, 102]))
    assert made(THREE, 0) == [THREE[0], THREE[2]]
    assert told == [("left", [1])]


def test_who_comes_is_asked_who_it_is() -> None:
    made, told = door(Hall([100, 101, 102, 103]))
    assert [member.partition for member in made(THREE, 0)] == [0, 1, 2, 3]
    assert told == [("called", [103]), ("came", [3], {})]


def test_a_node_that_was_restarted_is_asked_again() -> None:
    made, told = door(Hall([100, 102, 201]))
    assert [(one.partition, one.node_id) for one in made(THREE, 0)] == [
        (0, 100),
        (1, 201),
        (2, 102),
    ]
    assert told == [("left", [1]), ("called", [201]), ("came", [1], {})]


def test_who_was_refused_is_asked_again_ever_more_rarely() -> None:
    made, told = door(Hall([100, 101, 102, 103]), refused=[103])
    asked = []
    for round_number in range(1, 20):
        before = len(told)
        assert made(THREE, 0) == THREE
        asked += [round_number] * (len(told) > before)
    assert asked == [1, 3, 6, 11]  # after pauses of 1, 2, 4, 8 rounds
    assert told[1] == ("came", [], {"node 103": "another model"})


def test_whom_the_roll_call_refused_is_not_asked_at_once() -> None:
    made, told = door(Hall([100, 101, 102, 103]), refused=[103], before=[103])
    made(THREE, 0)
    assert told == []
    made(THREE, 0)
    assert told[0] == ("called", [103])


def test_who_was_refused_is_asked_again_when_somebody_left() -> None:
    everyone, fewer = [100, 101, 102, 103], [100, 102, 103]
    made, told = door(Hall(everyone, everyone, fewer), refused=[103])
    there: Sequence[Member] = THREE
    for _ in range(3):
        there = made(there, 0)
    assert [line for line in told if line[0] == "called"] == [("called", [103])] * 2


def test_too_few_are_waited_for() -> None:
    made, _ = door(Hall([100], [100], [100], [100, 101]), patience_s=5.0)
    assert [member.partition for member in made(THREE, 2)] == [0, 1]


def test_waiting_ends() -> None:
    made, told = door(Hall([100]))
    assert made(members(1)[:0], 2) == [Member(node_id=100, partition=0, examples=5)]
    assert made(THREE, 2) == [THREE[0]]
    assert told[-1] == ("left", [1, 2])
