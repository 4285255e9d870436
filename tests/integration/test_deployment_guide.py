"""docs/deployment.md, followed word for word, with other addresses, paths and a small model."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import make_texts
from federation import BINARIES, HOST, free_port, wait_for

from fedpeft_app.runs.directory import list_runs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower"), pytest.mark.timeout(1200)]
GUIDE = Path(__file__).parents[2] / "docs" / "deployment.md"
SERVER, NODES = "server", {"hospital A": "hospital-a", "hospital B": "hospital-b"}


class Machine:
    """A folder in which somebody types what the guide says.

    Args:
        folder: Where.
        script: What is typed.

    Attributes:
        environment: Variables of all that is typed.
    """

    def __init__(self, folder: Path, script: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.home = folder, folder / "home"
        self.environment = environment = {
            **os.environ,
            "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
            "FEDPEFT_HOME": str(self.home),
            "FLWR_HOME": str(folder / "flower"),
            "OMP_NUM_THREADS": "1",
        }
        with (folder / "typed.log").open("wb") as output:
            self.shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # with what it leaves behind in the background
            )

    def said(self) -> str:
        """Give all that was printed here, for when it goes wrong."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log}:\n{log.read_text(errors='replace')[-4000:]}" for log in logs)

    def end(self) -> None:
        """End the shell and what it left behind."""
        stop = [str(BINARIES / "fedpeft"), "worker", "stop"]  # it has a session of its own
        subprocess.run(stop, env=self.environment, check=False, capture_output=True, timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.wait()


def blocks() -> dict[str, str]:
    """Read what each machine's operator types, by the comment in the first line."""
    found = re.findall(
        r"```bash\n# ([^\n]+)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL
    )
    return dict(found)


def replaced(script: str, swaps: Mapping[str, str]) -> str:
    """Put other words in place of those of the guide, each of which must be there."""
    for old, new in swaps.items():
        assert old in script, f"the guide no longer says {old!r}"
        script = script.replace(old, new)
    return script


@pytest.fixture
def machines() -> Iterator[dict[str, Machine]]:
    started: dict[str, Machine] = {}
    try:
        yield started
    finally:
        for machine in started.values():
            machine.end()


def test_there_is_a_block_for_every_machine() -> None:
    assert set(blocks()) == {SERVER, *NODES}


def test_two_hospitals_train_by_the_guide(
    machines: dict[str, Machine], tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    port = free_port()
    address = {"fl.example.org:8000": f"{HOST}:{port}"}
    ours = {
        key: value
        for key, value in tiny_settings.items()
        if not key.startswith(("data.n", "strategy."))
    }
    small = " ".join(f"{key}={value}" for key, value in ours.items())
    server = replaced(
        blocks()[SERVER],
        {
            **address,
            "--host fl.example.org": f"--host {HOST}",
            "--host 0.0.0.0 --port 8000": f"--host {HOST} --port {port}",
            '"no,yes"': '"crude,grain,money"',
            "strategy.fraction-evaluate=1.0": f"strategy.fraction-evaluate=1.0 {small}",
        },
    )
    machines[SERVER] = Machine(tmp_path / SERVER, server)
    archives = [machines[SERVER].folder / f"{name}.tgz" for name in NODES.values()]
    wait_for(lambda: all(archive.exists() for archive in archives), "the keys", 120)
    for seed, (machine, name) in enumerate(NODES.items()):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(machines[SERVER].folder / f"{name}.tgz", folder)  # what a person carries
        texts, labels = make_texts(60, seed)
        rows = "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True))
        (folder / "private.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
        swaps = {
            **address,
            "/data/private.csv": str(folder / "private.csv"),
            "--node-config": f"--port {free_port()} --node-config",  # one machine plays all
        }
        machines[machine] = Machine(folder, replaced(blocks()[machine], swaps))
    try:
        status = machines[SERVER].shell.wait(timeout=900)
    except subprocess.TimeoutExpired:
        status = -1
    assert status == 0, "\n".join(machine.said() for machine in machines.values())
    (folder,) = list_runs(machines[SERVER].home / "runs")
    finished = [event for event in folder.events() if event["event"] == "round_finished"]
    assert [event["ok"] for event in finished] == [2, 2]
    processes = [told["process"] for event in finished for told in event["nodes"].values()]
    assert len(set(processes)) == 2  # those of the workers, in both rounds
    assert (folder.adapter / "adapter_config.json").is_file()
