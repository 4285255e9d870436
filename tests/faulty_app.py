"""An app bundle with nodes that misbehave, and runs of it through Flower and Ray."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import swapped_client

_CLIENT = Path(__file__).with_name("faulty_client.py")


def lay_out(scratch: Path, plan: Mapping[str, Any]) -> Path:
    """Lay out the app with `faulty_client` in place of the ClientApp.

    Args:
        scratch: Where to.
        plan: What goes wrong; see `faulty_client`.
    """
    folder = swapped_client.lay_out(scratch, _CLIENT)
    plans = folder / "fedpeft_app" / "fault_plan.py"
    plans.write_text(f"PLAN = {dict(plan)!r}\n", encoding="utf-8")
    return folder


def misbehaving(plan: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Let runs that are started meanwhile have such nodes."""
    return swapped_client.runs_of(lambda scratch: lay_out(scratch, plan))
