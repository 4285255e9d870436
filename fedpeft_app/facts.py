"""What an exported folder says about the run that it comes from."""

from collections.abc import Mapping
from typing import Any

from fedpeft_app.config import RunConfig


def run_facts(
    config: RunConfig,
    run: str,
    *,
    exported: str | int,
    nodes: int | None,
    traffic: Mapping[str, Any],
    test: Mapping[str, float],
    privacy: Mapping[str, str],
) -> dict[str, Any]:
    """Collect a model card's rows.

    Args:
        config: The run's configuration.
        run: Its name.
        exported: The round that is exported, and why.
        nodes: How many took part; None if that is not known.
        traffic: Bytes of the whole run, as `traffic.summary` has them; empty if it did not end.
        test: The round's metrics on test data, in float32; empty if there are none.
        privacy: The run's privacy statement; empty if nothing is protected.

    Returns:
        Name → value, in the order of the rows.
    """
    return {
        "run": run,
        "method": config.method.name,
        **({"method.head": config.method.head} if config.method.head != "train" else {}),
        "mode": config.mode,
        "rounds": config.rounds,
        "exported round": exported,
        **({"nodes": nodes} if nodes is not None else {}),
        **_bytes(traffic),
        **{f"test {name}": round(value, 4) for name, value in test.items()},
        **privacy,
    }


def _bytes(traffic: Mapping[str, Any]) -> dict[str, int]:
    """Add both directions up, and say whether they were counted."""
    for name, found in (("sent", traffic), ("expected", traffic.get("expected", {}))):
        if "down" in found:
            return {f"bytes {name}, both directions": found["down"] + found["up"]}
    return {}
