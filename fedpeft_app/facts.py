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
    sent: int | None,
    test: Mapping[str, float],
    privacy: Mapping[str, str],
) -> dict[str, Any]:
    """Collect a model card's rows.

    Args:
        config: The run's configuration.
        run: Its name.
        exported: The round that is exported, and why.
        nodes: How many took part; None if that is not known.
        sent: Bytes sent in both directions in the whole run; None if it did not end.
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
        **({"bytes sent, both directions": sent} if sent is not None else {}),
        **{f"test {name}": round(value, 4) for name, value in test.items()},
        **privacy,
    }
