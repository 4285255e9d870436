"""A book in which rows are only ever added, and each is on disk before what it is about happens."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedpeft_app.atomic import make_folder, sync_folder
from fedpeft_app.errors import NodeStateError

_FIRST = b"fedpeft-book-1"  # stands for the digest before the first row
_DIGITS = 16  # of a row's digest
_WAIT_S = 60.0  # for someone else's row


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """Rows on disk: JSON objects, one a line, each behind its digest.

    A digest covers the row and the digest before it. So a row that is changed, moved or taken
    out is noticed, unless nothing follows it: an older copy of the whole book is a sound book.

    Attributes:
        path: The file; made, with its folder, when the first row is added.
    """

    path: Path

    def rows(self) -> list[dict[str, Any]]:
        """Read every row, in the order in which they were added.

        A last row without its end is left out: whoever wrote it did not get so far as to do what
        it is about.

        Raises:
            NodeStateError: If the rows are not those that were written, one after the other, or
                the file cannot be read. It is never taken for empty.
        """
        return [json.loads(text) for _, text in self._lines(self._content())]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, and return only when it is on disk, with the folders that lead to the file.

        Args:
            row: A JSON object.

        Raises:
            NodeStateError: If it cannot be written, or what stands there is not what was
                written. Nothing must then happen of what the row is about.
        """
        text = json.dumps(dict(row), sort_keys=True).encode()
        with self.held():
            content = self._content()
            before = [_FIRST, *(digest for digest, _ in self._lines(content))][-1]
            whole = content.rfind(b"\n") + 1  # behind it stands, at most, a row without its end
            try:
                self._write(b"%b %b\n" % (_digest(before, text), text), whole)
            except OSError as error:
                raise self._unwritable(error) from error

    @contextmanager
    def held(self, wait_s: float = _WAIT_S) -> Iterator[None]:
        """Keep everyone else, in this process and in others, from adding rows meanwhile.

        Who holds a book may take hold of it once more. It is let go with the process at the latest.

        Args:
            wait_s: Seconds to wait for someone else who holds it.

        Raises:
            NodeStateError: If that takes longer, or the folder cannot be written.
        """
        lock = FileLock(f"{self.path}.lock", is_singleton=True)
        try:
            make_folder(self.path.parent)
            lock.acquire(timeout=wait_s)
        except Timeout as error:
            raise NodeStateError(
                f"Expected to get hold of {self.path} within {wait_s:g} s, but another process "
                f"or thread still works with it. Nothing was written down; try again when that "
                f"one is done."
            ) from error
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def _content(self) -> bytes:
        """Read the file; a missing one is empty."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise NodeStateError(f"Cannot read {self.path}: {error.strerror}.") from error

    def _lines(self, content: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Check every whole line against its digest; give digests and texts."""
        before = _FIRST
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            digest, _, text = line.partition(b" ")
            if digest != _digest(before, text):
                raise NodeStateError(
                    f"Expected row {number} of {self.path} as it was written, behind the one "
                    f"before it, found it changed, out of its place, or of another version of "
                    f"fedpeft. What was spent is not known, so nothing more may be: restore the "
                    f"file from a backup."
                )
            yield digest, text
            before = digest

    def _write(self, line: bytes, at: int) -> None:
        """Put a line where the last whole one ends, and force it to disk."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.truncate(descriptor, at)
            if os.pwrite(descriptor, line, at) != len(line):
                raise OSError(None, "no space left")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self.path.parent)

    def _unwritable(self, error: OSError) -> NodeStateError:
        """Say why nothing can be written."""
        return NodeStateError(
            f"Cannot write to {self.path}: {error.strerror}. Make room there, or set FEDPEFT_HOME."
        )


def _digest(before: bytes, text: bytes) -> bytes:
    """Tell a row in its place from every other."""
    return hashlib.sha256(before + b" " + text).hexdigest()[:_DIGITS].encode()
