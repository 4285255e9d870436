"""Recipes and KEY=VALUE arguments become one checked configuration."""

import tomllib
from pathlib import Path

import pytest

from fedpeft_app.cli.settings import describe_settings, read_settings, to_toml
from fedpeft_app.config import defaults, flatten, parse
from fedpeft_app.errors import ConfigError, SourceError

_FOLDER = Path(__file__).parents[2] / "recipes"
_RECIPES = sorted(set(_FOLDER.glob("*.toml")) - set(_FOLDER.glob("study-*.toml")))


def given(*settings: str) -> dict[str, object]:
    """Read arguments; give what differs from the defaults."""
    flat = flatten(read_settings(None, settings))
    return {key: value for key, value in flat.items() if value != defaults()[key]}


def recipe(folder: Path, text: str) -> Path:
    """Write a recipe."""
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_is_the_defaults() -> None:
    assert given() == {}


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("output.name=demo", "output.name", "demo"),  # text needs no quotes,
        ('output.name="demo"', "output.name", "demo"),  # but may have them
        ("output.name=2024", "output.name", "2024"),  # text that looks like a number,
        ("model.revision=1e5", "model.revision", "1e5"),
        ("output.name=2024-01-01", "output.name", "2024-01-01"),  # a date,
        ("data.text-column=true", "data.text-column", "true"),  # or a boolean
        ("data.labels=no, yes", "data.labels", "no, yes"),
        ("data.labels=", "data.labels", ""),
        ("data.text-column=a=b", "data.text-column", "a=b"),  # the first "=" divides
        ("rounds=7", "rounds", 7),
        (" rounds = 7 ", "rounds", 7),
        ("method.alpha=8", "method.alpha", 8.0),
        ("train.learning-rate=1e-3", "train.learning-rate", 0.001),
        ("evaluate.server=false", "evaluate.server", False),
        ('strategy.options={"eta": 0.1}', "strategy.options", '{"eta": 0.1}'),
        ("method.options={ }", "method.options", "{ }"),
        ('task.options={"a": [1]}', "task.options", '{"a": [1]}'),
    ],
)
def test_an_argument_reads_like_this(setting: str, key: str, value: object) -> None:
    found = flatten(read_settings(None, [setting]))[key]
    assert found == value
    assert type(found) is type(value)


def test_the_last_argument_counts_and_arguments_beat_the_recipe(tmp_path: Path) -> None:
    path = recipe(tmp_path, "rounds = 3\nseed = 3\n")
    config = read_settings(path, ["rounds=4", "rounds=5"])
    assert (config.rounds, config.seed) == (5, 3)


@pytest.mark.parametrize(
    "text",
    [
        'task = "text-classification"\n"task.options" = "{ }"\nmethod.rank = 2\n',
        '"task.options" = "{ }"\n[method]\nrank = 2\n',
        '[task]\noptions = "{ }"\n[method]\nrank = 2\n',
        '"task.options" = "{ }"\n"method.rank" = 2\n',
    ],
)
def test_nested_dotted_and_quoted_keys_are_the_same(tmp_path: Path, text: str) -> None:
    flat = flatten(read_settings(recipe(tmp_path, text), []))
    assert flat == {**defaults(), "task.options": "{ }", "method.rank": 2}


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Cannot read the recipe .*/no.toml: No such file"):
        read_settings(tmp_path / "no.toml", [])


@pytest.mark.parametrize("content", [b"rounds = \n", b"rounds = 1\nrounds = 2\n", b'a = "\xff"\n'])
def test_a_recipe_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"The recipe .*/recipe.toml is not valid TOML: "):
        read_settings(path, [])


def test_every_fault_is_listed_at_once(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[train]\nbatchsize = 8\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(path, ["rounds=-1", "seed", "evaluate.server=1", "rounds.x=[1]"])
    assert {fault.key for fault in caught.value.faults} == {
        "train.batchsize",
        "rounds",
        "seed",
        "evaluate.server",
        "rounds.x",
    }


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "bert").mkdir()
    (tmp_path / "mine.csv").touch()
    assert given(
        "model.name=bert",
        "data.name=./mine.csv",
        "method.init-from=adapter",  # whether or not it is there yet:
        "output.dir=~/runs",  # Flower's processes start in a folder of their own
    ) == {
        "model.name": str(tmp_path / "bert"),
        "data.name": str(tmp_path / "mine.csv"),
        "method.init-from": str(tmp_path / "adapter"),
        "output.dir": str(tmp_path / "me" / "runs"),
    }


def test_a_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reuters-r52").mkdir()  # a known id wins, as it does where data is read
    assert given("model.name=org/name", "data.name=reuters-r52") == {
        "model.name": "org/name",
        "data.name": "reuters-r52",
    }


@pytest.mark.parametrize("text", ["plain", 'a"b\\c\n\t', "é 模型 🌾", "\x7f\x01", "'''", "#"])
def test_what_is_written_for_flower_reads_back(text: str) -> None:
    flat = {**defaults(), "data.labels": text, "train.learning-rate": 1e-05, "seed": 2**62}
    assert tomllib.loads(to_toml(flat)) == flat


@pytest.mark.parametrize("explain", [False, True])
def test_what_config_prints_is_a_recipe(tmp_path: Path, *, explain: bool) -> None:
    config = parse({**defaults(), "task.options": '{"é": 1}', "rounds": 3})
    path = recipe(tmp_path, describe_settings(config, explain=explain))
    assert read_settings(path, []) == config


def test_every_key_is_explained() -> None:
    lines = describe_settings(parse({}), explain=True).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if not line.startswith("#"):
            assert before.startswith("# "), line
    assert all(len(line) <= 90 for line in lines if line.startswith("#"))


@pytest.mark.parametrize("path", _RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_sound(path: Path) -> None:
    read_settings(path, [])


def test_there_are_recipes() -> None:
    assert _RECIPES
