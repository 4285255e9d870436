"""Commands of README and docs that ask for privacy can be run as they are printed."""

import re
import shlex
from pathlib import Path

import pytest

from fedpeft_app.cli.preflight import preflight
from fedpeft_app.cli.settings import read_settings

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
    return sorted({one[1].strip() for one in found if one and " privacy." in one[1]})


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
    text = " ".join(private_commands())
    assert "privacy.mode=sample" in text
    assert "privacy.mode=user" in text


@pytest.mark.parametrize("command", private_commands())
def test_a_printed_command_could_start(command: str, tiny_model: Path, as_many: Path) -> None:
    _, _, *words = shlex.split(command)
    nodes = NODES
    if "--nodes" in words:
        at = words.index("--nodes")
        nodes = int(words[at + 1])
        del words[at : at + 2]
    here = [f"model.name={tiny_model}", f"data.name={as_many}"]
    preflight(read_settings(None, [*words, *here]), nodes)
