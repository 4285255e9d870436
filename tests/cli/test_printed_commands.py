"""Commands of README and docs that ask for privacy can be run as they are printed."""

import re
import shlex
from pathlib import Path

import pytest

from fedpeft_app.cli.preflight import preflight
from fedpeft_app.cli.settings import read_settings
from fedpeft_app.config import RunConfig

ROOT = Path(__file__).parents[2]
PRINTED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NODES = 10  # where a command does not say
R8 = {  # label → training examples of Reuters R8
    "earn": 2840,
    "acq": 1596,
    "crude": 253,
    "trade": 251,
    "money-fx": 206,
    "interest": 190,
    "ship": 108,
    "grain": 41,
}


def private_commands() -> list[str]:
    lines = [line for path in PRINTED for line in path.read_text(encoding="utf-8").splitlines()]
    found = (re.match(r"(?:\$ )?(fedpeft (?:run|plan) [^#]*)", line) for line in lines)
    private = re.compile(r" privacy\.| --recipe recipes/private")
    return sorted({one[1].strip() for one in found if one and private.search(one[1])})


def option(words: list[str], name: str) -> str:
    """Take an option off a command; give its value, or nothing."""
    if name not in words:
        return ""
    at = words.index(name)
    value = words[at + 1]
    del words[at : at + 2]
    return value


def settings_of(command: str, *more: str) -> tuple[RunConfig, int]:
    """Read what a command says, and more; give its nodes too."""
    _, _, *words = shlex.split(command)
    nodes, recipe = int(option(words, "--nodes") or NODES), option(words, "--recipe")
    return read_settings(ROOT / recipe if recipe else None, [*words, *more]), nodes


@pytest.fixture(scope="module")
def as_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of as many examples and labels as those of the default."""
    folder = tmp_path_factory.mktemp("r8")
    rows = [f"money,{label}" for label, count in R8.items() for _ in range(count)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows, ""]), encoding="utf-8")
    tests = [f"money,{label}" for label in R8]
    (folder / "test.csv").write_text("\n".join(["text,label", *tests, ""]), encoding="utf-8")
    return folder


def test_both_levels_have_an_example() -> None:
    modes = {settings_of(command)[0].privacy.mode for command in private_commands()}
    assert modes == {"sample", "user"}


@pytest.mark.parametrize("command", private_commands())
def test_a_printed_command_could_start(command: str, tiny_model: Path, as_many: Path) -> None:
    preflight(*settings_of(command, f"model.name={tiny_model}", f"data.name={as_many}"))
