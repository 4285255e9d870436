"""A server optimiser: every value moves by the same amount, in the direction of its momentum."""

from dataclasses import dataclass

import numpy as np

from fedpeft_app.strategies.aggregators import MeanDelta
from fedpeft_app.strategies.server_optimizers import Moments, Values, require_moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Lion:
    """x ← x + η sign(β₁ m + (1 − β₁) Δ), m ← β₂ m + (1 − β₂) Δ.

    Reference:
        Chen et al. 2023, arXiv 2302.06675, Algorithm 2, without weight decay.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99

    def start(self, size: int) -> Moments:
        """Start at m = 0."""
        return {"m": np.zeros(size)}

    def step(
        self, moments: Moments, state: Values, mean_delta: MeanDelta
    ) -> tuple[Values, Moments]:
        """Take the step of one round."""
        require_moments(moments, ("m",), state, mean_delta)
        pull = self.beta1 * moments["m"] + (1 - self.beta1) * mean_delta
        momentum = self.beta2 * moments["m"] + (1 - self.beta2) * mean_delta
        return state + self.lr * np.sign(pull), {"m": momentum}
