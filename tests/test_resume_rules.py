"""Which settings a run that goes on may change."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.config import RunConfig, defaults, flatten, parse
from fedpeft_app.config.flat import fields
from fedpeft_app.coordinator import coordinate
from fedpeft_app.environment import software
from fedpeft_app.errors import ConfigError
from fedpeft_app.resume import (
    FREE,
    find_resumed,
    made,
    require_made,
    require_same_experiment,
    take_up,
)
from fedpeft_app.runs.checkpoint import Checkpoint, kept_rounds
from fedpeft_app.runs.directory import RunFolder, create_run, runs_parent
from fedpeft_app.snapshot import Snapshot


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


BEGAN = {"rounds": 12, "output.keep": "all", "budget.minutes": 500.0, "train.learning-rate": 0.125}


@pytest.fixture
def began(own_home: Path) -> RunFolder:
    """A run that began with a few settings of its own."""
    return create_run(runs_parent(), "run", run_id=7, config=flatten(parse(BEGAN)))


def resuming(folder: RunFolder, **settings: Any) -> RunConfig:
    """Give the configuration that Flower makes of what was said."""
    return parse({**settings, "resume": folder.path.name})


SAID = {"rounds": 12, "train.learning-rate": 0.125}  # what nodes read


def test_what_only_the_server_reads_need_not_be_said_again(began: RunFolder) -> None:
    folder, config = take_up(resuming(began, **SAID))
    assert folder == began
    assert flatten(config) == {**began.config(), "resume": began.path.name}


def test_what_is_said_of_free_keys_counts(began: RunFolder) -> None:
    _, config = take_up(resuming(began, **{**SAID, "rounds": 20, "output.keep": "last:3"}))
    assert (config.rounds, config.output.keep, config.budget.minutes) == (20, "last:3", 500.0)


def test_what_nodes_would_not_know_must_be_said_again(began: RunFolder) -> None:
    with pytest.raises(ConfigError) as refusal:
        take_up(resuming(began))
    faults = refusal.value.faults
    assert [fault.key for fault in faults] == ["rounds", "train.learning-rate"]
    assert faults[-1].problem.endswith("began, add: rounds=12 train.learning-rate=0.125")


def test_another_experiment_is_refused_however_it_is_started(began: RunFolder) -> None:
    with pytest.raises(ConfigError) as refusal:
        take_up(resuming(began, **{**SAID, "seed": 5}))
    assert [fault.key for fault in refusal.value.faults] == ["seed"]


def test_where_every_key_is_said_a_default_is_a_wish(
    began: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPEFT_LAUNCHER", "1")
    wish = resuming(began, **{**began.config(), "rounds": defaults()["rounds"]})
    assert take_up(wish) == (began, wish)
    assert find_resumed(wish) == began


@pytest.fixture
def checkpoint(state: AdapterState) -> Checkpoint:
    """A round of that run."""
    progress = Snapshot.of({"made": made(parse(BEGAN))})
    return Checkpoint(state=state, round_number=1, progress=progress)


def test_a_configuration_that_was_changed_on_disk_is_refused(checkpoint: Checkpoint) -> None:
    changed = parse({**BEGAN, "train.learning-rate": 0.5, "seed": 3, "rounds": 20})
    with pytest.raises(ConfigError) as refusal:
        require_made(checkpoint, changed)
    faults = {fault.key: fault.problem for fault in refusal.value.faults}
    assert set(faults) == {"seed", "train.learning-rate"}
    assert "were made with 0.125, so its config.json was changed" in faults["train.learning-rate"]


def test_other_versions_are_told_of_and_not_refused(checkpoint: Checkpoint) -> None:
    assert require_made(checkpoint, parse({**BEGAN, "rounds": 20})) == {}
    values = dict(checkpoint.require_progress().values["made"])
    now = values["versions"]["torch"]
    values["versions"] = {**values["versions"], "torch": "1.0"}
    older = replace(checkpoint, progress=Snapshot(values={"made": values}))
    assert require_made(older, parse(BEGAN)) == {"torch": f"1.0, now {now}"}


def test_a_checkpoint_that_does_not_say_how_it_was_made_is_taken(checkpoint: Checkpoint) -> None:
    assert require_made(replace(checkpoint, progress=Snapshot()), parse(BEGAN)) == {}
    assert require_made(None, parse(BEGAN)) == {}


def test_the_versions_are_those_that_the_roll_call_compares() -> None:
    told = made(parse({})).values["versions"]
    assert set(told) == set(software())


def test_the_server_goes_on_with_what_the_run_began_with(tiny_settings: dict[str, Any]) -> None:
    began = {**tiny_settings, "rounds": 1, "output.keep": "all", "budget.minutes": 500.0}
    folder = coordinate(LocalGrid(2, began), parse(began), run_id=1)
    said = {**tiny_settings, "rounds": 2, "resume": folder.path.name}
    coordinate(LocalGrid(2, said), parse(said), run_id=2)
    (event,) = (one for one in folder.events() if one["event"] == "run_resumed")
    assert (event["changed"], event["versions"]) == ({"rounds": 2}, {})
    assert kept_rounds(folder) == [1, 2]
    assert (folder.config()["rounds"], folder.config()["budget.minutes"]) == (2, 500.0)
    config = {**folder.config(), "train.learning-rate": 0.25}
    (folder.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    changed = {**said, "rounds": 3, "train.learning-rate": 0.25}
    with pytest.raises(ConfigError, match=r"checkpoints were made with 0\.01"):
        coordinate(LocalGrid(2, changed), parse(changed), run_id=3)
