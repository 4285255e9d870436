"""Who a node is: a number drawn once, kept on its own disk, and nobody else's."""

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedpeft_app.atomic import make_folder, sync_folder, write_bytes
from fedpeft_app.errors import NodeStateError
from fedpeft_app.mirrors import home
from fedpeft_app.node.shared_home import require_shared_home

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGITS = 32  # 128 bits: two nodes never draw the same
_NUMBER_DIGITS = 15  # 60 bits of them fit wherever a partition does


def node_name(node_config: Mapping[str, Any]) -> str:
    """Give the name that a node's owner chose: "name" of its --node-config; empty = none.

    Raises:
        NodeStateError: If it is no name: letters, digits, dots, dashes, underscores.
    """
    name = str(node_config.get("name", ""))
    if name and not _NAME.fullmatch(name):
        raise NodeStateError(
            f"Expected letters, digits, dots, dashes or underscores, 64 at most, for name in "
            f"this node's --node-config, got {name!r}."
        )
    return name


def identity(node_config: Mapping[str, Any]) -> str:
    """Give what tells this node from all others, in every run; drawn when it is first asked for.

    Two nodes that share a home ($FEDPEFT_HOME) have identities of their own if they have names.

    Args:
        node_config: Flower's node configuration.

    Returns:
        32 hex digits; empty for a node that was given a number ("partition-id") instead.

    Raises:
        NodeStateError: If it cannot be kept, or is damaged, or this machine of a cluster does not
            share the home of the others.
    """
    if "partition-id" in node_config:
        return ""
    name = node_name(node_config)
    require_shared_home()
    # Not among the experiments, whose names come from servers.
    path = home() / "identity" / (f"name-{name}" if name else "unnamed")
    with suppress(FileNotFoundError):
        return _read(path)
    _draw(path)
    return _read(path)


def node_number(node_config: Mapping[str, Any]) -> int:
    """Give the number by which a node draws its randomness and keeps what it keeps.

    Args:
        node_config: Flower's node configuration.

    Returns:
        Its "partition-id"; else a number from 0 that follows from its `identity`. The server
        counts such nodes in its own way.

    Raises:
        NodeStateError: As `identity`.
    """
    if own := identity(node_config):
        return int(own[:_NUMBER_DIGITS], 16)
    return int(node_config["partition-id"])


def _read(path: Path) -> str:
    """Read an identity."""
    found = path.read_bytes().strip()
    if not re.fullmatch(rb"[0-9a-f]{%d}" % _DIGITS, found):
        raise NodeStateError(
            f"Expected {_DIGITS} hex digits in {path}, which say who this node is, found "
            f"{len(found)} bytes of something else. Bring the file back from a backup: what the "
            f"node has spent of its privacy is kept under it."
        )
    return found.decode()


def _draw(path: Path) -> None:
    """Draw an identity, unless another process has just done so."""
    drawn = secrets.token_hex(_DIGITS // 2)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        make_folder(path.parent)
        _create(path, fresh, f"{drawn}\n".encode())
    except OSError as error:
        raise NodeStateError(
            f"Cannot keep who this node is in {path}: {error.strerror}. Make room there, or set "
            f"FEDPEFT_HOME."
        ) from error


def _create(path: Path, fresh: Path, content: bytes) -> None:
    """Write a file that nobody sees half of, and which never replaces another one.

    Args:
        path: The file.
        fresh: What it is called until it is whole.
        content: What it is to hold.
    """
    try:
        write_bytes(fresh, content, private=True)
        with suppress(FileExistsError):
            os.link(fresh, path)  # unlike a rename, it never replaces another one
    except OSError:
        if not fresh.exists():
            raise
        _create_plainly(path, content)  # a file system without hard links
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def _create_plainly(path: Path, content: bytes) -> None:
    """Write a file unless it is there; one that could not be written whole is removed."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
