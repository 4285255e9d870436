"""Who failed lately: asked again, left alone, forgiven."""

from typing import Any

import pytest
from strategy_samples import members

from fedpeft_app.strategies.attendance import Attendance, Excused, Unneeded

DOWN = {0: "disk on fire"}


def numbers_of(some: Any) -> list[int]:
    """Give partitions."""
    return [member.partition for member in some]


def failing(rounds: int, tolerance: int) -> tuple[Attendance, list[int]]:
    """Let node 0 fail in every round in which it may be asked; give those rounds."""
    account, asked = Attendance(tolerance=tolerance), []
    for number in range(1, rounds + 1):
        reachable = numbers_of(account.reachable(members(3), number, least=1))
        down = {node: "down" for node in reachable if node == 0}
        asked += [number] * len(down)
        account.note(number, [1, 2], down)
    return account, asked


def test_who_is_missed_is_owed_another_try() -> None:
    account = Attendance(tolerance=3)
    account.note(1, [1], DOWN)
    assert numbers_of(account.owed(members(3))) == [0]
    account.note(2, [0, 1], {})
    assert account.owed(members(3)) == []


def test_a_broken_node_costs_less_and_less() -> None:
    account, asked = failing(20, tolerance=2)
    assert asked == [1, 2, 5, 9, 14, 20]  # left alone for 2, 3, 4, 5 rounds
    assert account.failures == {0: 6}


def test_nobody_is_left_alone_without_a_limit() -> None:
    assert failing(9, tolerance=0)[1] == list(range(1, 10))


def test_a_node_that_recovers_starts_from_scratch() -> None:
    account, _ = failing(2, tolerance=2)
    account.note(5, [0], {})
    assert account.note(6, [], DOWN) == {}
    assert account.failures == {0: 1}


def test_who_is_excused_has_not_failed() -> None:
    account = Attendance(tolerance=1)
    assert account.note(1, [], {0: Excused("not needed")}) == {}
    assert account.owed(members(1)) == []


def test_being_excused_ends_a_series() -> None:
    account = Attendance(tolerance=2)
    account.note(1, [], DOWN)
    account.note(2, [], {0: Excused("no more privacy to spend")})
    assert account.note(3, [], DOWN) == {}


@pytest.mark.parametrize(("least", "expected"), [(1, [1, 2]), (2, [1, 2]), (3, [0, 1, 2])])
def test_rather_a_node_that_failed_than_too_few(least: int, expected: list[int]) -> None:
    account = Attendance(tolerance=1)
    account.note(1, [], DOWN)
    assert numbers_of(account.reachable(members(3), 2, least=least)) == expected


def test_the_account_survives_a_crash() -> None:
    account, _ = failing(2, tolerance=2)
    again = Attendance(tolerance=2)
    again.go_on(account.snapshot())
    assert again == account


def test_whose_reply_was_not_needed_neither_failed_nor_recovered() -> None:
    account = Attendance(tolerance=2)
    account.note(1, [], DOWN)
    assert account.note(2, [], {0: Unneeded("others were faster")}) == {}
    assert account.note(3, [], DOWN) == {0: 5}
