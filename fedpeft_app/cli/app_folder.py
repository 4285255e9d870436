"""The folders that Flower builds its app bundles from."""

import shutil
from pathlib import Path

import fedpeft_app
from fedpeft_app.errors import LaunchError

# In the package's place: the package itself, where the launcher has it.
_LINK = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location(__name__, {file!r}, submodule_search_locations=[{folder!r}])
sys.modules[__name__] = module_from_spec(spec)
spec.loader.exec_module(sys.modules[__name__])
"""


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
    package, folder = _without_package(scratch)
    ignored = shutil.ignore_patterns("__pycache__", "app.toml", "recipes")
    shutil.copytree(package, folder / "fedpeft_app", ignore=ignored)
    return folder


def linked_app_folder(scratch: Path) -> Path:
    """Lay out the app with a link to this process's package: for runs on this machine alone.

    Flower unpacks a bundle for every run, so each process would compile the package's files anew;
    here they come with their byte code. Whatever a process has on its path, it has the
    launcher's package.

    Args:
        scratch: As for `app_folder`; so is what it gives, and what it raises.
    """
    package, folder = _without_package(scratch)
    link = folder / "fedpeft_app" / "__init__.py"
    link.parent.mkdir()
    text = _LINK.format(file=str(package / "__init__.py"), folder=str(package))
    link.write_text(text, encoding="utf-8")
    return folder


def _without_package(scratch: Path) -> tuple[Path, Path]:
    """Lay out all but the package; give the package, and the folder.

    An installed wheel carries pyproject.toml as `app.toml`.
    """
    package = Path(fedpeft_app.__file__).parent.absolute()
    project, recipes = package / "app.toml", package / "recipes"
    if not project.is_file():
        project, recipes = package.parent / "pyproject.toml", package.parent / "recipes"
    if not (project.is_file() and recipes.is_dir()):
        raise LaunchError(f"{package} carries no Flower app. Reinstall fedpeft.")
    folder = scratch / "app"
    shutil.copytree(recipes, folder / "recipes")
    shutil.copyfile(project, folder / "pyproject.toml")
    return package, folder
