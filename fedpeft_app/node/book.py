"""A book in which rows are only ever added, and each is on disk before what it is about happens."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft_app.errors import NodeStateError

_DIGITS = 16  # of a row's digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """Rows on disk: JSON objects, one a line, each behind its digest.

    Attributes:
        path: The file; made, with its folder, when the first row is added.
    """

    path: Path

    def rows(self) -> list[dict[str, Any]]:
        """Read every row, in the order in which they were added.

        A last row without its end is left out: whoever wrote it did not get so far as to do what
        it is about.

        Raises:
            NodeStateError: If another row is damaged, or the file cannot be read. It is never
                taken for empty.
        """
        try:
            text = self.path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise NodeStateError(f"Cannot read {self.path}: {error.strerror}.") from error
        lines = text.split("\n")
        return [self._row(number, line) for number, line in enumerate(lines[:-1], 1) if line]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, and return only when it is on disk, with the folder that names the file.

        Args:
            row: A JSON object.

        Raises:
            NodeStateError: If it cannot be written. Nothing must then happen of what it is about.
        """
        text = json.dumps(dict(row), sort_keys=True)
        line = f"{_digest(text)} {text}\n".encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                self._finish_line(descriptor)
                if os.write(descriptor, line) != len(line):
                    raise OSError(None, "no space left")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise NodeStateError(
                f"Cannot write to {self.path}: {error.strerror}. Make room there, or set "
                f"FEDPEFT_HOME."
            ) from error

    def _finish_line(self, descriptor: int) -> None:
        """Cut off a row that was left without its end."""
        whole = self.path.read_bytes().rfind(b"\n") + 1
        if whole < os.fstat(descriptor).st_size:
            os.truncate(descriptor, whole)

    def _row(self, number: int, line: str) -> dict[str, Any]:
        """Check a line against its digest, and read it."""
        digest, _, text = line.partition(" ")
        if digest != _digest(text):
            raise NodeStateError(
                f"Expected row {number} of {self.path} as it was written, found it changed. What "
                f"was spent is not known, so nothing more may be: restore the file from a backup."
            )
        row: dict[str, Any] = json.loads(text)
        return row


def _digest(text: str) -> str:
    """Tell a changed row from the one that was written."""
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _sync_folder(folder: Path) -> None:
    """Make sure that a new file is found again after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
