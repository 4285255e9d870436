"""Nodes that know who they are: nobody comes back as somebody else."""

import random

import pytest

from fedpeft_app.strategies.silos import Silos

A, B, C = "a" * 32, "b" * 32, "c" * 32


def silos(*calls: dict[int, tuple[str, str]], was: Silos | None = None) -> Silos:
    """Flower id → identity and name, in several roll calls of one run; all are taken in."""
    found = was or Silos()
    for call in calls:
        found.begin_call()
        for node_id, (identity, name) in call.items():
            if identity:
                found.numbers.setdefault(identity, len(found.numbers))
            assert found.admit(node_id, identity, name) == ""
    return found


def test_who_comes_from_the_same_flower_node_must_be_the_same() -> None:
    known = silos({1: (A, ""), 2: (B, "")})
    for other in (C, B, ""):
        assert "before: what it spent" in known.admit(1, other, "")
    assert known.admit(1, A, "") == ""


def test_who_has_the_same_name_must_be_the_same() -> None:
    known = silos({1: (A, "ward"), 2: (B, "")})
    for other in (C, B, ""):
        assert known.admit(9, other, "ward").startswith("'ward' took part in this run with another")
    assert known.admit(9, A, "ward") == ""


def test_who_is_refused_is_not_remembered() -> None:
    known = silos({1: (A, "ward")})
    assert known.admit(1, B, "other")
    assert known.admit(2, C, "other") == ""


def test_numbers_of_owners_are_nobodys_concern() -> None:
    known = silos({1: ("", ""), 2: ("", "")}, {1: ("", ""), 3: ("", "")})
    assert known.told() == {}
    assert known.doubtful() == ([], [])


def test_a_journal_has_all_of_it() -> None:
    known = silos({1: (A, "ward")}, {1: (A, "ward"), 2: (B, "")})
    again = Silos.from_events([{"event": "roll_call", **known.told()}, {"event": "other"}])
    assert again.told() == known.told()
    assert again.admit(1, C, "")
    assert again.admit(3, C, "ward")


def test_who_comes_while_another_is_gone_may_be_that_one() -> None:
    known = silos({1: (A, ""), 2: (B, "")})
    assert known.doubtful() == ([], [])
    silos({1: (A, ""), 3: (C, "")}, was=known)
    assert known.doubtful() == ([2], [1])
    silos({1: (A, ""), 2: (B, ""), 3: (C, "")}, was=known)  # all three are there at once
    assert known.doubtful() == ([], [])


def test_a_node_that_still_seemed_connected_may_be_the_one_that_came() -> None:
    known = silos({1: (A, "")}, {1: (A, ""), 2: (B, "")})
    assert known.doubtful() == ([], [])
    known.leave([0])
    assert known.doubtful() == ([1], [0])


def test_nodes_that_have_names_are_not_taken_for_one_another() -> None:
    known = silos({1: (A, "x")}, {2: (B, "y")})
    assert known.doubtful() == ([], [])
    known = silos({1: (A, "x")}, {2: (B, "")})
    assert known.doubtful() == ([1], [0])


@pytest.mark.parametrize("seed", range(20))
def test_who_is_doubtful_follows_from_pairs_of_one_who_came_and_one_who_is_gone(seed: int) -> None:
    draw, known = random.Random(seed), Silos()
    for number in range(draw.randrange(7)):
        who, name = f"{number:032x}", f"ward-{number}"
        known.numbers[who] = number
        known.by_flower_id[number] = who
        known.by_name.update({name: who} if draw.random() < 0.5 else {})
        known.joined.update({who} if draw.random() < 0.5 else ())
        known.present.update({who} if draw.random() < 0.5 else ())
    pairs = {
        (new, old)
        for new in known.joined
        for old in set(known.by_flower_id.values()) - known.present
        if new != old and not {new, old} <= set(known.by_name.values())
    }
    expected = ({known.numbers[new] for new, _ in pairs}, {known.numbers[old] for _, old in pairs})
    assert known.doubtful() == (sorted(expected[0]), sorted(expected[1]))
