"""What a warm process does: answers messages, and keeps the model and the data it has loaded."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedpeft_app.backbone.one_scan import scan_models_once
from fedpeft_app.uncollected import uncollected
from fedpeft_app.warm.code import Code, own_code
from fedpeft_app.warm.door import DONE, FAILED, REFUSED
from fedpeft_app.warm.words import said_of

_log = logging.getLogger(__name__)
Scalars = tuple[tuple[str, str | int | float | bool], ...]


@dataclass(slots=True)
class Trainer:
    """One warm process."""

    _answered: int = 0

    def answer(self, header: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Answer a message, or say why not.

        Args:
            header: What `door.Door.ask` sends.
            body: What the message carries.

        Returns:
            A header with "status", and what the reply carries.
        """
        if problem := _other_code(Code.from_json(header["code"])):
            return {"status": REFUSED, "reason": problem}, b""
        told, content = _answer(header, body)
        self._answered += 1
        return {**told, "facts": self.facts()}, content

    def facts(self) -> dict[str, Any]:
        """Say what this process is and has done."""
        return {
            "pid": os.getpid(),
            "answered": self._answered,
            "code": own_code().digest[:12],
            "backbone-loads": _backbone_loads(),
            "memory": _memory(),
        }


def _answer(header: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    """Do what a message asks."""
    with uncollected("fedpeft_app.answers"):
        scan_models_once()
        from fedpeft_app.answers import answer
    from fedpeft_app.wire.content import from_bytes, to_bytes

    discreet = True  # until it is known
    try:
        os.chdir(header["folder"])  # paths of a node's owner may start there
        config = _config(tuple(sorted(header["run_config"].items())))
        discreet = config.privacy.mode != "none"
        content = answer(header["kind"], from_bytes(body), config, header["node_config"])
        return {"status": DONE}, to_bytes(content)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is told in words
        _log.exception("This node failed (%s)", header["kind"])
        reason = said_of(error, header["node_config"], discreet=discreet)
        return {"status": FAILED, "reason": reason}, b""


@lru_cache(maxsize=4)
def _config(items: Scalars) -> Any:
    """Parse a run's configuration, once per process and run."""
    from fedpeft_app.config import parse

    return parse(dict(items))


def other_python(wanted: Code) -> str:
    """Say that a run wants another Python environment than this process has."""
    return f"it needs the Python environment {wanted.python}, the worker has {sys.prefix}"


def _other_code(wanted: Code) -> str:
    """Say how the code that a run wants differs from what this process runs; empty if not."""
    own = own_code()
    if wanted.python != own.python:
        return other_python(wanted)
    if wanted.digest != own.digest:
        return f"it needs other code ({wanted.digest[:12]}) than the worker's ({own.digest[:12]})"
    return ""


def _backbone_loads() -> int:
    """Count how often this process has loaded a backbone."""
    loaded = sys.modules.get("fedpeft_app.backbone.load")
    return max(loaded.LOADS.values(), default=0) if loaded else 0


def _memory() -> int:
    """Measure the memory that this process holds, in bytes; of a GPU not."""
    import psutil

    return int(psutil.Process().memory_info().rss)
