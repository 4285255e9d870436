"""The last reply of a node, kept to be sent again: asked twice, a node answers once."""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from fedpeft_app.atomic import make_folder, sweep, write_bytes
from fedpeft_app.errors import NodeStateError

_HEAD = struct.Struct("<32s32s")  # digest of the question, digest of the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """One answer on disk, with the question that it answers.

    Attributes:
        path: The file; made, with its folder, when something is first kept.
    """

    path: Path

    def recall(self, question: str) -> bytes | None:
        """Give the answer to a question.

        Args:
            question: Whatever tells one question from another.

        Returns:
            The bytes that were kept; None if the last question was another, or the answer is
            lost or damaged.
        """
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        if len(content) < _HEAD.size:
            return None
        asked, answered = _HEAD.unpack_from(content)
        answer = content[_HEAD.size :]
        sound = asked == _digest(question.encode()) and answered == _digest(answer)
        return answer if sound else None

    def keep(self, question: str, answer: bytes) -> None:
        """Keep an answer in place of the one before.

        One at a time: what looks half-written is taken for left by a process that was killed.

        Raises:
            NodeStateError: If it cannot be written.
        """
        head = _HEAD.pack(_digest(question.encode()), _digest(answer))
        try:
            make_folder(self.path.parent)
            sweep(self.path.parent, lambda name: name == self.path.name)
            write_bytes(self.path, head + answer, private=True)
        except OSError as error:
            raise NodeStateError(
                f"Cannot keep a reply in {self.path}: {error}. Make room there, or set "
                f"FEDPEFT_HOME."
            ) from error


def _digest(content: bytes) -> bytes:
    """Stand for bytes."""
    return hashlib.sha256(content).digest()
