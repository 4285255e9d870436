"""An event of the journal → the numbers that leave the server: of no single node."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedpeft_app.wire.record import SITS_OUT

_PLAIN = {  # what a round's event calls it → what it is called elsewhere
    "train_loss": "train/loss",
    "ok": "replies/good",
    "down": "bytes/down",
    "up": "bytes/up",
    "seconds": "seconds/round",
    "epsilon": "privacy/epsilon",
}
_AT_THE_END = {"seconds": "run/seconds", "round": "run/round", "down": "run/down", "up": "run/up"}
_SPREADS = {
    "clients": "nodes-validation",
    "clients_accuracy": "nodes-validation",
    "clients_test": "nodes-test",
    "clients_test_accuracy": "nodes-test",
    "nodes": "nodes-alone",
}
_FEWEST = 11  # nodes of which the worst tenth is more than one


def scalars(event: Mapping[str, Any]) -> dict[str, float]:
    """Give what an event measures.

    Args:
        event: An event of the journal.

    Returns:
        Name, with "/" in it → number; of events that end a round or a run, of others nothing.
        What is not known, or not finite, is left out. Bytes are counted, of a round; where they
        are secret, "expected/…" stands for them.
    """
    match event["event"]:
        case "round_finished":
            return dict(_of_round(event))
        case "run_finished":
            return dict(_of_run(event))
        case _:
            return {}


def _of_round(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield from _numbers({name: event.get(key) for key, name in _PLAIN.items()})
    if "rejected" in event:
        reasons = event["rejected"].values()
        out = sum(str(reason).startswith(SITS_OUT) for reason in reasons)
        yield from {"replies/failed": len(reasons) - out, "replies/sitting-out": out}.items()
    for split in ("validation", "test"):
        yield from _numbers(event.get(split) or {}, f"{split}/")
    yield from _over_nodes(event)
    yield from _numbers(event.get("expected") or {}, "expected/")
    yield from _numbers(event.get("notes") or {}, "strategy/")


def _of_run(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield from _numbers({name: event.get(key) for key, name in _AT_THE_END.items()})
    yield from _numbers(event.get("test") or {}, "run/test-")
    yield from _numbers(event.get("expected") or {}, "run/expected-")
    yield from ((f"run/{name}", value) for name, value in _over_nodes(event))


def _over_nodes(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Give means over nodes, and over the worst tenth where that is more than one."""
    for key, name in _SPREADS.items():
        spread = event.get(key) or {}
        count = len(spread.get("nodes") or ())
        if count > 1:  # else the mean is a node's own
            told = {"mean": spread.get("mean")}
            told |= {"worst-decile": spread.get("worst_decile")} if count >= _FEWEST else {}
            yield from _numbers(told, f"{name}/{spread.get('metric', 'accuracy')}-")


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Keep what is a number; the journal has null for what is none."""
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
