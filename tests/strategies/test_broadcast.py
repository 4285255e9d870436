"""What nodes have of the global state: the server's bits, by the fewest bytes."""

from collections.abc import Sequence

import numpy as np
import pytest
from strategy_samples import Follower, members, state_of

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.strategies.broadcast import Broadcast
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.payload import Section, write
from fedpeft_app.wire.record import MOST_INCREMENTS

LOSSY = ["int8", "topk(0.1)+int8", "bfloat16", "topk(0.02)+int4+zstd"]
EXACT = ["float32", "float32+zstd"]


def flat(size: int) -> AdapterSpec:
    """Make a spec of one tensor."""
    tensor = TensorSpec(name="w", shape=(size,))
    return AdapterSpec(method="lora", backbone="x", tensors=(tensor,), ranks={})


def of(values: Sequence[float], codec: str, **settings: object) -> Broadcast:
    """Start a broadcast from values."""
    state = state_of(flat(len(values)), values)
    return Broadcast(state=state, codec=parse_codec(codec), **settings)  # type: ignore[arg-type]


def move(broadcast: Broadcast, delta: object) -> AdapterState:
    """Do what a strategy does: add the mean delta to the state that nodes trained from."""
    vector = (broadcast.state.vector + np.asarray(delta)).astype(np.float32)
    return broadcast.advance(AdapterState(spec=broadcast.state.spec, vector=vector))


def names(sections: Sequence[Section]) -> list[str]:
    return [section.name for section in sections]


def payload_bytes(sections: Sequence[Section]) -> int:
    """Weigh sections as one message carries them."""
    return len(write(sections, known={section.spec.fingerprint for section in sections}))


# ------------------------------------------------------------------ the same bits


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("codec", LOSSY + EXACT)
def test_server_and_nodes_hold_the_same_bits(codec: str, *, drawn: bool) -> None:
    """Over 40 rounds, in which nodes are left out, fail, and lose what they were sent."""
    draw = np.random.default_rng(0)
    broadcast = of(draw.standard_normal(3000).tolist(), codec, drawn=drawn)
    everyone = members(8)
    first = broadcast.state if drawn else state_of(broadcast.state.spec, np.nan)
    nodes = {member: Follower(first) for member in everyone}
    sent = []
    for _ in range(40):
        for member in draw.choice(everyone, size=3, replace=False):  # type: ignore[arg-type]
            sections = broadcast.sections(member)
            sent += [name.partition("-")[0] for name in names(sections)]
            fate = draw.choice(["good", "good", "good", "bad reply", "bad transport"])
            if fate != "bad transport":
                held = nodes[member].follow(sections)
                assert held.vector.tobytes() == broadcast.state.vector.tobytes()
            (broadcast.arrived if fate == "good" else broadcast.lost)(member)
        move(broadcast, draw.standard_normal(3000))
    assert set(sent) == ({"state"} if codec in EXACT else {"state", "increment"})


@pytest.mark.parametrize("codec", EXACT)
def test_without_loss_the_state_is_the_strategys_and_is_sent_whole(codec: str) -> None:
    broadcast, (member,) = of([1.0, 2.0], codec), members(1)
    target = state_of(broadcast.state.spec, [0.1, 0.3])
    assert broadcast.advance(target) is broadcast.state is target
    for _ in range(2):
        assert names(broadcast.sections(member)) == ["state"]
        broadcast.arrived(member)
    assert broadcast.seen == {}


@pytest.mark.parametrize("codec", ["int8", "topk(0.1)+int4"])
def test_rounding_by_chance_follows_the_seed(codec: str) -> None:
    deltas = np.random.default_rng(0).standard_normal((3, 50))

    def end(seed: int) -> bytes:
        broadcast = of([0.0] * 50, codec, seed=seed)
        return [move(broadcast, delta).vector.tobytes() for delta in deltas][-1]

    assert end(1) == end(1) != end(2)


def test_every_increment_is_rounded_by_chances_of_its_own() -> None:
    broadcast = of([0.0] * 50, "int4", feedback=False)
    ends = [move(broadcast, np.arange(50)).vector for _ in range(2)]
    assert ends[0].tobytes() != (ends[1] - ends[0]).tobytes()


# ------------------------------------------------------------------ by the fewest bytes


def behind(broadcast: Broadcast, versions: int, delta: object) -> Member:
    """Give a node that has seen a version, and move on by so many."""
    (member,) = members(1)
    broadcast.arrived(member)
    for _ in range(versions):
        move(broadcast, delta)
    return member


def test_a_node_that_has_the_newest_version_gets_nothing() -> None:
    broadcast = of([0.0] * 500, "int8")
    assert broadcast.sections(members(1)[0]) == ()  # it can draw the first one
    assert broadcast.sections(behind(broadcast, 0, 1.0)) == ()
    member = behind(broadcast, 1, 1.0)
    assert names(broadcast.sections(member)) == ["increment-1"]
    broadcast.arrived(member)
    assert broadcast.sections(member) == ()


@pytest.mark.parametrize("lag", range(1, 6))
def test_increments_are_sent_where_they_are_fewer_bytes(lag: int) -> None:
    # 10,000 values in int8: 10,158 bytes each, 40,000 in float32: three are fewer, four are not.
    broadcast = of([0.0] * 10_000, "int8")
    delta = np.linspace(-1, 1, 10_000)
    move(broadcast, delta)
    sections = broadcast.sections(behind(broadcast, lag, delta))
    increments = [f"increment-{version}" for version in range(2, 2 + lag)]
    assert names(sections) == (increments if lag <= 3 else ["state"])
    assert {len(section.data) for section in sections} == {10_158 if lag <= 3 else 40_000}


@pytest.mark.parametrize("codec", ["topk(0.1)+int8", "int4", "bfloat16"])
@pytest.mark.parametrize("size", [1, 10, 60, 300, 3000])
def test_what_is_sent_is_never_more_than_the_whole_state(codec: str, size: int) -> None:
    """Headers count: an increment of a small adapter is mostly header."""
    draw = np.random.default_rng(0)
    broadcast = of([0.0] * size, codec)
    late, lost = members(2)
    broadcast.lost(lost)
    for _ in range(30):
        move(broadcast, draw.standard_normal(size))
        whole = payload_bytes(broadcast.sections(lost))
        found = broadcast.sections(late)
        assert names(found) == ["state"] or payload_bytes(found) <= whole


def test_increments_as_large_as_the_state_are_not_sent() -> None:
    broadcast = of([0.0] * 100, "topk(1.0)+float32")
    assert names(broadcast.sections(behind(broadcast, 1, np.arange(100)))) == ["state"]


def test_so_many_increments_are_kept_and_no_more() -> None:
    # Of 50,000 values ten: some 100 bytes with their header, where the state has 200,000.
    broadcast = of([0.0] * 50_000, "topk(0.0002)+int4")
    member = behind(broadcast, MOST_INCREMENTS, np.arange(50_000))
    assert len(broadcast.sections(member)) == MOST_INCREMENTS
    move(broadcast, np.arange(50_000))
    assert names(broadcast.sections(member)) == ["state"]


@pytest.mark.parametrize("codec", LOSSY)
def test_what_the_server_keeps_is_less_than_the_state(codec: str) -> None:
    draw = np.random.default_rng(0)
    broadcast = of([0.0] * 2000, codec)
    for _ in range(100):
        move(broadcast, draw.standard_normal(2000))
        assert 0 < sum(len(one.data) for one in broadcast._increments) < 4 * 2000


def test_a_lost_node_gets_the_whole_state_bit_for_bit() -> None:
    broadcast = of([0.0] * 500, "int8")
    member = behind(broadcast, 1, np.arange(500) / 7)
    broadcast.lost(member)
    (section,) = broadcast.sections(member)
    assert (section.name, section.codec.name) == ("state", "float32")
    assert section.decode().vector.tobytes() == broadcast.state.vector.tobytes()
    broadcast.arrived(member)
    assert broadcast.sections(member) == ()


def test_the_whole_state_is_encoded_once_a_version() -> None:
    broadcast = of([0.0] * 500, "int8")
    first, second = members(2)
    broadcast.lost(first)
    broadcast.lost(second)
    (shared,) = broadcast.sections(first)
    assert broadcast.sections(second)[0] is shared
    move(broadcast, 1.0)
    (moved,) = broadcast.sections(second)
    assert moved.decode().vector.tobytes() == broadcast.state.vector.tobytes()


def test_where_nobody_can_draw_the_first_state_it_is_sent() -> None:
    broadcast = of([3.0] * 500, "int8", drawn=False)
    first, second = members(2)
    assert broadcast.version == 1
    assert names(broadcast.sections(first)) == names(broadcast.sections(second)) == ["state"]
    broadcast.arrived(first)
    move(broadcast, 1.0)
    assert broadcast.version == 2
    assert names(broadcast.sections(first)) == ["increment-2"]
    assert names(broadcast.sections(second)) == ["state"]


# ------------------------------------------------------------------ what increments lose


def test_what_an_increment_lost_is_sent_with_the_next() -> None:
    # One of two values travels; every round adds (2, 1). Wanted: (2, 1), (2, 2), (2, 3), (4, 1).
    broadcast = of([0.0, 0.0], "topk(0.5)+float32")
    found = [move(broadcast, [2.0, 1.0]).vector.tolist() for _ in range(4)]
    assert found == [[2.0, 0.0], [4.0, 0.0], [4.0, 3.0], [8.0, 3.0]]


def test_without_feedback_it_stays_lost() -> None:
    broadcast = of([0.0, 0.0], "topk(0.5)+float32", feedback=False)
    found = [move(broadcast, [2.0, 1.0]).vector.tolist() for _ in range(4)]
    assert found == [[2.0, 0.0], [4.0, 0.0], [6.0, 0.0], [8.0, 0.0]]


def test_feedback_keeps_the_distance_to_what_was_meant_bounded() -> None:
    """A share of 0.1 bounds it by 2 √0.9 / 0.1 = 18.97 deltas (arXiv 1901.09847, lemma 3)."""
    delta = np.arange(1, 101) / 100
    distances: dict[bool, list[float]] = {}
    for feedback in (True, False):
        broadcast = of([0.0] * 100, "topk(0.1)+float32", feedback=feedback)
        ends = [move(broadcast, delta).vector for _ in range(300)]
        distances[feedback] = [
            float(np.linalg.norm(end - number * delta)) / float(np.linalg.norm(delta))
            for number, end in enumerate(ends, start=1)
        ]
    assert max(distances[True]) < 18.97
    assert max(distances[True][150:]) <= 1.01 * max(distances[True][:150])
    # The same ten are sent for ever: 90 of 100 grow, √(Σ₁⁹⁰ i² / Σ₁¹⁰⁰ i²) = 0.8545 a round.
    assert distances[False][-1] == pytest.approx(300 * 0.8545, rel=1e-3)


@pytest.mark.parametrize("codec", LOSSY + EXACT)
@pytest.mark.parametrize("drawn", [True, False])
def test_one_that_goes_on_sends_everything_once_and_then_the_same_bits(
    codec: str, *, drawn: bool
) -> None:
    draw = np.random.default_rng(1)
    first, deltas = draw.standard_normal(3000), draw.normal(0, 0.1, (6, 3000))
    whole = of(first.tolist(), codec, drawn=drawn)
    (member,) = members(1)
    for delta in deltas[:3]:
        move(whole, delta)
        whole.arrived(member)
    other = Broadcast(state=whole.state, codec=whole.codec, drawn=drawn)
    other.go_on(whole.snapshot())
    (section,) = other.sections(member)  # nobody knows what nodes hold
    assert section.decode().vector.tobytes() == whole.state.vector.tobytes()
    other.arrived(member)
    for delta in deltas[3:]:
        assert move(other, delta).vector.tobytes() == move(whole, delta).vector.tobytes()
        assert names(other.sections(member)) == names(whole.sections(member))
        other.arrived(member)
        whole.arrived(member)
