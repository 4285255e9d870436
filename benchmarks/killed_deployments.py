"""Processes of a federation on loopback that are killed: one of its SuperNodes, its SuperLink."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from run_records import TOO_LATE, Struck, differences, gaps, lost, told, wait_for, wait_until

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import federation as loopback
from federation import BINARIES, Federation

from fedpeft_app.mirrors import cache_dir
from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent

NODES = 3
_BACK = 0.7  # probability that a node comes back
_MOST_AWAY_S = 30.0  # for so long at most, then
_LAPSE_S = 60.0  # so long the SuperLink holds a silent node to be online, and refuses it again
_STARTING_S = 30.0  # a SuperNode that is let in takes part again after so long at most
_SETTINGS = {
    "strategy.fraction-train": 1.0,
    "strategy.min-nodes": NODES,
    "strategy.round-timeout": 60.0,
}


class Deployments:
    """Runs on one federation with TLS and known nodes, of which one process is killed each.

    All nodes share a home, and so one warm worker. A SuperNode that ends by itself is started
    again, as systemd does it: one that comes back too soon is refused.

    Args:
        scratch: For all folders.
        victim: "supernode" or "deployment-superlink".
        settings: Of all runs.
        rounds: Of all runs.
    """

    def __init__(self, scratch: Path, victim: str, settings: Sequence[str], rounds: int) -> None:
        said = dict(pair.split("=", 1) for pair in settings)
        self._settings: Mapping[str, Any] = {**said, **_SETTINGS}
        self._rounds, self._victim = rounds, victim
        self._whole: RunFolder | None = None
        self._log = scratch / "run.log"
        home, flower = scratch / "home", scratch / "flower"
        home.mkdir()
        flower.mkdir()
        (home / "cache").symlink_to(cache_dir())
        os.environ["FEDPEFT_HOME"] = str(home)
        self._federation = Federation(flower, home, secure=True)
        self._worker("start", "--cpus", "1")
        self._federation.start_superlink()
        for node in range(NODES):
            self._start_node(node)
        self._wait_for_nodes()

    def leave_alone(self) -> None:
        """Let a run end."""
        process, self._whole = self._start("whole")
        if process.wait() != 0:
            sys.exit(f"a run that nobody killed failed:\n{self._log.read_text(encoding='utf-8')}")

    def strike(self, number: int, draw: random.Random) -> Struck:
        """Kill once, and see what comes of it."""
        moment = draw.uniform(0.0, self._rounds)
        process, folder = self._start(f"kill-{number}")
        wait_until(folder, moment, self._sound, process.poll)
        if process.poll() is not None:
            return TOO_LATE
        try:
            if self._victim == "supernode":
                what, problems = self._without_a_node(process, folder, draw)
            else:
                what, problems = self._without_superlink(process, folder, draw)
            return Struck(what=f"after {moment:.2f} rounds, {what}", problems=problems)
        finally:
            self._wait_for_nodes()

    def end(self) -> None:
        """End everything."""
        self._federation.end()
        self._worker("stop")

    def _without_a_node(
        self, process: "subprocess.Popen[bytes]", folder: RunFolder, draw: random.Random
    ) -> tuple[str, list[str]]:
        """Kill a node, which may come back; see that the run goes on, and says who failed."""
        node, away_s = draw.randrange(NODES), draw.uniform(0.0, _MOST_AWAY_S)
        returns = draw.random() < _BACK
        self._federation.kill(_name(node), alone=True)
        killed = time.monotonic()
        if returns:
            time.sleep(away_s)
            self._start_node(node)
        back_at = max(time.monotonic(), killed + _LAPSE_S)
        while process.poll() is None:
            self._restart_nodes(spared=None if returns else node)
            time.sleep(2)
        status = process.returncode
        if not returns:
            self._start_node(node)
        missed = lost(folder)
        problems = ["the run failed"] if status else []
        problems += gaps(folder, self._rounds) + _unnamed(folder, node)
        if others := [one for one in missed if one[1] != node]:
            problems.append(f"others failed too: {others}")
        if returns and not _is_back(folder, node, back_at + _STARTING_S):
            problems.append(f"node {node} was back, and took no part")
        if not problems and not told(folder, "nodes_left") and not missed:
            problems += self._differences(folder)
        away = f"for {away_s:.0f} s" if returns else "for good"
        return f"node {node} away {away}, {len(missed)} replies lost", problems

    def _without_superlink(
        self, process: "subprocess.Popen[bytes]", folder: RunFolder, draw: random.Random
    ) -> tuple[str, list[str]]:
        """Kill the SuperLink, and start it again; see that the run fails, and can go on."""
        away_s = draw.uniform(0.0, _MOST_AWAY_S)
        self._federation.kill("superlink", alone=True)
        time.sleep(away_s)
        self._federation.start_superlink()
        status = process.wait()
        what = f"{len(told(folder, 'round_finished'))} rounds, away {away_s:.0f} s, status {status}"
        if status == 0 and not told(folder, "run_finished"):
            return what, ["a run that was killed ended with 0"]
        self._wait_for_nodes()
        settings = {**self._settings, "resume": folder.path.name}
        again = self._federation.submit(self._log, settings)
        if again.wait() != 0:
            return what, [f"the resumed run failed:\n{self._log.read_text(encoding='utf-8')}"]
        return what, self._differences(folder)

    def _differences(self, folder: RunFolder) -> list[str]:
        """Say in what a run differs from the one that was left alone."""
        return differences(self._sound, folder, self._rounds, private=False)

    @property
    def _sound(self) -> RunFolder:
        """The run that was left alone."""
        if self._whole is None:
            raise ValueError("Expected a run that was left alone, got none. Let one end first.")
        return self._whole

    def _start(self, name: str) -> "tuple[subprocess.Popen[bytes], RunFolder]":
        """Start a run; give it once its roll is called."""
        self._log.unlink(missing_ok=True)
        process = self._federation.submit(self._log, {**self._settings, "output.name": name})

        def here() -> RunFolder | None:
            named = (one for one in list_runs(runs_parent()) if f"-{name}-" in one.path.name)
            return next(named, None)

        folder = wait_for(here, process.poll)
        wait_for(lambda: told(folder, "roll_call"), process.poll)
        return process, folder

    def _start_node(self, node: int) -> None:
        """Start a SuperNode, be it again."""
        settings = (f"partition-id={node}", f"num-partitions={NODES}", f'name="{_name(node)}"')
        self._federation.start_node(_name(node), *settings)

    def _wait_for_nodes(self) -> None:
        """Wait until all nodes are connected."""

        def connected() -> bool:
            self._restart_nodes()
            return list(self._federation.nodes().values()).count("online") == NODES

        loopback.wait_for(connected, "the nodes")

    def _restart_nodes(self, spared: int | None = None) -> None:
        """Start SuperNodes again that have ended by themselves, but for one that is to be away."""
        for node in range(NODES):
            if node != spared and self._federation.ended(_name(node)):
                self._start_node(node)

    def _worker(self, *command: str) -> None:
        """Do something with the worker of the nodes."""
        called = [str(BINARIES / "fedpeft"), "worker", *command]
        environment = self._federation.environment
        subprocess.run(called, env=environment, check=True, stdout=subprocess.DEVNULL)


def _name(node: int) -> str:
    """Name a node."""
    return f"node-{node}"


def _unnamed(folder: RunFolder, node: int) -> list[str]:
    """List rounds that asked a node, went on without it, and do not say so."""
    asked = {one["round"] for one in told(folder, "round_started") if node in one["cohort"]}
    silent = [
        one["round"]
        for one in told(folder, "round_finished")
        if one["round"] in asked and str(node) not in {*one["nodes"], *one["rejected"]}
    ]
    return [f"rounds {silent} do not say what became of node {node}"] if silent else []


def _is_back(folder: RunFolder, node: int, since: float) -> bool:
    """Say whether a node that is back took part in the last round, if that began later."""
    started, ended = told(folder, "round_started")[-1], told(folder, "round_finished")[-1]
    alone = any(one["node"] == node for one in told(folder, "left_alone"))
    return started["clock"] < since or str(node) in ended["nodes"] or alone
