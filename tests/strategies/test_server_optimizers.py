"""Every server optimiser against its equation, two rounds each, by hand.

What all of them obey is in `contracts/test_aggregator_contract.py`.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpeft_app.strategies.server_optimizers import Adagrad, Adam, ServerOptimizer, Sgd, Yogi

values = hnp.arrays(np.float64, 4, elements=st.floats(-1e300, 1e300))


def rounds(optimizer: ServerOptimizer, *deltas: float) -> list[tuple[float, dict[str, float]]]:
    """Step one value from 0; give the state and the moments after each round."""
    state, moments = np.zeros(1), optimizer.start(1)
    path = []
    for delta in deltas:
        state, moments = optimizer.step(moments, state, np.array([delta]))
        path.append((float(state[0]), {name: float(each[0]) for name, each in moments.items()}))
    return path


# ------------------------------------------------------------------ SGD


@given(state=values, delta=values)
def test_fedavg_adds_the_mean_delta_bit_by_bit(state: np.ndarray, delta: np.ndarray) -> None:
    moved, moments = Sgd().step({}, state, delta)
    assert moved.tobytes() == (state + delta).tobytes()
    assert not moments


def test_fedavg_remembers_nothing() -> None:
    assert not Sgd().start(7)


def test_fedavg_with_a_rate_takes_part_of_the_way() -> None:
    assert rounds(Sgd(lr=0.5), 3, -1) == [(1.5, {}), (1.0, {})]


def test_momentum_by_hand() -> None:
    first, second = rounds(Sgd(lr=2.0, momentum=0.5), 1, 3)
    assert first == (2.0, {"velocity": 1.0})
    assert second == (9.0, {"velocity": 3.5})  # 0.5 · 1 + 3; 2 + 2 · 3.5


def test_nesterov_by_hand() -> None:
    first, second = rounds(Sgd(lr=2.0, momentum=0.5, nesterov=True), 1, 3)
    assert first == (3.0, {"velocity": 1.0})  # 2 (1 + 0.5 · 1)
    assert second == (12.5, {"velocity": 3.5})  # 3 + 2 (3 + 0.5 · 3.5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_that_of_torch_on_the_opposite_of_deltas(nesterov: bool) -> None:  # noqa: FBT001
    deltas = np.random.default_rng(0).standard_normal((5, 4))
    weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    reference = torch.optim.SGD([weights], lr=0.3, momentum=0.9, nesterov=nesterov)
    optimizer = Sgd(lr=0.3, momentum=0.9, nesterov=nesterov)
    state, moments = np.zeros(4), optimizer.start(4)
    for delta in deltas:
        weights.grad = torch.from_numpy(-delta)
        reference.step()
        state, moments = optimizer.step(moments, state, delta)
    np.testing.assert_allclose(state, weights.detach().numpy(), rtol=1e-13)


# ------------------------------------------------------------------ adaptive, Algorithm 2


@pytest.mark.parametrize("make", [Adam, Yogi, Adagrad])
def test_moments_start_at_zero_and_tau_squared(make: Callable[..., ServerOptimizer]) -> None:
    moments = make(tau=3.0).start(2)
    assert {name: each.tolist() for name, each in moments.items()} == {"m": [0, 0], "v": [9, 9]}


def test_adam_by_hand() -> None:
    first, second = rounds(Adam(lr=12.0, beta1=0.5, beta2=0.5, tau=1.0), 7, 35)
    # m = 7 / 2; v = 1 / 2 + 49 / 2 = 25; x = 12 · 3.5 / (5 + 1)
    assert first == (7.0, {"m": 3.5, "v": 25.0})
    # m = 3.5 / 2 + 35 / 2; v = 25 / 2 + 1225 / 2 = 625; x = 7 + 12 · 19.25 / (25 + 1)
    assert second == (7 + 231 / 26, {"m": 19.25, "v": 625.0})


def test_adam_weighs_both_moments_by_their_own_beta() -> None:
    ((state, moments),) = rounds(Adam(lr=1.0, beta1=0.75, beta2=0.5, tau=1.0), 7)
    assert moments == {"m": 1.75, "v": 25.0}
    assert state == 1.75 / 6


def test_yogi_by_hand() -> None:
    first, second = rounds(Yogi(lr=2.0, beta1=0.5, beta2=0.5, tau=1.0), 4, 2)
    # v = 1 - 16 / 2 · sign(1 - 16) = 9; m = 4 / 2; x = 2 · 2 / (3 + 1)
    assert first == (1.0, {"m": 2.0, "v": 9.0})
    # v = 9 - 4 / 2 · sign(9 - 4) = 7; m = 2 / 2 + 2 / 2; x = 1 + 2 · 2 / (√7 + 1)
    assert second[1] == {"m": 2.0, "v": 7.0}
    assert second[0] == pytest.approx(1 + 4 / (math.sqrt(7) + 1), rel=1e-15)


def test_yogi_forgets_a_large_delta_more_slowly_than_adam() -> None:
    options = {"beta2": 0.9, "tau": 1.0}
    deltas = [100.0, *[1.0] * 5]
    v = {make: rounds(make(**options), *deltas)[-1][1]["v"] for make in (Adam, Yogi)}
    assert v[Yogi] == pytest.approx(1001 - 0.5)  # minus 0.1 in each of 5 rounds
    assert v[Adam] == pytest.approx(1000.9 * 0.9**5 + (1 - 0.9**5))  # 0.9 · v + 0.1 in each


def test_adagrad_by_hand() -> None:
    first, second = rounds(Adagrad(lr=3.0, tau=4.0), 3, 12)
    # v = 16 + 9 = 25; x = 3 · 3 / (5 + 4)
    assert first == (1.0, {"m": 3.0, "v": 25.0})
    # v = 25 + 144 = 169; x = 1 + 3 · 12 / (13 + 4)
    assert second == (1 + 36 / 17, {"m": 12.0, "v": 169.0})


def test_adagrad_with_momentum_by_hand() -> None:
    first, second = rounds(Adagrad(lr=3.0, beta1=0.5, tau=4.0), 3, 12)
    assert first == (0.5, {"m": 1.5, "v": 25.0})
    assert second == (0.5 + 3 * 6.75 / 17, {"m": 6.75, "v": 169.0})  # m = 1.5 / 2 + 12 / 2


def test_adaptive_defaults_are_those_of_the_paper() -> None:
    for optimizer in (Adam(), Yogi()):
        assert (optimizer.beta1, optimizer.beta2, optimizer.tau) == (0.9, 0.99, 1e-3)
    assert (Adagrad().beta1, Adagrad().tau) == (0.0, 1e-3)


@pytest.mark.parametrize("make", [Adam, Yogi])
def test_values_of_any_scale_move_by_about_the_rate(make: Callable[..., ServerOptimizer]) -> None:
    for scale in (1.0, 1e4):
        path = [state for state, _ in rounds(make(lr=0.01), *[scale] * 1000)]
        assert path[-1] - path[-2] == pytest.approx(0.01, rel=2e-3)


# ------------------------------------------------------------------ options


@pytest.mark.parametrize("make", [Sgd, Adam, Yogi, Adagrad])
@pytest.mark.parametrize("lr", [0, -1.0, math.inf, math.nan, "1", True])
def test_a_rate_is_a_positive_number(make: Callable[..., object], lr: object) -> None:
    with pytest.raises(ValueError, match=r"Expected lr to be a number in \(0, inf\)"):
        make(lr=lr)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Sgd, "momentum"),
        (Adam, "beta1"),
        (Adam, "beta2"),
        (Yogi, "beta1"),
        (Yogi, "beta2"),
        (Adagrad, "beta1"),
    ],
)
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan, None])
def test_a_memory_is_a_share_below_one(
    make: Callable[..., object], name: str, value: object
) -> None:
    with pytest.raises(ValueError, match=rf"Expected {name} to be a number in \[0, 1\)"):
        make(**{name: value})


@pytest.mark.parametrize("make", [Adam, Yogi, Adagrad])
@pytest.mark.parametrize("tau", [0.0, -1e-3, math.inf])
def test_tau_is_a_positive_number(make: Callable[..., object], tau: float) -> None:
    with pytest.raises(ValueError, match=r"Expected tau to be a number in \(0, inf\)"):
        make(tau=tau)


@pytest.mark.parametrize(
    "options", [{"nesterov": True}, {"nesterov": 1, "momentum": 0.5}, {"nesterov": "false"}]
)
def test_nesterov_is_a_choice_that_needs_momentum(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Expected nesterov to be true or false"):
        Sgd(**options)


def test_a_run_goes_on_only_with_the_optimizer_it_began_with() -> None:
    optimizers: Sequence[ServerOptimizer] = (Sgd(), Sgd(momentum=0.9), Adam())
    for began, goes_on in itertools.permutations(optimizers, 2):
        with pytest.raises(ValueError, match="Continue a run with the optimiser"):
            goes_on.step(began.start(1), np.zeros(1), np.zeros(1))
