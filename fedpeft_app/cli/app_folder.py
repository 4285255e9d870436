"""The folder that Flower builds the app bundle from."""

import shutil
from pathlib import Path

import fedpeft_app
from fedpeft_app.errors import LaunchError


def app_folder(scratch: Path) -> Path:
    """Lay out a folder with nothing but pyproject.toml, the package and the recipes.

    Flower walks the whole folder to build its bundle, which takes seconds in a checkout
    with a virtual environment. An installed wheel carries pyproject.toml as `app.toml`.

    Args:
        scratch: Where to lay it out.

    Returns:
        The folder to give to `flwr run`.

    Raises:
        LaunchError: If the installation carries no app.
    """
    package = Path(fedpeft_app.__file__).parent
    project, recipes = package / "app.toml", package / "recipes"
    if not project.is_file():
        project, recipes = package.parent / "pyproject.toml", package.parent / "recipes"
    if not (project.is_file() and recipes.is_dir()):
        raise LaunchError(f"{package} carries no Flower app. Reinstall fedpeft.")
    folder = scratch / "app"
    ignored = shutil.ignore_patterns("__pycache__", "app.toml", "recipes")
    shutil.copytree(package, folder / "fedpeft_app", ignore=ignored)
    shutil.copytree(recipes, folder / "recipes")
    shutil.copyfile(project, folder / "pyproject.toml")
    return folder
