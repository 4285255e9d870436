"""A run's folder as it stood after a round: what came later is put aside, nothing is lost."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from fedpeft_app.atomic import sweep, write_bytes
from fedpeft_app.errors import RunFolderError
from fedpeft_app.runs.checkpoint import Checkpoint, examine_checkpoint, kept_rounds, set_aside
from fedpeft_app.runs.directory import RunFolder

_ASIDE, _SECRET_ASIDE = "interrupted.jsonl", "interrupted-secret.jsonl"


def last_sound(folder: RunFolder) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Find the newest checkpoint that a run can go on from.

    Args:
        folder: The run's folder.

    Returns:
        The checkpoint, and what is wrong with newer ones; None where no round has ended, so that
        the run can only begin again.

    Raises:
        RunFolderError: If rounds have ended, and there is none; says why for each. If a newer
            one may be sound, but cannot be read now, or not by this version.
    """
    problems: list[str] = []
    if not kept_rounds(folder) and not _had_a_checkpoint(folder):
        return None, ()
    for round_number in reversed(kept_rounds(folder)):
        checkpoint = examine_checkpoint(folder, round_number)
        if isinstance(checkpoint, str):
            problems.append(checkpoint)
            continue
        try:
            checkpoint.require_progress()
        except RunFolderError as error:
            problems.append(str(error))
        else:
            return checkpoint, tuple(problems)
    reasons = "".join(f"\n  {problem}" for problem in problems) or " its checkpoints are gone."
    raise RunFolderError(f"{folder.path} has no round to go on from:{reasons}")


def rewind(folder: RunFolder, round_number: int) -> list[dict[str, Any]]:
    """Bring journals and checkpoints back to how they were when a round ended.

    Checkpoints from which nobody can go on are set aside, half-written files removed.

    Args:
        folder: The run's folder; nobody else writes to it.
        round_number: A round that ended; 0 = before the first.

    Returns:
        The later events, which were put aside into a file beside the journal.

    Raises:
        RunFolderError: If the journal is damaged or does not say that the round ended, or the
            folder cannot be written.
    """
    lines = _lines(folder.journal)
    events = _events(folder, lines)
    ended = [at for at, event in enumerate(events, 1) if _ended(event) == round_number]
    if round_number and not ended:
        raise RunFolderError(
            f"Expected the end of round {round_number} in {folder.journal}, where it is missing. "
            f"Restore the file from a backup, or start a new run."
        )
    end = ended[-1] if round_number else 0
    try:
        for place in (folder.path, folder.checkpoints):
            sweep(place)
        for half in folder.path.glob(f".{folder.adapter.name}.*"):  # an export that was killed
            shutil.rmtree(half)
        _cut(folder.journal, lines, end, folder.path / _ASIDE)
        _rewind_secret(folder, round_number)
        set_aside(folder, round_number)
    except OSError as error:
        raise RunFolderError(f"Cannot go on in {folder.path}: {error.strerror}.") from error
    return events[end:]


def _rewind_secret(folder: RunFolder, round_number: int) -> None:
    """Bring what the operator alone may read to the same round.

    Nothing is counted from it, and it reaches the disk later than the journal: what is damaged
    or lacks its end is put aside.
    """
    lines = _lines(folder.secret)
    ended = [at for at, line in enumerate(lines, 1) if 0 < _ended(_event(line)) <= round_number]
    end = ended[-1] if ended else 0
    _cut(folder.secret, lines, end, folder.path / _SECRET_ASIDE, private=True)


def _cut(
    path: Path, lines: Sequence[bytes], end: int, aside: Path, *, private: bool = False
) -> None:
    """Leave the first lines in a file; add the others to another, a half-written one too."""
    if lines[end:]:
        later = b"".join(lines[end:]).rstrip(b"\n") + b"\n"
        write_bytes(aside, b"".join(_lines(aside)) + later, private=private)
        write_bytes(path, b"".join(lines[:end]), private=private)


def _had_a_checkpoint(folder: RunFolder) -> bool:
    """Say whether there was one: a round is journalled first, and kept before the next begins."""
    return any(_ended(event) > 1 for event in _events(folder, _lines(folder.journal)))


def _events(folder: RunFolder, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Read a journal's whole lines; one that nobody can read may say who spent something."""
    events = []
    for number, line in enumerate((line for line in lines if line.endswith(b"\n")), 1):
        if not (event := _event(line)):
            raise RunFolderError(
                f"Expected an event in line {number} of {folder.journal}, got "
                f"{line[:40]!r}: the journal is damaged. Restore it from a backup; where no round "
                f"has ended after that line, deleting it and what follows will do."
            )
        events.append(event)
    return events


def _event(line: bytes) -> dict[str, Any]:
    """Read a line; nothing where it is no event."""
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            return event
    return {}


def _ended(event: dict[str, Any]) -> int:
    """Give the round whose end an event is; 0 = of none."""
    number = event.get("round") if event.get("event") == "round_finished" else 0
    return number if isinstance(number, int) else 0


def _lines(path: Path) -> list[bytes]:
    """Read a file of lines, a half-written last one too; a missing one has none."""
    try:
        return BytesIO(path.read_bytes()).readlines()  # split at line feeds alone
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(f"Cannot read {path}: {error.strerror}.") from error


def put_aside(folder: RunFolder) -> list[dict[str, Any]]:
    """Read what attempts that did not count have left.

    Args:
        folder: The run's folder.

    Returns:
        Events, of all such attempts, without half-written ones.
    """
    return [event for line in _lines(folder.path / _ASIDE) if (event := _event(line))]
