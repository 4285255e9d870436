"""How long work takes on this machine: two numbers, found from a few pieces of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedpeft_app.forecast.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What passes over batches take.

    Attributes:
        batch_s: Seconds of every batch, however long its examples are, from 0.
        token_s: Seconds of every token, padding included, from 0.
    """

    batch_s: float
    token_s: float

    def seconds(self, work: Work) -> float:
        """Give the seconds of some work."""
        return self.batch_s * work.batches + self.token_s * work.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A piece of work that was done.

    Attributes:
        batches: Forward passes.
        tokens: Of all of them.
        wall_s: Seconds that it took.
        cpu_s: Seconds of processor time, of all threads.
    """

    batches: int
    tokens: int
    wall_s: float
    cpu_s: float


def fitted(pieces: Sequence[Timed], *, cpu: bool = False) -> Rates:
    """Find the rates that come closest to what was measured, each piece counting the same.

    Args:
        pieces: At least one, each with a batch or more.
        cpu: Whether seconds of processor time are meant.

    Returns:
        Rates from 0; where two pieces do not tell batches from tokens, tokens alone cost.
    """
    took = [max(piece.cpu_s if cpu else piece.wall_s, 1e-9) for piece in pieces]
    x = [piece.batches / seconds for piece, seconds in zip(pieces, took, strict=True)]
    y = [piece.tokens / seconds for piece, seconds in zip(pieces, took, strict=True)]
    xx, yy = sum(v * v for v in x), sum(v * v for v in y)
    xy = sum(a * b for a, b in zip(x, y, strict=True))
    determinant = xx * yy - xy * xy
    if determinant > 1e-6 * xx * yy:
        batch_s = (sum(x) * yy - sum(y) * xy) / determinant
        token_s = (sum(y) * xx - sum(x) * xy) / determinant
        if batch_s >= 0 and token_s >= 0:
            return Rates(batch_s=batch_s, token_s=token_s)
        if token_s < 0:
            return Rates(batch_s=sum(x) / xx, token_s=0.0)
    return Rates(batch_s=0.0, token_s=sum(y) / yy)
