"""How a node's thin processes reach its worker. Imports nothing heavy."""

import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft_app.errors import LaunchError, WireError
from fedpeft_app.mirrors import home
from fedpeft_app.warm.code import own_code
from fedpeft_app.warm.frames import receive, send

ASK, STATUS, STOP = "ask", "status", "stop"
DONE, FAILED, REFUSED = "done", "failed", "refused"
_CONNECT_S = 5.0
_log = logging.getLogger(__name__)


class NodeError(Exception):
    """What went wrong in a worker, in words that may leave the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a worker listens.

    Attributes:
        path: Its socket.
    """

    path: Path

    def ask(
        self,
        kind: str,
        content: bytes,
        *,
        run_config: Mapping[str, Any],
        node_config: Mapping[str, Any],
    ) -> bytes | None:
        """Let the worker answer a message.

        Args:
            kind: As for `answers.answer`.
            content: What the message carries.
            run_config: Flower's configuration of the run.
            node_config: Flower's node configuration.

        Returns:
            What the reply carries; None if the worker cannot do it for this process, or is gone.

        Raises:
            NodeError: If it failed.
        """
        header = {
            "do": ASK,
            "kind": kind,
            "run_config": dict(run_config),
            "node_config": dict(node_config),
            "folder": os.getcwd(),
            "code": own_code().to_json(),
        }
        try:
            told, body = self.exchange(header, content)
        except (OSError, WireError) as error:
            _log.warning("The worker is gone (%s); this process does its work.", error)
            return None
        if told.get("status") == DONE:
            return body
        if told.get("status") == FAILED:
            raise NodeError(str(told.get("reason")))
        _log.warning("The worker does not serve this run: %s", told.get("reason"))
        return None

    def opens(self) -> bool:
        """Say whether anybody listens there."""
        try:
            self.exchange({"do": STATUS}, timeout_s=_CONNECT_S)
        except (OSError, WireError):
            return False
        return True

    def exchange(
        self, header: Mapping[str, Any], body: bytes = b"", timeout_s: float | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Say something to the worker, and wait for what it says.

        Raises:
            OSError: If nobody listens there.
            WireError: If the answer is none.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CONNECT_S)
            connection.connect(str(self.path))
            connection.settimeout(timeout_s)
            send(connection, header, body)
            return receive(connection)


def folder() -> Path:
    """Give the folder of this node's worker."""
    return home() / "worker"


def address_file() -> Path:
    """Give the file that says where the worker listens."""
    return folder() / "address.json"


def find_door() -> Door | None:
    """Find this node's worker; None if there is none, or this process is one that keeps warm.

    A simulation's processes live as long as the run, and so need no worker.
    """
    return None if "ray" in sys.modules else door()


def door() -> Door | None:
    """Find where this node's worker listens, or did when it was killed; None if nowhere."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(address_file().read_text(encoding="utf-8"))
        return Door(path=Path(told["socket"]))
    return None


def require_door() -> Door:
    """Find this node's worker.

    Raises:
        LaunchError: If there is none, or it does not answer.
    """
    found = door()
    if found is None or not found.opens():
        raise LaunchError(f"No worker runs for {home()}. Start one: fedpeft worker start.")
    return found
