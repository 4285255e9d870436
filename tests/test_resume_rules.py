"""Which settings a run that goes on may change."""

import pytest

from fedpeft_app.config import defaults
from fedpeft_app.config.flat import fields
from fedpeft_app.errors import ConfigError
from fedpeft_app.resume import FREE, require_same_experiment


def test_what_is_free_exists() -> None:
    assert set(fields()) >= FREE


@pytest.mark.parametrize("key", sorted(FREE))
def test_what_neither_trains_nor_promises_may_change(key: str) -> None:
    require_same_experiment({**defaults(), key: "before"}, {**defaults(), key: "after"})


@pytest.mark.parametrize("key", sorted(set(defaults()) - FREE - {"mode"}))
def test_everything_else_may_not(key: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        require_same_experiment({**defaults(), key: "before"}, {**defaults(), key: "after"})
    (fault,) = refusal.value.faults
    assert (fault.key, fault.value) == (key, "after")
    assert 'the run began with "before"' in fault.problem


def test_a_key_that_a_later_version_has_added_is_no_difference() -> None:
    began = {key: value for key, value in defaults().items() if key != "wire.feedback"}
    require_same_experiment(began, defaults())


def test_nodes_that_train_in_one_go_have_nothing_to_go_on_from() -> None:
    local = {**defaults(), "mode": "local", "resume": "latest"}
    with pytest.raises(ConfigError, match="resume = 'latest': nodes train all rounds in one go"):
        require_same_experiment(local, local)
