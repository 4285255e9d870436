"""Runs of every kind to report on, made in this process; and a strict reader of their pages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import pytest
from conftest import LocalGrid
from private_settings import SAMPLE, USER
from resumed_runs import killed, resumed

from fedpeft_app.cli.report import run_story
from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import QuorumError
from fedpeft_app.observe.report.run_page import run_page
from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
KINDS = ("finished", "failed", "sample", "user", "local", "central", "killed", "resumed")
_NODES = 4


def reported(kind: str, settings: Mapping[str, Any]) -> RunFolder:
    """Make a run of a kind; in most of them node 2 fails for a hostile reason.

    Args:
        kind: One of `KINDS`.
        settings: Those of a short run.
    """
    settings = {**settings, "strategy.fraction-train": 1.0, "strategy.min-replies": 1}
    if kind in ("killed", "resumed"):
        return _interrupted(kind, settings)
    settings |= {"sample": SAMPLE, "user": USER, "local": {"mode": "local"}}.get(kind, {})
    settings |= {"mode": "central"} if kind == "central" else {}
    grid = LocalGrid(1 if kind == "central" else _NODES, settings)
    broken = range(_NODES) if kind == "failed" else [2] * (kind not in ("central", "user"))
    grid.broken = {node: RuntimeError(ATTACK) for node in broken}
    if kind != "failed":
        return coordinate(grid, parse(settings), run_id=1)
    with pytest.raises(QuorumError):
        coordinate(grid, parse(settings), run_id=1)
    return next(list_runs(runs_parent()))


def _interrupted(kind: str, settings: dict[str, Any]) -> RunFolder:
    """Kill a run in its second round; let it go on if asked to."""
    folder = killed(settings, 2 * _NODES + 2)
    return folder if kind == "killed" else resumed(settings, folder)


def page_of(run: RunFolder) -> str:
    """Write a run's page."""
    return run_page(run_story(run))


_VOID = {"meta", "link"}


@dataclass(slots=True)
class Read:
    """What a page holds.

    Attributes:
        tags: Every element, in order, with its attributes.
        texts: What a reader sees.
        scripts: What stands in scripts, by their type.
    """

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scripts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that a reader sees."""
        return " ".join(" ".join(self.texts).split())

    def ids(self) -> set[str]:
        """Every anchor."""
        return {str(one["id"]) for _, one in self.tags if "id" in one}


class _Strict(HTMLParser):
    """Reads HTML that closes what it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.open = Read(), [("", "")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.read.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append((tag, str(dict(attrs).get("type", ""))))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.read.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self.open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        tag, kind = self.open[-1]
        if tag == "script":
            self.read.scripts.append((kind, data))
        elif tag != "style":
            self.read.texts.append(data)


def read_page(page: str) -> Read:
    """Read a page; fails where an element is not closed, or closed twice."""
    parser = _Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == [("", "")]
    return parser.read
