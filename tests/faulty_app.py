"""An app bundle with nodes that misbehave, and runs of it through Flower and Ray."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedpeft_app.cli import app_folder, launch

_HERE = Path(__file__).parent


def lay_out(scratch: Path, plan: Mapping[str, Any]) -> Path:
    """Lay out the app with `faulty_client` in place of the ClientApp.

    Args:
        scratch: Where to.
        plan: What goes wrong; see `faulty_client`.
    """
    folder = app_folder.app_folder(scratch)
    package = folder / "fedpeft_app"
    shutil.copyfile(_HERE / "faulty_client.py", package / "faulty_client.py")
    (package / "fault_plan.py").write_text(f"PLAN = {dict(plan)!r}\n", encoding="utf-8")
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    faulty = text.replace('"fedpeft_app.client_app:app"', '"fedpeft_app.faulty_client:app"')
    if faulty == text:
        raise ValueError(f"Expected a ClientApp to replace in {project}.")
    project.write_text(faulty, encoding="utf-8")
    return folder


@contextmanager
def misbehaving(plan: Mapping[str, Any]) -> Iterator[None]:
    """Let runs that are started meanwhile have such nodes."""
    usual = launch.app_folder
    launch.app_folder = lambda scratch: lay_out(scratch, plan)
    try:
        yield
    finally:
        launch.app_folder = usual
