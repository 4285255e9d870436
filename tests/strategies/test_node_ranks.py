"""Ranks that nodes state: who is refused at the roll call, and why."""

import pytest

from fedpeft_app.adapters import AdapterSpec, TensorSpec
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.ranks import rank_objection
from fedpeft_app.strategies.strategy import Member

SPEC = AdapterSpec(
    method="lora",
    backbone="x",
    tensors=(
        TensorSpec(name="q.lora_A.default.weight", shape=(8, 16)),
        TensorSpec(name="q.lora_B.default.weight", shape=(16, 8)),
    ),
    ranks={"q": 8},
)


def objection(name: str, rank: int, *, exact: bool = True) -> str:
    """Ask whether node 3 may take part in a rank."""
    member = Member(node_id=1, partition=3, examples=9, rank=rank)
    return rank_objection(make_strategy(name, {}), SPEC, member, highest=8, exact_downlink=exact)


@pytest.mark.parametrize("name", ["fedavg", "flexlora", "hetlora"])
@pytest.mark.parametrize("exact", [True, False])
def test_nobody_objects_to_the_runs_own_rank(name: str, exact: object) -> None:
    assert objection(name, 0, exact=bool(exact)) == ""


@pytest.mark.parametrize("name", ["flexlora", "hetlora"])
def test_lower_ranks_are_served_where_they_can_be(name: str) -> None:
    assert objection(name, 2) == ""


@pytest.mark.parametrize("name", ["fedavg", "fedsvd", "scaffold", "median"])
def test_strategies_of_one_rank_name_the_node(name: str) -> None:
    assert f"'{name}' folds adapters of one rank, but node 3 has rank 2" in objection(name, 2)


@pytest.mark.parametrize("rank", [-1, 9, 10**7])
def test_what_comes_over_the_network_is_no_rank_of_any_size(rank: int) -> None:
    assert objection("flexlora", rank) == (
        f"states rank {rank}, expected none above method.rank = 8"
    )


def test_increments_lead_to_one_state() -> None:
    assert "wire.downlink brings all nodes from one state" in objection("flexlora", 2, exact=False)
