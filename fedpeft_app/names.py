"""Which configuration keys hold plug-in names, and what they may be. Imports nothing heavy."""

from collections.abc import Mapping

from fedpeft_app.config.flat import NameCheck
from fedpeft_app.data.catalogue import PARTITIONERS
from fedpeft_app.data.tasks.catalogue import TASKS
from fedpeft_app.methods.catalogue import METHODS, check_method
from fedpeft_app.observe.observers.catalogue import check_observers
from fedpeft_app.registry import Registry
from fedpeft_app.strategies.catalogue import STRATEGIES
from fedpeft_app.strategies.sampling import COHORTS
from fedpeft_app.wire.catalogue import parse_codec

REGISTRIES: Mapping[str, Registry] = {
    "task": TASKS,
    "method.name": METHODS,
    "data.partitioner": PARTITIONERS,
    "strategy.name": STRATEGIES,
    "strategy.cohort": COHORTS,
}

NAME_CHECKS: Mapping[str, NameCheck] = {
    **{key: registry.target for key, registry in REGISTRIES.items()},
    "method.name": check_method,
    "wire.uplink": parse_codec,
    "wire.downlink": parse_codec,
    "observe.to": check_observers,
}
