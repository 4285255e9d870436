"""A run's folder as it stood after a round: what came later is put aside, nothing is lost."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from fedpeft_app.atomic import write_bytes
from fedpeft_app.errors import RunFolderError
from fedpeft_app.runs.checkpoint import Checkpoint, kept_rounds, load_checkpoint, prune
from fedpeft_app.runs.directory import RunFolder

_ASIDE = "interrupted.jsonl"


def last_sound(folder: RunFolder) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Find the newest checkpoint that a run can go on from.

    Args:
        folder: The run's folder.

    Returns:
        The checkpoint, and what is wrong with newer ones; None where no round has ended, so that
        the run can only begin again.

    Raises:
        RunFolderError: If rounds have ended, and there is none; says why for each.
    """
    problems: list[str] = []
    if not kept_rounds(folder) and not _had_a_checkpoint(folder):
        return None, ()
    for round_number in reversed(kept_rounds(folder)):
        try:
            checkpoint = load_checkpoint(folder, round_number)
            checkpoint.require_progress()
        except RunFolderError as error:
            problems.append(str(error))
        else:
            return checkpoint, tuple(problems)
    reasons = "".join(f"\n  {problem}" for problem in problems) or " its checkpoints are gone."
    raise RunFolderError(f"{folder.path} has no round to go on from:{reasons}")


def rewind(folder: RunFolder, round_number: int) -> list[dict[str, Any]]:
    """Bring journal and checkpoints back to how they were when a round ended.

    Args:
        folder: The run's folder; nobody else writes to it.
        round_number: A round that ended; 0 = before the first.

    Returns:
        The later events, which were put aside into a file beside the journal.

    Raises:
        RunFolderError: If the journal does not say that the round ended, or cannot be written.
    """
    lines = _lines(folder)
    end = _end_of(lines, round_number) if round_number else 0
    if round_number and not end:
        raise RunFolderError(
            f"Expected the end of round {round_number} in {folder.journal}, where it is missing. "
            f"Restore the file from a backup, or start a new run."
        )
    later = lines[end:]
    try:
        if later:
            _put_aside(folder, later)
            write_bytes(folder.journal, b"".join(lines[:end]))
        prune(folder, {kept for kept in kept_rounds(folder) if kept <= round_number})
    except OSError as error:
        raise RunFolderError(f"Cannot go on in {folder.path}: {error.strerror}.") from error
    return [json.loads(line) for line in later if line.endswith(b"\n")]


def _end_of(lines: Sequence[bytes], number: int, *, or_later: bool = False) -> int:
    """Count the lines up to the end of a round; 0 = it did not end."""
    for at in range(len(lines) - 1, -1, -1):
        if b'"round_finished"' not in lines[at] or not lines[at].endswith(b"\n"):
            continue
        event = json.loads(lines[at])
        if event["event"] != "round_finished":
            continue
        if event["round"] == number or (or_later and event["round"] > number):
            return at + 1
    return 0


def _had_a_checkpoint(folder: RunFolder) -> bool:
    """Say whether there was one: a round is journalled first, and kept before the next begins."""
    return _end_of(_lines(folder), 2, or_later=True) > 0


def _lines(folder: RunFolder) -> list[bytes]:
    """Read the journal, a half-written last line too."""
    return folder.journal.read_bytes().splitlines(keepends=True) if folder.journal.exists() else []


def put_aside(folder: RunFolder) -> list[dict[str, Any]]:
    """Read what attempts that did not count have left.

    Args:
        folder: The run's folder.

    Returns:
        Events, of all such attempts, without half-written ones.
    """
    path = folder.path / _ASIDE
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _put_aside(folder: RunFolder, lines: Sequence[bytes]) -> None:
    """Keep lines of an attempt that did not count; a half-written one too."""
    path = folder.path / _ASIDE
    before = path.read_bytes() if path.exists() else b""
    write_bytes(path, before + b"".join(lines).rstrip(b"\n") + b"\n")
