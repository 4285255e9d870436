"""Examples as they were read, whatever they were read from; to name them takes no library."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft_app.data.labels import Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """The examples of one split.

    Attributes:
        where: The file or source they are from, for messages.
        inputs: One item per example: a text, a `Picture`, an (instruction, answer) pair or
            a list of messages.
        labels: Label index per example, `(examples,)`; or, where an example has any number
            of labels, a mark for each label, `(examples, labels)`.
        groups: Natural node per example; empty where nothing is shared out.
        files: The file of each example, where each has one; else empty.
    """

    where: str
    inputs: Sequence[Any]
    labels: Labels
    groups: list[str]
    files: Sequence[str] = ()

    def place(self, row: int) -> str:
        """Say where an example is from, for messages.

        Args:
            row: From 1.
        """
        return place_of(self.where, self.files, row)


def place_of(where: str, files: Sequence[str], row: int) -> str:
    """Name the file of an example, or its file and row.

    Args:
        where: The file or source that the examples are from.
        files: The file of each example, where each has one; else empty.
        row: From 1.
    """
    return files[row - 1] if files else f"{where}, row {row}"


def image_files(examples: Sequence[Examples]) -> list[Path]:
    """List the files that hold images, whose change changes the data."""
    contents = (getattr(one, "content", None) for some in examples for one in some.inputs)
    return [content for content in contents if isinstance(content, Path)]
