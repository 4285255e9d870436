"""The strategies that are built in, and how a name becomes one."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedpeft_app.errors import ConfigError, Fault, UnknownNameError
from fedpeft_app.registry import Registry
from fedpeft_app.strategies.flower import FlowerAdapter
from fedpeft_app.strategies.strategy import Strategy, needs_each

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
        "fedprox": f"{_HERE}:fedprox",
        "scaffold": f"{_HERE}:scaffold",
        "fedit": f"{_HERE}:fedit",
        "rolora": f"{_HERE}:rolora",
        "flexlora": f"{_HERE}:flexlora",
        "fedsvd": f"{_HERE}:fedsvd",
        "lora-fair": f"{_HERE}:lora_fair",
        "hetlora": f"{_HERE}:hetlora",
        "fedex": f"{_HERE}:fedex",
        "flora": f"{_HERE}:flora",
    },
)


_METHODS = ("prepare", "configure", "aggregate")


def make_strategy(name: str, options: Mapping[str, Any], seed: int = 0) -> Strategy:
    """Build a strategy from its name and options.

    Args:
        name: A known name, or "package.module:Class"; a strategy of Flower's is adapted.
        options: Keyword arguments of its constructor.
        seed: The run's seed, for Flower strategies that sample, and those that take a `seed`.

    Raises:
        UnknownNameError: If there is no such strategy.
        ConfigError: If the options do not suit it, or what it makes is no strategy.
    """
    factory = STRATEGIES.get(name)
    seeded = {"seed": seed} if "seed" in _parameters(factory) else {}
    try:
        made = factory(**{**seeded, **options})
    except (TypeError, ValueError, UnknownNameError) as error:
        fault = Fault(key="strategy.options", value=dict(options), problem=f"{name}: {error}")
        raise ConfigError([fault]) from error
    if isinstance(made, FlowerStrategy):
        return FlowerAdapter(made, seed)
    if lacking := [one for one in _METHODS if not callable(getattr(made, one, None))]:
        problem = (
            f"makes a {type(made).__name__}, which is neither a Flower strategy nor has the "
            f"method{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}."
        )
        raise ConfigError([Fault(key="strategy.name", value=name, problem=problem)])
    strategy: Strategy = made
    return strategy


def require_one_mean(name: str, strategy: Strategy) -> None:
    """Refuse a strategy to which noise on the mean alone is of no use.

    Args:
        name: How it was chosen.
        strategy: What that has become.

    Raises:
        ConfigError: If it looks at what each node sent; names those that do not.
    """
    if needs_each(strategy):
        others = [one for one in STRATEGIES.builtin if not needs_each(make_strategy(one, {}))]
        problem = (
            f"looks at what each node sent, but privacy.mode = 'user' has noise for the sum alone. "
            f"Use one of: {', '.join(others)}, and no 'folded_by' in strategy.options."
        )
        raise ConfigError([Fault(key="strategy.name", value=name, problem=problem)])


def _parameters(factory: Any) -> Collection[str]:
    """Name the arguments of whatever makes a strategy."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some callables of C have none to look at
        return ()
