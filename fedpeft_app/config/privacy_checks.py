"""Combinations that would break a privacy guarantee, or state one that is none."""

from collections.abc import Callable, Iterator

from fedpeft_app.config.schema import PrivacySection, RunConfig
from fedpeft_app.errors import Fault

Rule = Callable[[RunConfig], Iterator[Fault]]

_USER_ONLY = ("trust", "clip_quantile", "clip_rate")


def _privacy_is_asked_for(config: RunConfig) -> Iterator[Fault]:
    default = PrivacySection()
    if config.privacy.mode == "none" and config.privacy != default:
        changed = next(
            name
            for name in type(default).model_fields
            if getattr(config.privacy, name) != getattr(default, name)
        )
        yield Fault(
            key="privacy.mode",
            value="none",
            problem=f"{_key(changed)} is set, but nothing is protected. Use 'sample' or 'user'.",
        )


def _noise_has_a_size(config: RunConfig) -> Iterator[Fault]:
    privacy = config.privacy
    if privacy.mode != "none" and not (privacy.target_epsilon or privacy.noise_multiplier):
        yield Fault(
            key="privacy.target-epsilon",
            value=0.0,
            problem="without it or privacy.noise-multiplier there is no noise, and no privacy; "
            "set one of them.",
        )


def _trust_is_said(config: RunConfig) -> Iterator[Fault]:
    privacy = config.privacy
    if privacy.mode == "user" and privacy.trust != "server":
        yield Fault(
            key="privacy.trust",
            value=privacy.trust,
            problem="privacy.mode = 'user' adds noise on the server, which sees what nodes send "
            "before that. If you can trust it, set 'server'; if not, use 'sample'.",
        )


def _what_users_alone_have(config: RunConfig) -> Iterator[Fault]:
    if config.privacy.mode != "sample":
        return
    default = PrivacySection()
    for name in _USER_ONLY:
        value = getattr(config.privacy, name)
        if value != getattr(default, name):
            problem = "is read by privacy.mode = 'user' only; leave it out."
            yield Fault(key=_key(name), value=value, problem=problem)


def _nodes_do_not_tell(config: RunConfig) -> Iterator[Fault]:
    if config.privacy.mode != "none" and config.strategy.fraction_evaluate > 0:
        yield Fault(
            key="strategy.fraction-evaluate",
            value=config.strategy.fraction_evaluate,
            problem="what nodes measure on their own data leaves them without noise; set it to 0, "
            "and let the server judge (evaluate.server).",
        )


def _labels_are_no_secret(config: RunConfig) -> Iterator[Fault]:
    hidden = config.privacy.mode != "none" and config.task != "causal-lm"
    if hidden and not config.evaluate.server and not config.data.labels:
        yield Fault(
            key="data.labels",
            value="",
            problem="nodes would tell which labels their data have; name all labels.",
        )


def _controls_are_gradients(config: RunConfig) -> Iterator[Fault]:
    if config.privacy.mode != "none" and config.strategy.name == "scaffold":
        yield Fault(
            key="strategy.name",
            value="scaffold",
            problem="sends control variates, which are gradients without noise. Use 'fedprox'.",
        )


def _cohorts_are_drawn_in_secret(config: RunConfig) -> Iterator[Fault]:
    privacy, strategy = config.privacy, config.strategy
    if privacy.mode == "user" and strategy.cohort != "uniform":
        yield Fault(
            key="strategy.cohort",
            value=strategy.cohort,
            problem="privacy.mode = 'user' draws each node by itself with probability "
            "strategy.fraction-train, which its ε relies on. Leave it at 'uniform'.",
        )
    if privacy.mode == "user" and strategy.over_selection > 1:
        yield Fault(
            key="strategy.over-selection",
            value=strategy.over_selection,
            problem="the fastest of a cohort are no random sample, on which ε relies; set it to 1.",
        )


def _bytes_end_no_run(config: RunConfig) -> Iterator[Fault]:
    if config.privacy.mode == "user" and config.budget.uplink_mib:
        yield Fault(
            key="budget.uplink-mib",
            value=config.budget.uplink_mib,
            problem="the round in which a run ends would tell how many nodes were drawn, which "
            "privacy.mode = 'user' keeps secret; set it to 0.",
        )


def _counts_are_known_where_they_matter(config: RunConfig) -> Iterator[Fault]:
    hidden = config.privacy.mode == "sample" and not config.privacy.public_counts
    if hidden and config.strategy.cohort == "by-examples":
        problem = "nodes do not tell how many examples they hold; set privacy.public-counts."
        yield Fault(key="strategy.cohort", value=config.strategy.cohort, problem=problem)


def _users_count_alike(config: RunConfig) -> Iterator[Fault]:
    if config.privacy.mode != "user":
        return
    if config.privacy.public_counts:
        problem = "privacy.mode = 'user' weighs all nodes alike; set it to false."
        yield Fault(key="privacy.public-counts", value=True, problem=problem)
    if config.method.node_ranks:
        problem = "privacy.mode = 'user' clips one kind of delta; leave it empty."
        yield Fault(key="method.node-ranks", value=config.method.node_ranks, problem=problem)
    if config.mode != "federated":
        problem = f"mode = '{config.mode}' has no cohort of users. Use 'sample'."
        yield Fault(key="privacy.mode", value="user", problem=problem)


def _gradients_come_one_by_one(config: RunConfig) -> Iterator[Fault]:
    if config.privacy.mode != "sample":
        return
    for key, value in (
        ("train.precision", config.train.precision),
        ("model.dtype", config.model.dtype),
    ):
        if value in ("fp16", "float16"):
            problem = "scales losses, so that gradients overflow now and then, for which DP-SGD "
            problem += "has no place. Use bf16 or fp32."
            yield Fault(key=key, value=value, problem=problem)
    if config.train.gradient_checkpointing:
        problem = "hides activations from which each example's gradient is made. Set it to false; "
        problem += "a smaller train.batch-size with train.gradient-accumulation saves memory too."
        yield Fault(key="train.gradient-checkpointing", value=True, problem=problem)


def _key(field: str) -> str:
    """Name a field of the section as users do."""
    return f"privacy.{field.replace('_', '-')}"


_KEYS = tuple(f"privacy.{name.replace('_', '-')}" for name in PrivacySection.model_fields)
RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (  # the keys a rule reads, the rule
    (_KEYS, _privacy_is_asked_for),
    (
        ("privacy.mode", "privacy.target-epsilon", "privacy.noise-multiplier"),
        _noise_has_a_size,
    ),
    (("privacy.mode", "privacy.trust"), _trust_is_said),
    (_KEYS, _what_users_alone_have),
    (("privacy.mode", "strategy.fraction-evaluate"), _nodes_do_not_tell),
    (("privacy.mode", "task", "evaluate.server", "data.labels"), _labels_are_no_secret),
    (("privacy.mode", "strategy.name"), _controls_are_gradients),
    (
        ("privacy.mode", "strategy.cohort", "strategy.over-selection"),
        _cohorts_are_drawn_in_secret,
    ),
    (("privacy.mode", "budget.uplink-mib"), _bytes_end_no_run),
    (
        ("privacy.mode", "privacy.public-counts", "strategy.cohort"),
        _counts_are_known_where_they_matter,
    ),
    (("privacy.mode", "privacy.public-counts", "method.node-ranks", "mode"), _users_count_alike),
    (
        ("privacy.mode", "train.precision", "model.dtype", "train.gradient-checkpointing"),
        _gradients_come_one_by_one,
    ),
)
