"""The folders that Flower builds its app bundles from."""

import re
import shutil
from pathlib import Path

import fedpeft_app
from fedpeft_app.errors import LaunchError

_INCLUDED = re.compile(r"^fab-include = .*\n", re.MULTILINE)


def app_folder(scratch: Path) -> Path:
    """Lay out the app: pyproject.toml, the package and the recipes, and nothing else.

    Flower walks the whole folder to build its bundle, which takes seconds in a checkout
    with a virtual environment.

    Args:
        scratch: Where to lay it out.

    Returns:
        The folder to give to `flwr run`.

    Raises:
        LaunchError: If the installation carries no app.
    """
    package, project, recipes = _parts()
    folder = scratch / "app"
    ignored = shutil.ignore_patterns("__pycache__", "app.toml", "recipes")
    shutil.copytree(package, folder / "fedpeft_app", ignore=ignored)
    shutil.copytree(recipes, folder / "recipes")
    shutil.copyfile(project, folder / "pyproject.toml")
    return folder


def bare_app_folder(scratch: Path) -> Path:
    """Lay out pyproject.toml alone, for processes that have `package_path` on their path.

    Flower unpacks a bundle for every run, so each process would compile the package's files anew;
    the launcher's own come with their byte code.

    Args:
        scratch: As for `app_folder`; so is what it gives, and what it raises.
    """
    _, project, _ = _parts()
    folder = scratch / "app"
    folder.mkdir()
    text = _INCLUDED.sub("", project.read_text(encoding="utf-8"))
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def package_path(scratch: Path) -> Path:
    """Lay out a folder for PYTHONPATH in which there is this process's package, and nothing else.

    A link (a copy where there are no links), not a module that loads the package from elsewhere:
    Flower imports the app in two threads at once, and one would see such a module half done.

    Args:
        scratch: Where to lay it out, on this machine.
    """
    package, _, _ = _parts()
    folder = scratch / "path"
    folder.mkdir()
    try:
        (folder / package.name).symlink_to(package, target_is_directory=True)
    except OSError:  # a file system without links, or Windows without the right to make them
        shutil.copytree(package, folder / package.name)
    return folder


def _parts() -> tuple[Path, Path, Path]:
    """Find the package, its project file, which a wheel carries as `app.toml`, and its recipes."""
    package = Path(fedpeft_app.__file__).parent.resolve()
    project, recipes = package / "app.toml", package / "recipes"
    if not project.is_file():
        project, recipes = package.parent / "pyproject.toml", package.parent / "recipes"
    if not (project.is_file() and recipes.is_dir()):
        raise LaunchError(f"{package} carries no Flower app. Reinstall fedpeft.")
    return package, project, recipes
