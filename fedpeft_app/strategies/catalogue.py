"""The strategies that are built in, and how a name becomes one."""

import inspect
from collections.abc import Mapping
from typing import Any

from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedpeft_app.errors import ConfigError, Fault, UnknownNameError
from fedpeft_app.registry import Registry
from fedpeft_app.strategies.flower import FlowerAdapter
from fedpeft_app.strategies.strategy import Strategy

_HERE = "fedpeft_app.strategies.algorithms"
STRATEGIES = Registry(
    kind="strategy",
    group="fedpeft.strategies",
    builtin={
        "fedavg": f"{_HERE}:fedavg",
        "fedavgm": f"{_HERE}:fedavgm",
        "fedadam": f"{_HERE}:fedadam",
        "fedyogi": f"{_HERE}:fedyogi",
        "fedadagrad": f"{_HERE}:fedadagrad",
        "median": f"{_HERE}:median",
        "trimmed-mean": f"{_HERE}:trimmed_mean",
        "krum": f"{_HERE}:krum",
        "multi-krum": f"{_HERE}:multi_krum",
        "norm-bounded": f"{_HERE}:norm_bounded",
    },
)


def make_strategy(name: str, options: Mapping[str, Any], seed: int = 0) -> Strategy:
    """Build a strategy from its name and options.

    Args:
        name: A known name, or "package.module:Class"; a class of Flower's is adapted.
        options: Keyword arguments of its constructor.
        seed: The run's seed, for Flower strategies that sample.

    Raises:
        UnknownNameError: If there is no such strategy.
        ConfigError: If the options do not suit it, or what it makes is no strategy.
    """
    factory = STRATEGIES.get(name)
    flower = inspect.isclass(factory) and issubclass(factory, FlowerStrategy)
    try:
        made = factory(**options)
    except (TypeError, ValueError, UnknownNameError) as error:
        fault = Fault(key="strategy.options", value=dict(options), problem=f"{name}: {error}")
        raise ConfigError([fault]) from error
    if flower:
        return FlowerAdapter(made, seed)
    if not (hasattr(made, "configure") and hasattr(made, "aggregate")):
        problem = (
            f"makes a {type(made).__name__}, which is neither a Flower strategy nor has the "
            f"methods configure and aggregate."
        )
        raise ConfigError([Fault(key="strategy.name", value=name, problem=problem)])
    strategy: Strategy = made
    return strategy
