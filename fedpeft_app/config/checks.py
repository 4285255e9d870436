"""Rules that join several keys: combinations that are refused before a run, and why."""

from collections.abc import Iterator

from fedpeft_app.config.schema import RunConfig
from fedpeft_app.errors import Fault


def cross_section_faults(config: RunConfig) -> list[Fault]:
    """List every combination of sound values that makes no sense together."""
    return [*_data_faults(config), *_strategy_faults(config)]


def _data_faults(config: RunConfig) -> Iterator[Fault]:
    data = config.data
    if data.partitioner == "natural" and not data.partition_column:
        yield Fault(
            key="data.partition-column",
            value=data.partition_column,
            problem="data.partitioner = 'natural' needs the column whose values are the nodes.",
        )
    if config.strategy.fraction_evaluate > 0 and data.node_validation_fraction == 0:
        yield Fault(
            key="data.node-validation-fraction",
            value=data.node_validation_fraction,
            problem="strategy.fraction-evaluate > 0 evaluates on data that nodes hold out; "
            "set a share above 0.",
        )


def _strategy_faults(config: RunConfig) -> Iterator[Fault]:
    strategy = config.strategy
    if strategy.min_replies > strategy.min_nodes:
        yield Fault(
            key="strategy.min-replies",
            value=strategy.min_replies,
            problem=f"must not exceed strategy.min-nodes = {strategy.min_nodes}.",
        )
    if config.mode == "local" and not config.evaluate.server:
        yield Fault(
            key="evaluate.server",
            value=False,
            problem="mode = 'local' compares clients on the server's test set, so it needs one.",
        )
