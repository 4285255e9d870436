"""Names become strategies; what cannot is refused with the reason."""

from typing import Any

import pytest
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from strategy_samples import members, reply_of, state_of

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import ConfigError, UnknownNameError
from fedpeft_app.strategies.catalogue import STRATEGIES, make_strategy, require_one_mean
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.flower import FlowerAdapter


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_every_known_name_becomes_a_strategy(name: str) -> None:
    strategy = make_strategy(name, {})
    assert callable(strategy.configure)
    assert callable(strategy.aggregate)


def test_a_path_leads_to_ones_own_class() -> None:
    assert isinstance(
        make_strategy("fedpeft_app.strategies.composition:Composition", {}), Composition
    )


def test_a_class_of_flowers_is_adapted() -> None:
    made = make_strategy("flwr.serverapp.strategy:FedAdam", {"eta": 0.5}, seed=3)
    assert isinstance(made, FlowerAdapter)


def test_an_unknown_name_is_refused_with_a_hint() -> None:
    with pytest.raises(UnknownNameError, match=r"'fedavgg'.*fedavg.*Did you mean 'fedavg'\?"):
        make_strategy("fedavgg", {})


@pytest.mark.parametrize("name", ["flwr.serverapp.strategy:FedNothing", "no_such_module:FedAvg"])
def test_a_path_that_leads_nowhere_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="cannot be imported"):
        make_strategy(name, {})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedavg", {"eta": 0.1}),
        ("fedavg", {"weights": "loss"}),
        ("fedadam", {"beta1": 1.0}),
        ("fedadam", {"folded_by": "medain"}),
        ("median", {"optimizer": {"lr": 0.1}}),  # of what?
        ("trimmed-mean", {"trim": 0.5}),
        ("flwr.serverapp.strategy:FedAdam", {"etta": 0.1}),
        ("flwr.serverapp.strategy:Strategy", {}),  # abstract
        ("fedpeft_app.strategies.scaffold:Scaffold", {}),  # needs what folds
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        make_strategy(name, options)
    assert raised.value.faults[0].key == "strategy.options"
    assert name in raised.value.faults[0].problem


def test_what_is_no_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match="makes a OrderedDict, which is neither a Flower"):
        make_strategy("collections:OrderedDict", {})


def test_parts_combine_by_options(spec: AdapterSpec, state: AdapterState) -> None:
    folded_by = {"name": "norm-bounded", "max_norm": 1e9, "then": "median"}
    made = make_strategy("fedavgm", {"lr": 0.5, "momentum": 0.0, "folded_by": folded_by})
    replies = [
        reply_of(member, state_of(spec, value), 1)
        for member, value in zip(members(3), (1.0, 4.0, 100.0), strict=True)
    ]
    # The median 4, half of which is added to 0 … 6.
    assert made.aggregate(1, state, replies).vector.tolist() == [2, 3, 4, 5, 6, 7, 8]


OF_ONE_MEAN = (
    *("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"),
    *("fedprox", "fedit", "rolora", "fedsvd"),
)


def refused(name: str, **options: Any) -> bool:
    """Say whether a strategy is of no use where it sees the mean alone."""
    try:
        require_one_mean(name, make_strategy(name, options))
    except ConfigError as error:
        assert f"Use one of: {', '.join(OF_ONE_MEAN)}, and no" in str(error)
        assert error.faults[0].key == "strategy.name"
        return True
    return False


@pytest.mark.parametrize("name", STRATEGIES.builtin)
def test_of_every_strategy_it_is_decided_whether_a_mean_will_do(name: str) -> None:
    assert refused(name) == (name not in OF_ONE_MEAN)


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("FedAvg", False),
        ("FedAdam", False),
        ("FedProx", False),
        ("Krum", True),
        ("FedMedian", True),
        ("FedTrimmedAvg", True),
        ("MultiKrum", True),
        ("Bulyan", True),
    ],
)
def test_of_flowers_own_too(name: str, *, each: bool) -> None:
    options = {"proximal_mu": 0.1} if name == "FedProx" else {}
    assert refused(f"flwr.serverapp.strategy:{name}", **options) == each


def test_what_folds_otherwise_than_by_a_mean_is_no_use_in_any_strategy() -> None:
    assert refused("fedadam", folded_by="median")
    assert not refused("fedadam", folded_by="mean")
    assert not refused("fedpeft_app.strategies.composition:Composition")


def test_a_function_may_wrap_a_strategy_of_flowers() -> None:
    made = make_strategy(f"{__name__}:clipped_and_noised", {"clipping_norm": 2.0})
    assert isinstance(made, FlowerAdapter)


def clipped_and_noised(clipping_norm: float) -> FlowerStrategy:
    """Make what has no arguments that JSON could name."""
    return DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, clipping_norm, 4)
