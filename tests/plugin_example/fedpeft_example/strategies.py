"""A strategy that is a row: which aggregator, which server optimiser."""

from fedpeft_app.strategies.algorithms import Part, server_optimizer
from fedpeft_app.strategies.composition import Composition
from fedpeft_example.aggregators import GeometricMedian


def geomed(passes: int = 8, optimizer: Part = "sgd") -> Composition:
    """Fold by the geometric median (RFA); the arguments come from `strategy.options`."""
    return Composition("geomed", GeometricMedian(passes=passes), server_optimizer(optimizer))
