"""What protects the examples of one node in one round."""

from dataclasses import dataclass

from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.randomness import Randomness


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """The Gaussian mechanisms of DP-SGD, on sums of clipped gradients.

    Attributes:
        event: Noise, samples and steps as they were written down: what is done is what was spent.
        clipping_norm: C, above 0: what the gradient of one example is shortened to, over all
            tensors that train.
        randomness: Where noise and samples come from.

    Reference:
        Abadi et al. 2016, arXiv 1607.00133, algorithm 1.
    """

    event: Event
    clipping_norm: float
    randomness: Randomness
