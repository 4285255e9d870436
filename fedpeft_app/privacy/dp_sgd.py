"""One step of DP-SGD: shorten each example's gradient, add all up, add noise, divide.

Opacus' DPOptimizer is not used. Its norms have the gradients' own precision and its factors
float32, so that contributions may come out longer than C; the gradient of an example that is not
finite it takes as it is; and its noise is torch's. Here everything from the norm to the sum with
noise is float64, and C is kept with a margin for the rounding of the sum.

Not covered: in float32, how many others share a batch may change the last bits of an example's
gradient (some 10⁻⁷ of it each), as it does wherever matrices are multiplied in floating point.
How long they are does not (`training.batches`).

Reference:
    Abadi et al. 2016, arXiv 1607.00133, algorithm 1.
"""

from collections.abc import Iterator, Sequence

import torch

from fedpeft_app.privacy.mechanism import Mechanism

_BELOW = 1.0 - 1e-6  # of C: keeps rounded contributions, and a rounded sum of 10⁴ of them, within
_CACHED = 2**18  # float64 values at a time that a processor's cache holds: ten times as fast
_HELD = 2**24  # and elsewhere, for memory


class NoisySum:
    """The sum of what a sample of examples contributes, which is seen with noise only.

    Args:
        parameters: All tensors that train, which gradients are clipped over together.
        mechanism: Clipping norm and noise.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], mechanism: Mechanism) -> None:
        self._parameters = parameters
        self._mechanism = mechanism
        self._sums = self._zeros()

    def add(self, rows: Sequence[torch.Tensor]) -> None:
        """Add examples, each shortened to the clipping norm where it is longer.

        Args:
            rows: Gradients of each example for every tensor, `(batch, *shape)`. That of an
                example which is not finite counts as zero: to fail would tell of it.
        """
        factors = shortening(rows, self._mechanism.clipping_norm)
        for total, tensor in zip(self._sums, rows, strict=True):
            flat = total.view(-1)
            for at, piece in _pieces(tensor):
                flat[at : at + piece.shape[1]] += factors @ piece.nan_to_num(0.0, 0.0, 0.0)

    def release(self, expected: float) -> None:
        """Give the parameters their gradients, (sum + noise) / expected, and forget the sum.

        Args:
            expected: Examples that a sample has on average, above 0: fixed, for how many this
                one had is not public.
        """
        noise = self._noise()
        for parameter, total, added in zip(self._parameters, self._sums, noise, strict=True):
            parameter.grad = ((total + added) / expected).to(parameter.dtype)
        self._sums = self._zeros()

    def _noise(self) -> list[torch.Tensor]:
        """Draw noise for every tensor."""
        deviation = self._mechanism.event.noise_multiplier * self._mechanism.clipping_norm
        if deviation == 0.0:
            return self._zeros()
        sizes = [parameter.numel() for parameter in self._parameters]
        drawn = torch.from_numpy(self._mechanism.randomness.normal(sum(sizes)) * deviation)
        return [
            part.view(parameter.shape).to(parameter.device)
            for part, parameter in zip(torch.split(drawn, sizes), self._parameters, strict=True)
        ]

    def _zeros(self) -> list[torch.Tensor]:
        """Make an empty sum."""
        return [torch.zeros_like(value, dtype=torch.float64) for value in self._parameters]


def shortening(rows: Sequence[torch.Tensor], norm: float) -> torch.Tensor:
    """Give the factors that bring gradients within a norm.

    Args:
        rows: Gradients of each example for every tensor, `(batch, *shape)`; at least one tensor.
        norm: C, above 0, over all tensors together.

    Returns:
        `(batch,)`, float64, in [0, 1]: 1 for a gradient that is short enough, and 0 for one
        that is not finite.

    Guarantee:
        A factor times its gradient is never longer than C.
    """
    squares = [piece.square().sum(dim=1) for tensor in rows for _, piece in _pieces(tensor)]
    norms = torch.stack(squares).sum(dim=0).sqrt()
    return torch.where(norms.isfinite(), (norm * _BELOW / norms).clamp(max=1.0), 0.0)


def _pieces(rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Cut `(batch, *shape)` into float64 columns, and say where each begins."""
    flat = rows.flatten(1) if rows.dim() > 1 else rows.unsqueeze(1)
    most = _CACHED if rows.device.type == "cpu" else _HELD
    width = max(1, most // len(flat))
    for at in range(0, flat.shape[1], width):
        yield at, flat[:, at : at + width].double()
