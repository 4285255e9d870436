"""Killed between any two steps that reach the disk, a run goes on to the same end."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from private_settings import SAMPLE, USER
from resumed_runs import CASES, SETTINGS, KilledError, bits, finished, resumed, run

from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent

STEPS = ("fsync", "replace", "unlink", "ftruncate")  # of the system, that change what is on disk
POINTS = 6  # tried of each case; `make test-slow` tries every one
HOLDING = ("fedavg", "scaffold", "lossy", "personal")
PRIVATE = {
    "sample": {**SAMPLE, "strategy.fraction-train": 1.0, "privacy.unsafe-seed": 5},
    "user": {**USER, "privacy.unsafe-seed": 5},
}


@contextmanager
def dying_after(steps: int) -> Iterator[list[str]]:
    """Let the process die before a step, after so many; give the steps that were done."""
    done: list[str] = []
    usual = {name: getattr(os, name) for name in STEPS}

    def step(name: str) -> Any:
        def take(*arguments: Any, **options: Any) -> Any:
            if len(done) == steps:  # nor does a dead process clean up
                raise KilledError
            done.append(name)
            return usual[name](*arguments, **options)

        return take

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, step(name))
        yield done


def settings_of(tiny_settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Give a case's settings: three rounds."""
    case = PRIVATE.get(name) or CASES[name]
    return {**tiny_settings, **SETTINGS, **case, "rounds": 3}


def spent(folder: RunFolder) -> tuple[float, dict[str, float]]:
    """Give what a run says it has spent: as a whole, and node by node."""
    last = [event for event in folder.events() if event["event"] == "privacy_statement"][-1]
    return last["epsilon"], last["nodes"]


def payloads(folder: RunFolder) -> list[dict[str, int]]:
    """Give the bytes of encoded states, round by round and node by node."""
    rounds = [event["bytes_by_node"] for event in finished(folder)]
    return [{node: of["payload"] for node, of in each.items()} for each in rounds]


def check(settings: dict[str, Any], whole: RunFolder, steps: int) -> None:
    """Kill a run after so many steps, go on with it, and compare."""
    with dying_after(steps), suppress(KilledError):
        run({**settings, "output.name": f"killed-{steps}"})
        return  # a step less than the run before
    folders = [one for one in list_runs(runs_parent()) if f"killed-{steps}-" in one.path.name]
    if not folders:  # it was not yet one
        return
    (folder,) = folders
    resumed({**settings, "output.name": f"killed-{steps}"}, folder)
    assert [event["round"] for event in finished(folder)] == [1, 2, 3], steps
    assert folder.events()[-1]["event"] == "run_finished"
    assert (folder.adapter / "adapter_config.json").is_file()
    assert not list(folder.path.rglob(".*.tmp")), steps
    if settings["privacy.mode"] != "none":
        (ours, by_node), (theirs, of_whole) = spent(folder), spent(whole)
        assert ours >= theirs, steps
        assert all(by_node[node] >= epsilon for node, epsilon in of_whole.items()), steps
        return
    assert bits(folder, 3) == bits(whole, 3), steps
    if "wire.downlink" not in settings:  # else nodes are sent the whole state once
        assert payloads(folder) == payloads(whole), steps


def points(settings: dict[str, Any]) -> tuple[RunFolder, range]:
    """Let a run end; give it, and the steps at which another could be killed."""
    with dying_after(-1) as done:
        whole = run({**settings, "output.name": "whole"})
    return whole, range(len(done))


@pytest.mark.parametrize("name", [*HOLDING, *PRIVATE])
def test_a_run_killed_at_some_step_ends_as_if_nobody_had_touched_it(
    tiny_settings: dict[str, Any], name: str
) -> None:
    settings = {"privacy.mode": "none", **settings_of(tiny_settings, name)}
    whole, possible = points(settings)
    chosen = random.Random(name).sample(possible, POINTS)
    for steps in sorted(chosen):
        check(settings, whole, steps)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*HOLDING, *PRIVATE])
def test_a_run_killed_at_any_step_ends_as_if_nobody_had_touched_it(
    tiny_settings: dict[str, Any], name: str
) -> None:
    settings = {"privacy.mode": "none", **settings_of(tiny_settings, name)}
    whole, possible = points(settings)
    for steps in possible:
        check(settings, whole, steps)
