"""README.md, typed from top to bottom: every command as printed, in what looks like a checkout.

What it is silent on is supplied: data of one's own, and, since there is no hub, tiny models in
folders that have the names of the hub's. `make demo` is what it runs once all is installed, and
`make test` is what runs this. RUN is the run of which the text before speaks.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import make_texts
from PIL import Image

from fedpeft_app.cli.app_folder import app_folder

ROOT = Path(__file__).parents[2]
HOURS = 3
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("flower"),
    pytest.mark.timeout(HOURS * 3600),
]


def blocks() -> list[tuple[str, str]]:
    """List what the page prints, each with its kind."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def lines(block: str) -> list[str]:
    """List a block's commands, those over several lines as one."""
    return block.replace("\\\n", " ").splitlines()


@pytest.fixture
def checkout(tmp_path: Path, tiny_vit: Path, tiny_llama: Path) -> Path:
    """A checkout, with a user's files beside it."""
    folder = app_folder(tmp_path)
    (folder / "results").symlink_to(ROOT / "results")
    shutil.copytree(tiny_vit, folder / "google" / "vit-base-patch16-224-in21k")
    llama = folder / "Qwen" / "Qwen3-0.6B"
    shutil.copytree(tiny_llama, llama)
    config = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    (llama / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    texts, labels = make_texts(600, seed=0)
    said = [f"{text},{label}\n" for text, label in zip(texts, labels, strict=True)]
    (folder / "complaints.csv").write_text("".join(["what was said,Tema\n", *said]))
    asked = [
        json.dumps({"question": text, "answer": label}) + "\n"
        for text, label in zip(texts, labels, strict=True)
    ]
    (folder / "instructions.jsonl").write_text("".join(asked))
    generator = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(400):  # enough for ten nodes of three labels
            pixels = np.array(colour) + generator.integers(-20, 20, (16, 16, 3))
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / "photos" / label / f"{number}.png")
    image.save(folder / "photo.jpg")
    return folder


@pytest.fixture
def shell(own_home: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user's variables; what was started with them ends with the test."""
    cache = Path(os.environ.get("FEDPEFT_TEST_CACHE", Path.home() / ".fedpeft")) / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    own_home.mkdir(parents=True)
    (own_home / "cache").symlink_to(cache)
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    yield {**os.environ, "PATH": path, "FLWR_HOME": str(tmp_path / "flwr")}
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(tmp_path / "flwr"):
                process.kill()
        except psutil.Error:
            continue


class Typist:
    """Types what a page says, and notes what did not work.

    Attributes:
        wrong: Commands that failed, with the end of what they printed.
    """

    def __init__(self, folder: Path, shell: dict[str, str]) -> None:
        self.wrong: list[str] = []
        self._folder, self._shell = folder, shell
        self._exports: list[str] = []
        self._runs: list[str] = []  # those that RUN stands for, in order

    def bash(self, block: str) -> None:
        """Type a block's commands."""
        for line in lines(block):
            if line.startswith("export "):
                self._exports.append(line)
            elif not line.startswith("make test"):
                self._type(self._meant(line))

    def python(self, block: str) -> None:
        """Run a program on the newest run's adapter."""
        program = block.replace("…/adapter", str(self._newest() / "adapter"))
        self._type(f"python - <<'END'\n{program}\nEND")

    def toml(self, block: str) -> None:
        """Save a study under the name that it gives itself."""
        name = re.search(r'^name = "(\w+)"', block, re.MULTILINE)
        assert name
        (self._folder / f"{name[1]}.toml").write_text(block, encoding="utf-8")

    def console(self, block: str) -> None:
        """Type a command that must fail with what the page shows; "…" stands for more."""
        command, *shown = block.removeprefix("$ ").splitlines()
        done = self._run(command)
        for line in shown:
            if not re.search(re.escape(line).replace("…", ".*"), done.stdout):
                self.wrong.append(f"$ {command}\nprinted no line like: {line}\n{done.stdout}")
        if not done.returncode:
            self.wrong.append(f"$ {command}\ndid not fail")

    def _meant(self, line: str) -> str:
        """Fill in what a reader would."""
        if line.startswith("make demo"):
            rule = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndemo:")[2]
            return rule.splitlines()[1].removeprefix("\t$(BIN)/")
        if " RUN " in line:
            return line.replace("RUN", self._runs.pop(0)).replace("…", "")
        return line

    def _type(self, command: str) -> None:
        """Run a command that must work; note a run of a user's own data."""
        began = time.monotonic()
        done = self._run(command)
        with (self._folder.parent / "typed.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.monotonic() - began:.0f} s, status {done.returncode}: {command}\n")
        if done.returncode:
            self.wrong.append(f"$ {command}\n{done.stdout[-2000:]}")
        if "data.name=" in command:
            self._runs.append(self._newest().name)

    def _run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the checkout."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join([*self._exports, command])],
            cwd=self._folder,
            env=self._shell,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )

    def _newest(self) -> Path:
        """Find the run that was started last."""
        return max((Path(self._shell["FEDPEFT_HOME"]) / "runs").iterdir())


def test_every_command_of_the_readme_works_as_printed(
    checkout: Path, shell: dict[str, str]
) -> None:
    typist = Typist(checkout, shell)
    for kind, block in blocks():
        getattr(typist, kind)(block)
    assert not typist.wrong, "\n\n".join(typist.wrong)
