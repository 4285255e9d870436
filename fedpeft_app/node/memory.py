"""What a node keeps for itself between rounds, on its own disk, by version.

The server names the version that a node starts from: the last round in which it accepted a
reply of this node. So a node whose reply was lost or rejected goes on from what the server
knows of, and both sides stay in step.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedpeft_app.adapters import AdapterState
from fedpeft_app.atomic import make_folder, sweep, write_bytes
from fedpeft_app.errors import AdapterMismatchError, NodeStateError
from fedpeft_app.mirrors import home
from fedpeft_app.node.shared_home import require_shared_home

_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
PERSONAL, RESIDUAL = "personal", "residual"  # what nodes keep, by name
BROADCAST = "broadcast"  # and in a memory apart: the global state as last decoded
PRIVACY = "privacy"  # in a folder apart: what was spent, which outlives all, and the last reply
SPENT, REPLY = "spent.jsonl", "reply.bin"
_FORMAT, _BASE = "fedpeft-memory-1", "base"
_PREFIX, _SUFFIX = "round-", ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMemory:
    """One node's own folder in one experiment.

    Attributes:
        folder: Where versions lie, one file a round; made when something is first kept.
    """

    folder: Path

    def rounds(self) -> list[int]:
        """List the rounds whose version is kept, rising."""
        found = (_version(path.name) for path in self.folder.glob(f"{_PREFIX}*"))
        return sorted(version for version in found if version >= 0)

    def recall(self, name: str, initial: AdapterState, version: int) -> AdapterState:
        """Read what was kept after a round.

        Args:
            name: What it is.
            initial: What the node has before its first round; says what is expected.
            version: Round, from 1; 0 = the node has not taken part yet.

        Returns:
            The state that `keep` was given, bit for bit; `initial` for version 0.

        Raises:
            NodeStateError: If that version is missing, damaged, or of another adapter.
        """
        if version == 0:
            return initial
        path = self._path(version)
        try:
            with safe_open(path, framework="numpy") as file:
                meta = file.metadata() or {}
                vector = np.ascontiguousarray(file.get_tensor(name))
            _require_sound(name, meta, vector, initial)
            return AdapterState(spec=initial.spec, vector=vector)
        except (SafetensorError, OSError, ValueError, AdapterMismatchError) as error:
            kept = ", ".join(map(str, self.rounds())) or "none"
            raise NodeStateError(
                f"Expected what this node kept of round {version} ({name}) in {self.folder}, "
                f"found versions: {kept} ({error}). What only this node had is lost."
            ) from error

    def keep(self, states: Mapping[str, AdapterState], version: int, base: int) -> None:
        """Write what the node has after a round, and forget what is older, but for two versions.

        These are its base, from which it goes on if this reply does not count, and the base of
        that: a server whose newest checkpoint is damaged falls back by one round more, to a time
        when the base itself had not been made.

        What is newer stays: a node that comes late, in a round that the server has closed, must
        not take away what a later one kept. The next version removes both of them.

        Args:
            states: Name → what it has.
            version: The round that it comes of, from 1.
            base: The version that it was made from; 0 = what the node had at first.

        Raises:
            NodeStateError: If it cannot be written.
        """
        meta = {"format": _FORMAT, _BASE: str(base)}
        for name, state in states.items():
            meta[f"{name}.spec"] = state.spec.fingerprint
            meta[f"{name}.sha256"] = hashlib.sha256(state.vector.tobytes()).hexdigest()
        vectors = {name: state.vector for name, state in states.items()}
        try:
            make_folder(self.folder)
            write_bytes(self._path(version), save(vectors, metadata=meta), private=True)
            for other in set(self.rounds()) - {base, self._base_of(base)}:
                if other < version:
                    self._path(other).unlink(missing_ok=True)
            # Only a node that comes late may still be writing one of these; nobody waits for it.
            sweep(self.folder, lambda name: 0 <= _version(name) < version)
        except OSError as error:
            raise NodeStateError(
                f"Cannot keep what this node has for itself in {self.folder}: {error}. "
                f"Make room there, or set FEDPEFT_HOME."
            ) from error

    def _base_of(self, version: int) -> int:
        """Read from which version another was made; 0 if nobody knows."""
        try:
            with safe_open(self._path(version), framework="numpy") as file:
                return int((file.metadata() or {}).get(_BASE, "0"))
        except (SafetensorError, OSError, ValueError):
            return 0

    def _path(self, version: int) -> Path:
        """Name a version's file."""
        return self.folder / f"{_PREFIX}{version:06d}{_SUFFIX}"


def _version(file: str) -> int:
    """Read off a file's name which version it is; -1 = none."""
    number = file.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return int(number) if number.isdecimal() else -1


def experiment_folder(experiment: str) -> Path:
    """Give the folder that holds the nodes of an experiment on this machine.

    Args:
        experiment: What the server calls it: letters, digits, dots, dashes, underscores.

    Raises:
        NodeStateError: If that is no such name; it comes over the network, so it is no path.
    """
    if not _EXPERIMENT.fullmatch(experiment):
        raise NodeStateError(f"Expected the name of an experiment, got {experiment!r}.")
    return home() / "nodes" / experiment


def memory_of(experiment: str, partition: int, kind: str = "") -> NodeMemory:
    """Give a node's memory in an experiment.

    Args:
        experiment: As for `experiment_folder`.
        partition: The node's partition, from 0.
        kind: A memory apart, with versions of its own.

    Raises:
        NodeStateError: If the name is none, or this machine of a cluster does not share the home
            of the others: what the node kept would be missing here.
    """
    require_shared_home()
    return NodeMemory(folder=experiment_folder(experiment) / f"node-{partition:04d}" / kind)


def forget(experiment: str) -> None:
    """Remove, on this machine, what nodes need no more of an experiment that is over.

    That is the global state, which they are sent anew if it goes on for more rounds. What only
    they have stays, for that and for exports, until the run is erased; so does what was spent.

    Args:
        experiment: As for `experiment_folder`.

    Raises:
        NodeStateError: If the name is none.
    """
    folder = experiment_folder(experiment)
    for node in folder.glob("node-*"):
        _remove(node / BROADCAST)
        sweep(node)
    _remove_empty(folder)


def erase(experiment: str) -> None:
    """Remove, on this machine, all that nodes keep of an experiment but what they spent of it.

    Of privacy, that is: what a run has released of their data stays released without the run.

    Raises:
        NodeStateError: If the name is none.
    """
    folder = experiment_folder(experiment)
    for path in folder.glob("node-*/*"):
        _remove(path / REPLY if path.name == PRIVACY else path)
    _remove_empty(folder)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, as far as that can be done."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _remove_empty(folder: Path) -> None:
    """Remove the folders of nodes of which nothing is left, and that of an empty experiment."""
    for left in (*folder.glob("node-*"), folder):
        with suppress(OSError):  # it is not empty, or not there
            left.rmdir()


def _require_sound(
    name: str, meta: dict[str, str], vector: np.ndarray, initial: AdapterState
) -> None:
    """Check a file against its own header and against what is expected."""
    if meta.get("format") != _FORMAT:
        raise ValueError(f"expected format '{_FORMAT}', got {meta.get('format')!r}")
    if meta.get(f"{name}.spec") != initial.spec.fingerprint:
        raise ValueError("it belongs to another adapter")
    if hashlib.sha256(vector.tobytes()).hexdigest() != meta.get(f"{name}.sha256"):
        raise ValueError("its values do not have the digest in its header")
