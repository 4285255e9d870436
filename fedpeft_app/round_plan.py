"""How the rounds of a run go, as its configuration says it: for the run, and for its forecast."""

import math

from fedpeft_app.assembly import codecs
from fedpeft_app.config import RunConfig
from fedpeft_app.privacy_report import NUMBERS
from fedpeft_app.strategies.broadcast import is_exact
from fedpeft_app.strategies.plan import RoundPlan
from fedpeft_app.strategies.sampling import cohort_size

_BYTES_PER_MIB = 2**20


def round_plan(config: RunConfig, *, experiment: str, personal: bool) -> RoundPlan:
    """Collect how rounds go, in a federation or in its central baseline.

    Args:
        config: The run's configuration.
        experiment: Name under which nodes keep what they keep.
        personal: Whether nodes keep parameters of their own.
    """
    together = config.mode == "federated"
    users = config.privacy.mode == "user"  # the strategy draws the cohort, in secret
    told = together and not users
    uplink, downlink = codecs(config)
    return RoundPlan(
        rounds=config.rounds,
        seed=config.seed,
        fraction_train=config.strategy.fraction_train if told else 1.0,
        fraction_evaluate=config.strategy.fraction_evaluate,
        min_replies=config.strategy.min_replies if told else 1,
        min_nodes=config.strategy.min_nodes if users else 0,
        timeout_s=config.strategy.round_timeout,
        experiment=experiment,
        keeps=personal
        or config.privacy.mode == "sample"
        or not (is_exact(uplink) and is_exact(downlink)),
        personal=personal,
        cohort=config.strategy.cohort if together else "uniform",
        dropout=config.strategy.dropout if together else 0.0,
        over_selection=config.strategy.over_selection if together else 1.0,
        downlink=downlink,
        feedback=config.wire.feedback,
        drawn=not config.method.init_from,
        uplink_budget=math.ceil(config.budget.uplink_mib * _BYTES_PER_MIB) if together else 0,
        budget_s=60.0 * config.budget.minutes,
        retries=config.strategy.retries if told else 0,
        tolerance=config.strategy.quarantine_after if told else 0,
        norm_bound=config.strategy.norm_bound if told else 0.0,
        numbers=NUMBERS[config.privacy.mode],
        chance=users,
    )


def asked(config: RunConfig, nodes: int) -> float:
    """Count the nodes of a round; of a cohort drawn node by node, as many as are expected.

    Args:
        config: The run's configuration.
        nodes: How many there are.
    """
    chosen = config.strategy
    if config.privacy.mode == "user":
        return chosen.fraction_train * nodes
    return cohort_size(nodes, fraction=chosen.fraction_train, minimum=chosen.min_replies)
