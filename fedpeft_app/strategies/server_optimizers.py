"""Server optimisers: how far, and in which direction, the state follows the mean delta.

State in, state out: what an optimiser remembers of past rounds are moments that the caller
keeps, so a checkpoint holds them and a resumed run continues with the same bits. In all
formulas x is the state, Δ the mean delta of the round, η the learning rate `lr`; operations are
elementwise, in float64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.strategies.aggregators import MeanDelta
from fedpeft_app.strategies.ranges import require_number

Values = npt.NDArray[np.float64]
Moments = Mapping[str, Values]

_VELOCITY, _FIRST, _SECOND = "velocity", "m", "v"


class ServerOptimizer(Protocol):
    """A rule by which the state follows the mean delta."""

    def start(self, size: int) -> Moments:
        """Give the moments before the first round.

        Args:
            size: Number d of values of the state.

        Returns:
            Name → `(d,)`; empty if the rule remembers nothing.
        """
        ...

    def step(
        self, moments: Moments, state: Values, mean_delta: MeanDelta
    ) -> tuple[Values, Moments]:
        """Take the step of one round.

        Args:
            moments: What `start` or the last step gave.
            state: `(d,)`.
            mean_delta: `(d,)`.

        Returns:
            The new state and the new moments. What was given stays as it is.

        Raises:
            ValueError: If the moments are those of another optimiser.
            AdapterMismatchError: If state, mean delta and moments differ in shape.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sgd:
    """v ← β v + Δ, x ← x + η v; with Nesterov's momentum x ← x + η (Δ + β v).

    At the defaults it is FedAvg, bit by bit; with momentum FedAvgM.

    Args:
        lr: η, in (0, inf).
        momentum: β, in [0, 1).
        nesterov: Whether to look one step ahead; needs a momentum.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Hsu et al. 2019, arXiv 1909.06335 (FedAvgM: v ← β v + Δw, w ← w − v, with Δw = −Δ).
    """

    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        require_number("lr", self.lr, 0, math.inf, or_low=False)
        require_number("momentum", self.momentum, 0, 1)
        if not isinstance(self.nesterov, bool) or (self.nesterov and not self.momentum):
            raise ValueError(
                f"Expected nesterov to be true or false, and a momentum in (0, 1) with it, got "
                f"nesterov={self.nesterov!r} and momentum={self.momentum}."
            )

    def start(self, size: int) -> Moments:
        """Start at rest: v = 0."""
        return {_VELOCITY: np.zeros(size)} if self.momentum else {}

    def step(
        self, moments: Moments, state: Values, mean_delta: MeanDelta
    ) -> tuple[Values, Moments]:
        """Take the step of one round; see `ServerOptimizer`."""
        if not self.momentum:
            require_moments(moments, (), state, mean_delta)
            return state + self.lr * mean_delta, {}
        require_moments(moments, (_VELOCITY,), state, mean_delta)
        velocity = self.momentum * moments[_VELOCITY] + mean_delta
        pull = mean_delta + self.momentum * velocity if self.nesterov else velocity
        return state + self.lr * pull, {_VELOCITY: velocity}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """m ← β₁ m + (1 − β₁) Δ, v ← β₂ v + (1 − β₂) Δ², x ← x + η m / (√v + τ).

    Moments start at m = 0, v = τ², and nothing corrects their bias: this is the paper's
    FedAdam, and not quite Flower's, which does.

    Args:
        lr: η, in (0, inf): about the largest change of a value in one round. The paper tunes
            it and names no default; 0.01 is ours.
        beta1: β₁, in [0, 1).
        beta2: β₂, in [0, 1).
        tau: τ, in (0, inf): deltas well below it are scaled by η / 2τ to η / τ, larger ones
            evened out.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Reddi et al. 2020, arXiv 2003.00295, Algorithm 2.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _require_ranges(self.lr, self.beta1, self.beta2, self.tau)

    def start(self, size: int) -> Moments:
        """Start at m = 0, v = τ²."""
        return _start(size, self.tau)

    def step(
        self, moments: Moments, state: Values, mean_delta: MeanDelta
    ) -> tuple[Values, Moments]:
        """Take the step of one round; see `ServerOptimizer`."""
        return _adaptive_step(
            self,
            moments,
            state,
            mean_delta,
            lambda v, square: self.beta2 * v + (1 - self.beta2) * square,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Yogi:
    """As Adam, but v ← v − (1 − β₂) Δ² sign(v − Δ²): v forgets large deltas slowly.

    Args:
        lr: As Adam's.
        beta1: As Adam's.
        beta2: As Adam's.
        tau: As Adam's.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Reddi et al. 2020, arXiv 2003.00295, Algorithm 2.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _require_ranges(self.lr, self.beta1, self.beta2, self.tau)

    def start(self, size: int) -> Moments:
        """Start at m = 0, v = τ²."""
        return _start(size, self.tau)

    def step(
        self, moments: Moments, state: Values, mean_delta: MeanDelta
    ) -> tuple[Values, Moments]:
        """Take the step of one round; see `ServerOptimizer`."""
        return _adaptive_step(
            self,
            moments,
            state,
            mean_delta,
            lambda v, square: v - (1 - self.beta2) * square * np.sign(v - square),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adagrad:
    """As Adam, but v ← v + Δ²: v only grows, and steps become smaller.

    Args:
        lr: As Adam's.
        beta1: As Adam's, but 0 by default: Adagrad itself has no momentum.
        tau: As Adam's.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Reddi et al. 2020, arXiv 2003.00295, Algorithm 2.
    """

    lr: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _require_ranges(self.lr, self.beta1, 0.0, self.tau)

    def start(self, size: int) -> Moments:
        """Start at m = 0, v = τ²."""
        return _start(size, self.tau)

    def step(
        self, moments: Moments, state: Values, mean_delta: MeanDelta
    ) -> tuple[Values, Moments]:
        """Take the step of one round; see `ServerOptimizer`."""
        return _adaptive_step(self, moments, state, mean_delta, lambda v, square: v + square)


def _start(size: int, tau: float) -> Moments:
    """Give the moments from which the adaptive rules start."""
    return {_FIRST: np.zeros(size), _SECOND: np.full(size, tau**2)}


def _adaptive_step(
    rule: "Adam | Yogi | Adagrad",
    moments: Moments,
    state: Values,
    mean_delta: MeanDelta,
    followed: Callable[[Values, Values], Values],
) -> tuple[Values, Moments]:
    """Take the step that the adaptive rules share.

    Args:
        rule: Whose η, β₁ and τ count.
        moments: As for `ServerOptimizer.step`.
        state: Likewise.
        mean_delta: Likewise.
        followed: (v, Δ²) → the next v: all that the rules differ in.
    """
    require_moments(moments, (_FIRST, _SECOND), state, mean_delta)
    first = rule.beta1 * moments[_FIRST] + (1 - rule.beta1) * mean_delta
    second = followed(moments[_SECOND], mean_delta**2)
    moved = state + rule.lr * first / (np.sqrt(second) + rule.tau)
    return moved, {_FIRST: first, _SECOND: second}


def _require_ranges(lr: float, beta1: float, beta2: float, tau: float) -> None:
    """Refuse arguments of the adaptive rules that are out of range."""
    require_number("lr", lr, 0, math.inf, or_low=False)
    require_number("beta1", beta1, 0, 1)
    require_number("beta2", beta2, 0, 1)
    require_number("tau", tau, 0, math.inf, or_low=False)


def require_moments(
    moments: Moments, names: tuple[str, ...], state: Values, mean_delta: MeanDelta
) -> None:
    """Refuse moments of another optimiser, and shapes that differ: nothing is broadcast.

    Args:
        moments: As for `ServerOptimizer.step`.
        names: The moments that this optimiser has.
        state: As for `ServerOptimizer.step`.
        mean_delta: Likewise.

    Raises:
        ValueError: If the moments have other names.
        AdapterMismatchError: If state, mean delta and moments differ in shape.
    """
    if set(moments) != set(names):
        raise ValueError(
            f"Expected the moments {sorted(names)} of this server optimiser, got "
            f"{sorted(moments)}. Continue a run with the optimiser and options it began with."
        )
    shapes = {"mean delta": mean_delta.shape} | {name: moments[name].shape for name in names}
    if wrong := {name: shape for name, shape in shapes.items() if shape != state.shape}:
        raise AdapterMismatchError(f"Expected the shape {state.shape} of the state, got {wrong}.")
