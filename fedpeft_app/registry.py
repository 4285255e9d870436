"""Names in the configuration → objects, with built-ins, entry points and dotted paths."""

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from fedpeft_app.errors import UnknownNameError

_NEAR = 0.52  # of difflib's ratio: 'rank' is near 'method.rank' (0.53), '4bit' not 'int8' (0.5)
_MOST_LISTED = 40  # names of a module: more than a screen of them is no help


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
        if is_path(name):
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
                is not there; the message lists what is. Other errors of a plug-in's own code
                pass through.
        """
        target = self.target(name)
        module_name, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise UnknownNameError(
                f"{self.kind} '{name}' leads to '{target}', which cannot be imported: "
                f"{str(error).rstrip('.')}.{_instead(error, module_name, attribute)}"
            ) from error


def is_path(name: str) -> bool:
    """Say whether a name has the form 'package.module:Name'."""
    module, _, attribute = name.partition(":")
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _instead(error: Exception, module_name: str, attribute: str) -> str:
    """List what there is where a path leads nowhere, as sentences; empty if that says nothing."""
    if module := sys.modules.get(module_name):  # it can be imported, but lacks the attribute
        return _listed(module_name, _names_in(module), attribute)
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if not missing or not f"{module_name}.".startswith(f"{missing}."):
        return ""  # what the module itself imports is missing
    parent, _, last = missing.rpartition(".")
    if not parent:  # all that is installed would be too long a list
        return near_miss(last, (found.name for found in pkgutil.iter_modules()))
    places = getattr(sys.modules[parent], "__path__", ())
    return _listed(parent, (found.name for found in pkgutil.iter_modules(places)), last)


def _names_in(module: ModuleType) -> list[str]:
    """Name what a module offers: what it says itself, or else what it defines."""
    said = getattr(module, "__all__", None)
    defined = (
        n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
    )
    return list(said if said is not None else defined)


def _listed(where: str, names: Iterable[str], meant: str) -> str:
    """Put public names into a sentence, the nearest to what was meant into another."""
    public = sorted(name for name in names if not name.startswith("_"))
    if not public:
        return f" '{where}' has none."
    more = ", …" if len(public) > _MOST_LISTED else ""
    return f" '{where}' has: {', '.join(public[:_MOST_LISTED])}{more}.{near_miss(meant, public)}"
