"""Rules that join several keys: combinations that are refused before a run, and why."""

from collections.abc import Collection, Iterator, Mapping

from fedpeft_app.config.privacy_checks import RULES as PRIVACY_RULES
from fedpeft_app.config.privacy_checks import Rule
from fedpeft_app.config.readings import needed_precision, planned_ranks
from fedpeft_app.config.schema import RunConfig
from fedpeft_app.errors import Fault


def cross_section_faults(config: RunConfig, unsure: Collection[str] = ()) -> list[Fault]:
    """List every combination of sound values that makes no sense together.

    Args:
        config: The configuration, sound key by key.
        unsure: Keys whose given value was refused, so that `config` has their default: rules
            that read one of them say nothing, for they would judge what nobody asked for.
    """
    return [
        fault
        for keys, rule in (*_RULES, *PRIVACY_RULES)
        if not any(key in unsure for key in keys)
        for fault in rule(config)
    ]


def _natural_needs_a_column(config: RunConfig) -> Iterator[Fault]:
    if config.data.partitioner == "natural" and not config.data.partition_column:
        yield Fault(
            key="data.partition-column",
            value=config.data.partition_column,
            problem="data.partitioner = 'natural' needs the column whose values are the nodes.",
        )


def _a_column_of_nodes_is_read(config: RunConfig) -> Iterator[Fault]:
    if config.data.partition_column and config.data.partitioner != "natural":
        yield Fault(
            key="data.partition-column",
            value=config.data.partition_column,
            problem=f"data.partitioner = '{config.data.partitioner}' does not read it. "
            f"Use 'natural', or leave it empty.",
        )


def _evaluation_needs_held_out_data(config: RunConfig) -> Iterator[Fault]:
    if config.strategy.fraction_evaluate > 0 and config.data.node_validation_fraction == 0:
        yield Fault(
            key="data.node-validation-fraction",
            value=config.data.node_validation_fraction,
            problem="strategy.fraction-evaluate > 0 evaluates on data that nodes hold out; "
            "set a share above 0.",
        )


def _replies_come_from_nodes(config: RunConfig) -> Iterator[Fault]:
    strategy = config.strategy
    if strategy.min_replies > strategy.min_nodes:
        yield Fault(
            key="strategy.min-replies",
            value=strategy.min_replies,
            problem=f"must not exceed strategy.min-nodes = {strategy.min_nodes}.",
        )


def _local_needs_a_judge(config: RunConfig) -> Iterator[Fault]:
    if config.mode == "local" and not config.evaluate.server:
        yield Fault(
            key="evaluate.server",
            value=False,
            problem="mode = 'local' compares clients on the server's test set, so it needs one.",
        )


def _alone_means_no_rounds(config: RunConfig) -> Iterator[Fault]:
    if config.mode == "local" and config.strategy.fraction_evaluate > 0:
        yield Fault(
            key="strategy.fraction-evaluate",
            value=config.strategy.fraction_evaluate,
            problem="mode = 'local' has no rounds after which nodes could evaluate, the server "
            "judges them; set it to 0.",
        )


def _half_base_needs_its_own_precision(config: RunConfig) -> Iterator[Fault]:
    needed = needed_precision(config.model.dtype)
    if needed and config.train.precision not in ("auto", needed):
        yield Fault(
            key="train.precision",
            value=config.train.precision,
            problem=f"model.dtype = '{config.model.dtype}' runs under '{needed}' or 'auto' only: "
            f"adapters are float32 on a half-precision model.",
        )


def _what_is_personal_stays_on_nodes(config: RunConfig) -> Iterator[Fault]:
    if config.method.head == "personal":
        key, value, lacking = "method.head", "personal", "head"
    elif config.method.name in _WITH_PERSONAL_PARTS:
        key, value, lacking = "method.name", config.method.name, "adapter"
    else:
        return
    why = f"{key} = '{value}' leaves the server without a trained {lacking}"
    if config.privacy.mode != "none":
        problem = f"{why}, and under privacy.mode = '{config.privacy.mode}' nodes do not tell how "
        problem += "they do with theirs, so nobody could judge. Use another."
        yield Fault(key=key, value=value, problem=problem)
        return
    if config.mode != "federated":
        problem = f"{why}, and mode = '{config.mode}' judges there. Use another."
        yield Fault(key=key, value=value, problem=problem)
        return
    if config.evaluate.server:
        problem = f"{why} to judge with; set it to false."
        yield Fault(key="evaluate.server", value=True, problem=problem)
    if config.strategy.fraction_evaluate == 0:
        problem = f"{why}; set it above 0, so that nodes judge on what they hold out."
        yield Fault(key="strategy.fraction-evaluate", value=0.0, problem=problem)


def _something_travels(config: RunConfig) -> Iterator[Fault]:
    if config.method.name == "head" and config.method.head != "train":
        yield Fault(
            key="method.head",
            value=config.method.head,
            problem="method.name = 'head' sends the head and nothing else. Use 'train'.",
        )


def _quantized_weights_stay_frozen(config: RunConfig) -> Iterator[Fault]:
    if config.model.quantization != "none" and config.method.name in ("full", "pissa", "olora"):
        yield Fault(
            key="model.quantization",
            value=config.model.quantization,
            problem=f"method.name = '{config.method.name}' changes the model's own weights, "
            f"which cannot be done in {config.model.quantization}. Use 'none'.",
        )


def _steps_for_oneself_are_judged(config: RunConfig) -> Iterator[Fault]:
    if config.evaluate.personal_steps and config.strategy.fraction_evaluate == 0:
        problem = "only nodes take them, before they evaluate; set "
        private = config.privacy.mode != "none"  # then they never do
        problem += "it to 0." if private else "strategy.fraction-evaluate above 0."
        steps = config.evaluate.personal_steps
        yield Fault(key="evaluate.personal-steps", value=steps, problem=problem)


def _ranks_of_nodes_are_ranks(config: RunConfig) -> Iterator[Fault]:
    try:
        ranks = planned_ranks(config.method.node_ranks, config.method.rank)
    except ValueError as error:
        problem = f"must be whole numbers between commas, none above method.rank ({error})."
        yield Fault(key="method.node-ranks", value=config.method.node_ranks, problem=problem)
        return
    if any(rank != config.method.rank for rank in ranks) and _loses(config.wire.downlink):
        yield Fault(
            key="wire.downlink",
            value=config.wire.downlink,
            problem="brings all nodes from one state to the next, but method.node-ranks gives "
            "nodes states of their own. Use 'float32'.",
        )


def _feedback_keeps_its_meaning(config: RunConfig) -> Iterator[Fault]:
    wire, turning = config.wire, _TURNING.get(config.strategy.name, ())
    lossy = [way for way in turning if _loses(getattr(wire, way))]
    if wire.feedback and lossy:
        yield Fault(
            key="wire.feedback",
            value=True,
            problem=f"strategy.name = '{config.strategy.name}' gives factors a new basis in "
            f"every round, in which what the {lossy[0]} left out before means nothing. Set it to "
            f"false, or use 'float32'.",
        )
    if turning and wire.downlink.startswith(_SPARSE):
        yield Fault(
            key="wire.downlink",
            value=wire.downlink,
            problem=f"strategy.name = '{config.strategy.name}' gives factors a new basis in "
            f"every round, most of which this leaves out. Use it for the uplink alone.",
        )


def _a_reserve_is_there(config: RunConfig) -> Iterator[Fault]:
    if config.strategy.over_selection > 1 and config.strategy.fraction_train == 1:
        yield Fault(
            key="strategy.over-selection",
            value=config.strategy.over_selection,
            problem="strategy.fraction-train = 1 asks every node already; lower that.",
        )


def _patience_sees_something(config: RunConfig) -> Iterator[Fault]:
    evaluate = config.evaluate
    by_server = evaluate.server and evaluate.every > 0 and config.data.validation_fraction > 0
    if config.budget.patience and not by_server and config.strategy.fraction_evaluate == 0:
        yield Fault(
            key="budget.patience",
            value=config.budget.patience,
            problem="nothing tells rounds apart: set evaluate.server, evaluate.every and "
            "data.validation-fraction, or strategy.fraction-evaluate above 0.",
        )


def _ranks_can_be_cut(config: RunConfig) -> Iterator[Fault]:
    if config.method.node_ranks and config.method.name in _STARTED_FROM_FACTORS:
        yield Fault(
            key="method.node-ranks",
            value=config.method.node_ranks,
            problem=f"method.name = '{config.method.name}' sets out from factors that are not "
            f"zero, of which a lower rank would lack a part. Use 'lora'.",
        )


def _loses(codec: str) -> bool:
    return codec not in ("float32", "float32+zstd")


_WITH_PERSONAL_PARTS = ("lora-sa",)
_STARTED_FROM_FACTORS = ("pissa", "olora", "lora-orthogonal")
_SPARSE = ("topk", "threshold")
_BOTH_WAYS = ("uplink", "downlink")
_TURNING: Mapping[str, tuple[str, ...]] = {  # strategy → ways on which a basis changes
    "flexlora": _BOTH_WAYS,
    "fedsvd": _BOTH_WAYS,
    "flora": _BOTH_WAYS,
    "fedex": ("downlink",),  # that of its residual
}
_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (  # the keys a rule reads, the rule
    (("data.partitioner", "data.partition-column"), _natural_needs_a_column),
    (("data.partitioner", "data.partition-column"), _a_column_of_nodes_is_read),
    (
        ("strategy.fraction-evaluate", "data.node-validation-fraction"),
        _evaluation_needs_held_out_data,
    ),
    (("strategy.min-replies", "strategy.min-nodes"), _replies_come_from_nodes),
    (("mode", "evaluate.server"), _local_needs_a_judge),
    (("mode", "strategy.fraction-evaluate"), _alone_means_no_rounds),
    (("model.dtype", "train.precision"), _half_base_needs_its_own_precision),
    (
        (
            *("method.head", "method.name", "mode", "privacy.mode"),
            *("evaluate.server", "strategy.fraction-evaluate"),
        ),
        _what_is_personal_stays_on_nodes,
    ),
    (("method.name", "method.head"), _something_travels),
    (("method.node-ranks", "method.rank", "wire.downlink"), _ranks_of_nodes_are_ranks),
    (
        ("strategy.name", "wire.uplink", "wire.downlink", "wire.feedback"),
        _feedback_keeps_its_meaning,
    ),
    (("strategy.over-selection", "strategy.fraction-train"), _a_reserve_is_there),
    (("method.node-ranks", "method.name"), _ranks_can_be_cut),
    (
        (
            *("budget.patience", "evaluate.server", "evaluate.every"),
            *("data.validation-fraction", "strategy.fraction-evaluate"),
        ),
        _patience_sees_something,
    ),
    (("model.quantization", "method.name"), _quantized_weights_stay_frozen),
    (
        ("evaluate.personal-steps", "strategy.fraction-evaluate", "privacy.mode"),
        _steps_for_oneself_are_judged,
    ),
)
