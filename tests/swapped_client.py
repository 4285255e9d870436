"""The app with another ClientApp, and runs of it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedpeft_app.cli import app_folder, launch


def lay_out(scratch: Path, client: Path) -> Path:
    """Lay out the app's folder with a module's `app` in place of the ClientApp.

    Args:
        scratch: Where to.
        client: File of the module.

    Returns:
        The folder.
    """
    folder = app_folder.app_folder(scratch)
    shutil.copyfile(client, folder / "fedpeft_app" / client.name)
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    changed = text.replace('"fedpeft_app.client_app:app"', f'"fedpeft_app.{client.stem}:app"')
    if changed == text:
        raise ValueError(f"Expected a ClientApp to replace in {project}.")
    project.write_text(changed, encoding="utf-8")
    return folder


@contextmanager
def runs_of(folder_of: Callable[[Path], Path]) -> Iterator[None]:
    """Let runs that are started meanwhile be of an app that is laid out in another way.

    Args:
        folder_of: Lays it out, given where to.
    """
    usual = launch.app_folder, launch.bare_app_folder
    launch.app_folder = launch.bare_app_folder = folder_of
    try:
        yield
    finally:
        launch.app_folder, launch.bare_app_folder = usual
