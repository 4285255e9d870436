"""Statements: nothing is rounded in one's own favour, and what is unsafe says so."""

import math
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.privacy.spent import Spent
from fedpeft_app.privacy.statement import (
    between,
    counted,
    sample_statement,
    shown,
    user_statement,
)


def spending(epsilon: float, unamplified: float = 10.0) -> Spent:
    return Spent(
        epsilon=epsilon, unamplified=unamplified, noise_multiplier=1.0, sampling=0.5, steps=3
    )


def of_nodes(
    spent: dict[int, Spent], unknown: Collection[int] = (), **changes: Any
) -> dict[str, str]:
    chosen: dict[str, Any] = {
        "delta": 1e-5,
        "clipping_norm": 0.5,
        "mechanism": "some noise",
        "accountant": "an accountant 1.0",
        "unsafe": False,
        "released": ["this", "that"],
        "apart": ["tuning"],
        **changes,
    }
    return sample_statement(spent, unknown, **chosen)


@given(epsilon=st.floats(0, 1e6))
def test_what_is_printed_is_never_less(epsilon: float) -> None:
    assert epsilon <= float(shown(epsilon)) <= epsilon + 0.0101


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.0, "0.00"),
        (3.0, "3.00"),
        (1.1, "1.10"),
        (2.991, "3.00"),
        (8.4501, "8.46"),
        (0.1249, "0.125"),
        (9.96e-5, "0.0000996"),
        (1e-300, "0.000000001"),
        (1e99, f"1{'0' * 99}.00"),
        (math.inf, "infinite"),
    ],
)
def test_epsilon_is_rounded_up(epsilon: float, text: str) -> None:
    assert shown(epsilon) == text


@given(target=st.integers(1, 999), exponent=st.integers(-6, 0), share=st.floats(0.5, 1))
def test_no_target_is_exceeded_on_paper_only(target: int, exponent: int, share: float) -> None:
    chosen = float(f"{target}e{exponent}")
    assert float(shown(share * chosen)) <= chosen


def test_one_is_not_many() -> None:
    assert [counted(number, "node") for number in (0, 1, 1.5, 2000)] == [
        *("0 nodes", "1 node", "1.5 nodes", "2,000 nodes"),
    ]
    assert between([0.5, 0.25, 0.5]) == "0.25 to 0.5"
    assert between([7, 7], "step") == "7 steps"
    assert between([1], "step") == "1 step"
    assert between([1, 2000000], "step") == "1 to 2,000,000 steps"


def test_the_largest_node_is_the_run() -> None:
    spent = {
        4: spending(1.0, 9.0),
        0: spending(3.001, 7.0),
        2: spending(2.0, 8.0),
    }
    rows = of_nodes(spent)
    assert rows["privacy"] == "(3.01, 1e-05)-differential privacy for each training example"
    assert "max 3.01, median 2.00 over 3 nodes at δ = 1e-05" in rows["epsilon"]
    assert rows["epsilon of each node"] == "0: 3.01, 2: 2.00, 4: 1.00"
    assert rows["epsilon without amplification by sampling"] == (
        "max 9.00, for those who find out which examples are in which batch"
    )
    assert rows["also released"] == "this; that"
    assert "clipped to norm 0.5 over all tensors that train, some noise" in rows["mechanism"]


def test_what_is_stated_holds_for_those_of_whom_it_is_known() -> None:
    spent = {node: spending(float(node), 10.0 * node) for node in (1, 2, 3)}
    rows = of_nodes(spent, {3, 0})
    assert rows["privacy"] == (
        "(2.00, 1e-05)-differential privacy for each training example, but for those of nodes "
        "0, 3: not known"
    )
    assert "max 2.00, median 1.50 over 2 nodes" in rows["epsilon"]
    assert rows["epsilon of each node"] == "1: 1.00, 2: 2.00, 3: at least 3.00"
    assert rows["epsilon without amplification by sampling"].startswith("max 20.00, ")
    assert rows["not known"].startswith("what nodes 0, 3 spent in rounds without a good reply")


def test_of_many_nodes_those_are_listed_who_spent_most() -> None:
    spent = {node: spending(node / 100) for node in range(1, 1001)}
    rows = of_nodes(spent, range(2000, 2012))
    listed = ", ".join(f"{node}: {node / 100:.2f}" for node in range(991, 1001))
    assert rows["epsilon of each node"] == (
        f"{listed}; 990 more spent no more than the least of these"
    )
    first = ", ".join(map(str, range(2000, 2010)))
    assert f"but for those of nodes {first} and 2 more: not known" in rows["privacy"]


@pytest.mark.parametrize("spent", [{}, {1: spending(1.0)}])
def test_where_nothing_is_known_nothing_is_promised(spent: dict[int, Spent]) -> None:
    rows = of_nodes(spent, {1})
    assert rows["privacy"].startswith("not known")
    assert not {"epsilon", "epsilon without amplification by sampling"} & rows.keys()
    assert rows.get("epsilon of each node", "1: at least 1.00") == "1: at least 1.00"
    assert {"mechanism", "randomness", "not known"} <= rows.keys()


def test_noise_from_a_seed_is_no_guarantee() -> None:
    spent = spending(1.0)
    for unsafe in (False, True):
        for rows in (
            of_nodes({0: spent}, unsafe=unsafe),
            user_statement(
                spent,
                delta=1e-5,
                users=10,
                mechanism="some noise",
                accountant="one",
                unsafe=unsafe,
                released=[],
                apart=[],
            ),
        ):
            assert ("UNSAFE" in rows["privacy"]) == unsafe
            assert ("UNSAFE" in rows["randomness"]) == unsafe


def test_users_are_not_hidden_from_the_server() -> None:
    rows = user_statement(
        spending(1.0, 2.0),
        delta=1e-6,
        users=1000,
        mechanism="some noise",
        accountant="one",
        unsafe=False,
        released=[],
        apart=["tuning"],
    )
    assert "not against the server" in rows["against"]
    assert "one of 1,000 nodes" in rows["neighbouring"]
    assert rows["epsilon"] == "1.00 at δ = 1e-06"
    assert rows["epsilon without amplification by sampling"].startswith("2.00, for those who find")
    assert rows["also released"] == "nothing"


def test_a_newcomer_that_may_be_one_of_those_who_are_gone_is_named() -> None:
    rows = of_nodes({0: spending(1.0), 2: spending(2.0)}, doubtful=([2], [0]))
    assert "; only if nodes hold different examples" in rows["privacy"]
    assert rows["joined"].startswith("node 2 came later and may hold the examples of node 0, now")
    assert "if nodes hold different examples, the largest is that" in rows["epsilon"]
    sure = of_nodes({0: spending(1.0)})
    assert "joined" not in sure
    assert "nodes hold different examples, so the largest is that" in sure["epsilon"]
