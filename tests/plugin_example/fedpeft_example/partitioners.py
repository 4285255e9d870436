"""A partitioner: every node gets every label, as evenly as whole examples allow."""

from typing import Any

from fedpeft_app.data.partition import PartitionSettings


class Dealt:
    """Deal examples out like cards that were sorted by label.

    Args:
        nodes: Number of nodes.
        settings: The `data.*` keys about partitions; not needed here.
        seed: The run's; not needed here, as examples come shuffled.

    Attributes:
        dataset: A `datasets.Dataset` with the columns "position" and "label", set by fedpeft.
    """

    dataset: Any

    def __init__(self, nodes: int, settings: PartitionSettings, seed: int) -> None:
        self._nodes = nodes

    def load_partition(self, node: int) -> Any:
        """Give a node's rows."""
        cards = self.dataset.sort("label")
        return cards.select(range(node, len(cards), self._nodes))
