"""What Flower is handed is the app, and nothing else of the checkout."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

import fedpeft_app
from fedpeft_app import names
from fedpeft_app.cli.app_folder import app_folder, bare_app_folder, package_path
from fedpeft_app.config import defaults
from fedpeft_app.errors import LaunchError

_PACKAGE = Path(fedpeft_app.__file__).parent


def test_the_folder_is_the_app(tmp_path: Path) -> None:
    folder = app_folder(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"pyproject.toml", "fedpeft_app", "recipes"}
    sources = {str(path.relative_to(_PACKAGE)) for path in _PACKAGE.rglob("*.py")}
    found = folder / "fedpeft_app"
    assert {str(path.relative_to(found)) for path in found.rglob("*.py")} == sources
    assert not list(folder.rglob("__pycache__"))
    assert list((folder / "recipes").glob("*.toml"))


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr on pathspec
def test_the_bare_app_is_its_project_file(tmp_path: Path) -> None:
    folder = bare_app_folder(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["pyproject.toml"]
    assert build_fab_from_disk(folder)


def test_a_path_has_the_launchers_package_and_nothing_else(tmp_path: Path) -> None:
    folder = package_path(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["fedpeft_app"]
    other = tmp_path / "other" / "fedpeft_app"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    code = (
        "import os, fedpeft_app, fedpeft_app.names as a; "
        "print(*map(os.path.realpath, (fedpeft_app.__file__, a.__file__, a.__cached__)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(other.parent)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        os.path.realpath(file) for file in (fedpeft_app.__file__, names.__file__, names.__cached__)
    ]


def test_where_there_are_no_links_the_path_has_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path, *, target_is_directory: bool) -> None:
        raise PermissionError(f"no links: {path} → {target}")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    copy = package_path(tmp_path) / "fedpeft_app"
    assert not copy.is_symlink()
    assert {path.name for path in copy.iterdir()} == {path.name for path in _PACKAGE.iterdir()}


@pytest.mark.parametrize("lay_out", [app_folder, bare_app_folder])
def test_its_project_file_declares_every_key(
    tmp_path: Path, lay_out: Callable[[Path], Path]
) -> None:
    text = (lay_out(tmp_path) / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    flat: dict[str, object] = {}
    for key, value in declared.items():
        inner = (
            {f"{key}.{name}": scalar for name, scalar in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
        flat.update(inner)
    assert flat == defaults()


def installed(folder: Path, *, recipes: bool) -> Path:
    """Lay a package out as a wheel does."""
    package = folder / "fedpeft_app"
    (package / "cli").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "app.toml").write_text("[project]\n", encoding="utf-8")
    if recipes:
        (package / "recipes").mkdir()
        (package / "recipes" / "demo.toml").touch()
    return package / "__init__.py"


def test_an_installed_wheel_carries_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = installed(tmp_path / "site-packages", recipes=True)
    monkeypatch.setattr(fedpeft_app, "__file__", str(package))
    folder = app_folder(tmp_path)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"pyproject.toml", "recipes/demo.toml", "fedpeft_app/__init__.py"}


def test_an_incomplete_installation_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = installed(tmp_path / "site-packages", recipes=False)
    monkeypatch.setattr(fedpeft_app, "__file__", str(package))
    with pytest.raises(LaunchError, match="carries no Flower app. Reinstall fedpeft"):
        app_folder(tmp_path)
