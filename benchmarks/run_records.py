"""What runs that were killed, or were not, have written down; and in what two of them differ."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import RunFolder

_TIMINGS = 16  # bytes by which numbers of seconds, as protocol buffers, may differ


@dataclass(frozen=True, kw_only=True)
class Struck:
    """What came of a run in which something was killed.

    Attributes:
        what: What happened, in words.
        problems: What should not have happened.
        late: Whether the run had ended by itself, so that it does not count.
    """

    what: str
    problems: list[str]
    late: bool = False


TOO_LATE = Struck(what="the run had ended", problems=[], late=True)


def found(parent: Path) -> RunFolder | None:
    """Find the one run in a folder, once it is there."""
    paths = [path.parent for path in parent.glob("*/journal.jsonl")]
    return RunFolder(path=paths[0]) if paths else None


def told(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    """Give the events of one kind."""
    return [event for event in folder.events() if event["event"] == kind]


def wait_for(look: Callable[[], Any], running: Callable[[], int | None]) -> Any:
    """Wait until something is there; give up where the run has ended."""
    while not (seen := look()):
        if running() is not None:
            sys.exit(f"a run ended too early, with {running()}")
        time.sleep(0.02)
    return seen


def wait_until(
    folder: RunFolder, moment: float, whole: RunFolder, running: Callable[[], int | None]
) -> None:
    """Wait until so many rounds have ended, and a part of the next one has passed.

    The part is one of the seconds that a round has taken so far, so that moments are spread alike
    however busy the machine is; in the first round, of those that it took in the run left alone.
    """
    while len(told(folder, "round_finished")) < int(moment) and running() is None:
        time.sleep(0.02)
    known = folder if told(folder, "round_finished") else whole
    ends = [event["clock"] for event in told(known, "round_finished")][: max(1, int(moment))]
    time.sleep(moment % 1.0 * (ends[-1] - told(known, "roll_call")[0]["clock"]) / len(ends))


def lost(folder: RunFolder) -> list[tuple[int, int, str]]:
    """List the replies that were missed: round, node, why."""
    return [
        (event["round"], event["node"], event["problem"])
        for event in told(folder, "reply")
        if event["problem"]
    ]


def gaps(folder: RunFolder, rounds: int) -> list[str]:
    """Say whether rounds are missing from a journal, or doubled."""
    numbers = [event["round"] for event in told(folder, "round_finished")]
    return [] if numbers == list(range(1, rounds + 1)) else [f"the journal has rounds {numbers}"]


def differences(whole: RunFolder, folder: RunFolder, rounds: int, *, private: bool) -> list[str]:
    """Say in what a run that was killed differs from one that was not."""
    if problems := gaps(folder, rounds):
        return problems
    if private:
        return _less_epsilon(whole, folder)
    states = [load_checkpoint(one, rounds).state.vector.tobytes() for one in (whole, folder)]
    if states[0] != states[1]:
        problems.append("the adapter has other bits")
    pairs = zip(told(folder, "round_finished"), told(whole, "round_finished"), strict=True)
    for ours, theirs in pairs:
        if not _same_bytes(ours["bytes_by_node"], theirs["bytes_by_node"]):
            problems.append(f"round {ours['round']} counts other bytes")
    return problems


def _less_epsilon(whole: RunFolder, folder: RunFolder) -> list[str]:
    """Say of which nodes less epsilon is stated than they spent when nobody was killed."""
    spent = [told(one, "privacy_statement")[-1]["nodes"] for one in (whole, folder)]
    less = [node for node, epsilon in spent[0].items() if spent[1].get(node, 0.0) < epsilon]
    more = [node for node, epsilon in spent[0].items() if spent[1].get(node, 0.0) > epsilon]
    if more:
        print(f"  epsilon of nodes {more} is larger: they trained a round twice", flush=True)
    return [f"epsilon of nodes {less} is too small"] if less else []


def _same_bytes(ours: dict[str, dict[str, int]], theirs: dict[str, dict[str, int]]) -> bool:
    """Compare a round's bytes: those of payloads exactly; around them messages carry timings."""
    return ours.keys() == theirs.keys() and all(
        abs(ours[node][way] - size) <= (0 if way == "payload" else _TIMINGS)
        for node, of in theirs.items()
        for way, size in of.items()
    )
