"""Names in the configuration → objects, with built-ins, entry points and dotted paths."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from fedpeft_app.errors import UnknownNameError

_NEAR = 0.52  # of difflib's ratio: 'rank' is near 'method.rank' (0.53), '4bit' not 'int8' (0.5)


def near_miss(name: str, known: Iterable[str]) -> str:
    """Suggest the closest known name, as a sentence, or an empty string.

    Args:
        name: What was written; its case does not matter.
        known: What may be written.

    Returns:
        " Did you mean 'fedavg'?", with its leading blank, or "".
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=_NEAR)
    return f" Did you mean '{by_folded[close[0]]}'?" if close else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The plug-ins of one kind.

    Built-ins are a literal table and not entry points of our own, because a Flower App
    Bundle is unzipped, not installed. Targets are strings, so that looking at the names
    imports nothing heavy.

    Attributes:
        kind: What it holds, in the singular ("strategy"), for messages.
        group: Entry-point group in which installed packages add to it.
        builtin: Name → "package.module:attribute".
    """

    kind: str
    group: str
    builtin: Mapping[str, str]

    def names(self) -> list[str]:
        """List every known name, built-ins first."""
        installed = sorted({entry.name for entry in entry_points(group=self.group)})
        return [*self.builtin, *(name for name in installed if name not in self.builtin)]

    def target(self, name: str) -> str:
        """Find where a name leads, without importing it.

        Args:
            name: A known name, or a dotted path "package.module:Name".

        Returns:
            "package.module:Name".

        Raises:
            UnknownNameError: If it is neither; the message lists what is known.
        """
        if name in self.builtin:
            return self.builtin[name]
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return entry.value
        if _is_path(name):
            return name
        raise UnknownNameError(
            f"unknown {self.kind} '{name}'. Known: {', '.join(self.names())}, "
            f"or a path 'package.module:Name'.{near_miss(name, self.names())}"
        )

    def get(self, name: str) -> Any:
        """Import what a name stands for.

        Args:
            name: A known name, or a dotted path "package.module:Name".

        Returns:
            The class or function itself.

        Raises:
            UnknownNameError: If the name is unknown, or leads to a module or attribute that
                is not there. Other errors of a plug-in's own code pass through.
        """
        target = self.target(name)
        module_name, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise UnknownNameError(
                f"{self.kind} '{name}' leads to '{target}', which cannot be imported: {error}"
            ) from error


def _is_path(name: str) -> bool:
    """Say whether a name has the form 'package.module:Name'."""
    module, _, attribute = name.partition(":")
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))
