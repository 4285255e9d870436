"""What a node's owner can set for it in its --node-config."""

from collections.abc import Collection, Mapping
from typing import Any

from fedpeft_app.errors import DataError
from fedpeft_app.registry import near_miss

KNOWN = (
    "data-path",
    "data-split",
    "name",
    "policy",
    "batch-size",
    "rank",
    "validation-fraction",
    "workers",
    "partition-id",
    "num-partitions",
)


def require_known(node_config: Mapping[str, Any]) -> None:
    """Refuse keys that nobody reads: a misspelt one would count as not set, silently.

    Args:
        node_config: Flower's node configuration.

    Raises:
        DataError: With the first such key, and what may have been meant.
    """
    for key in node_config:
        if key not in KNOWN:
            raise DataError(
                f"Unknown key '{key}' in this node's --node-config. Known: {', '.join(KNOWN)}."
                f"{near_miss(key, KNOWN)}"
            )


def chosen_split(node_config: Mapping[str, Any], splits: Collection[str]) -> str:
    """Read which split of its own data a node trains on; the others are never trained on.

    Args:
        node_config: Flower's node configuration.
        splits: Names of those that there are; "train" among them.

    Raises:
        DataError: If there is no such split.
    """
    chosen = str(node_config.get("data-split", "train"))
    if chosen not in splits:
        raise DataError(
            f"Expected data-split in this node's --node-config to be one of its data's splits, "
            f"{', '.join(splits)}, got {chosen!r}.{near_miss(chosen, splits)}"
        )
    return chosen


def share_of(node_config: Mapping[str, Any]) -> tuple[int, int]:
    """Read which share of the public data a node without data of its own has.

    Args:
        node_config: Flower's node configuration.

    Returns:
        Its share, from 0, and of how many.

    Raises:
        DataError: If it was given none, or there is no such share: two nodes would have the same.
    """
    if "partition-id" not in node_config:
        raise DataError(
            "Expected data-path (data of this node's own) or partition-id and num-partitions (its "
            "share of the run's public data) in its --node-config, got neither."
        )
    share, count = node_config["partition-id"], node_config.get("num-partitions", 1)
    if not (isinstance(share, int) and isinstance(count, int) and 0 <= share < count):
        raise DataError(
            f"Expected a partition-id from 0 and below num-partitions (1 if it is not set) in "
            f"this node's --node-config, got {share!r} of {count!r}."
        )
    return share, count
