"""User level: the mean of what nodes send, in which the part of any one of them drowns.

The server is trusted: it sees every vector, and adds the noise.

References:
    McMahan et al. 2018, arXiv 1710.06963 (clipping users, a fixed denominator).
    Andrew et al. 2021, arXiv 1905.03871 (a clipping norm that follows a quantile).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import PrivacyError
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.randomness import Randomness, Values

_ROUNDING = 2.0**-52  # of each operation on a norm, at most half of it
_COUNT_NOISE = 1 / 20  # of the expected count: Andrew et al. 2021, section 3.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """How the clipping norm C follows the lengths of the vectors, C ← C·exp(−η·(b − γ)).

    b is the share of vectors no longer than C, counted with noise.

    Attributes:
        quantile: γ, the share that is to stay as it is, in (0, 1).
        rate: η, in (0, inf).
    """

    quantile: float
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and 0 < self.rate < math.inf):
            raise PrivacyError(
                f"Expected a quantile in (0, 1) and a rate in (0, inf) for the clipping norm, got "
                f"{self.quantile} and {self.rate}. Correct privacy.clip-quantile or -rate."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyMean:
    """(Σ min(1, C / ‖δ‖)·δ + N(0, (z·C)²)) / (q·N), of a Poisson sample of N users.

    All users weigh the same, and the denominator is the expected size of the sample: nobody
    moves the result by more than C / (q·N), and nobody's presence changes how others count.

    With `follow`, the mechanism counts too: z stands for sum and count together, so the noise on
    the sum is that of z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2), where σ_b = q·N / 20 is that on the count.

    Attributes:
        clipping_norm: C, in (0, inf).
        noise_multiplier: z, in (0, inf).
        sampling: q, in (0, 1].
        users: N, from 1.
        follow: How C changes from one call to the next; None = not at all.

    Raises:
        PrivacyError: If a value is out of its range, or the count alone would take more noise
            than z leaves.
    """

    clipping_norm: float
    noise_multiplier: float
    sampling: float
    users: int
    follow: Follow | None = None

    def __post_init__(self) -> None:
        if not (
            0 < self.clipping_norm < math.inf
            and 0 < self.noise_multiplier < math.inf
            and self.users >= 1
        ):
            raise PrivacyError(
                f"Expected a clipping norm and a noise multiplier in (0, inf), and a user or more, "
                f"got {self.clipping_norm}, {self.noise_multiplier} and {self.users}. Without "
                f"noise, clipping promises nothing."
            )
        if self.follow and self.noise_multiplier >= 2 * self.count_noise:
            raise PrivacyError(
                f"Expected a noise multiplier below {2 * self.count_noise:g}, which is a tenth of "
                f"the {self.expected:g} nodes that a round expects, got {self.noise_multiplier:g}: "
                f"to count how many nodes were clipped would cost more than that. Set "
                f"privacy.clip-quantile = 0, or ask more nodes."
            )

    @property
    def event(self) -> Event:
        """What each call leaves behind."""
        return Event(noise_multiplier=self.noise_multiplier, sampling=self.sampling, steps=1)

    @property
    def expected(self) -> float:
        """The expected size of a sample, q·N."""
        return self.sampling * self.users

    @property
    def count_noise(self) -> float:
        """σ_b, the standard deviation of the noise on a count."""
        return _COUNT_NOISE * self.expected

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise on each value of the sum, z·C or z_Δ·C."""
        precision = self.noise_multiplier**-2
        if self.follow:
            precision -= (2 * self.count_noise) ** -2
        return self.clipping_norm / math.sqrt(precision)

    def __call__(
        self, vectors: Iterable[Vector], size: int, randomness: Randomness
    ) -> tuple[Values, "NoisyMean"]:
        """Take the noisy mean; its event must be on record before.

        Args:
            vectors: One of each user in the sample, `(size,)` each; none is fine. Read once,
                and held one at a time.
            size: Number d of values.
            randomness: Where the noise comes from.

        Returns:
            The mean, `(size,)`, and the mechanism for the next call: itself if C is fixed.

        Raises:
            PrivacyError: If a vector has another size, or is not finite.
        """
        total, centred = np.zeros(size), 0.0
        for vector in vectors:
            if vector.shape != (size,):
                raise PrivacyError(f"Expected vectors of {size} values, got one {vector.shape}.")
            values, whole = clipped(vector, self.clipping_norm)
            total += values
            centred += 0.5 if whole else -0.5  # so that a user counts for no more than 1/2
        total += self.deviation * randomness.normal(size)
        total /= self.expected
        if self.follow is None:
            return total, self
        centred += self.count_noise * float(randomness.normal(1)[0])
        return total, self._following(self.follow, centred / self.expected + 0.5)

    def _following(self, follow: Follow, share: float) -> "NoisyMean":
        """Move C towards the quantile."""
        factor = math.exp(-follow.rate * (share - follow.quantile))
        return replace(self, clipping_norm=self.clipping_norm * factor)


def clipped(vector: Vector, norm: float) -> tuple[Values, bool]:
    """Shorten a vector to a norm; a shorter one stays as it is.

    Args:
        vector: `(d,)`.
        norm: C, in (0, inf).

    Returns:
        The vector in float64, and whether it stayed.

    Raises:
        PrivacyError: If the vector is not finite, so that it has no length.

    Guarantee:
        The result is no longer than C, rounding included: the length is taken for longer than
        any order of adding up d squares could have found it.
    """
    values = vector.astype(np.float64)  # squares of float32 do not fit float32
    length = float(np.linalg.norm(values)) * (1 + (values.size + 8) * _ROUNDING)
    if not math.isfinite(length):
        raise PrivacyError(
            "Expected finite values, got NaN or infinity. Clip only what the guard has admitted."
        )
    if length <= norm:
        return values, True
    values *= norm / length
    return values, False
