"""Numbers of nodes that were given none."""

from itertools import permutations

from fedpeft_app.strategies.numbering import numbered
from fedpeft_app.strategies.roll_call import Presence

A, B, C = "a" * 32, "b" * 32, "c" * 32


def present(identity: str = "", name: str = "", partition: int = 12345) -> Presence:
    return Presence(
        partition=partition, examples=1, labels=(), agreed={}, identity=identity, name=name
    )


def numbers(*answers: Presence | str, known: dict[str, int] | None = None) -> list[int]:
    found, _ = numbered(list(enumerate(answers)), known or {})
    return [answer.partition for _, answer in found if isinstance(answer, Presence)]


def test_nodes_are_numbered_alike_in_whatever_order_they_answer() -> None:
    everyone = {"x": present(A, "x"), "v": present(B, "v"), "w": present(C, "w")}
    expected = {"v": 0, "w": 1, "x": 2}
    for order in permutations(everyone):
        assert numbers(*(everyone[name] for name in order)) == [expected[name] for name in order]


def test_a_node_keeps_its_number_and_others_get_those_that_are_free() -> None:
    assert numbers(present(A), present(B), present(C), known={B: 1}) == [0, 1, 2]
    assert numbers(present(C), known={A: 0, B: 1}) == [2]


def test_numbers_that_owners_gave_stay_and_nobody_else_gets_them() -> None:
    assert numbers(present(A), present(partition=0), present(B), present(partition=2)) == [
        1,
        0,
        3,
        2,
    ]


def test_what_is_known_is_told() -> None:
    _, now = numbered([(7, present(A)), (8, "no answer"), (9, present(partition=4))], {B: 0})
    assert now == {B: 0, A: 1}


def test_two_nodes_of_one_identity_get_one_number_and_the_roll_call_sees_it() -> None:
    assert numbers(present(A), present(A)) == [0, 0]
