"""A node's own settings: none is misread, and no two nodes have the same share."""

import re
from pathlib import Path
from typing import Any

import pytest

import fedpeft_app
from fedpeft_app.errors import DataError
from fedpeft_app.node.settings import KNOWN, chosen_split, require_known, share_of


def test_a_misspelt_key_is_refused_with_what_was_meant() -> None:
    with pytest.raises(DataError, match=r"Unknown key 'datapath' .* Did you mean 'data-path'\?"):
        require_known({"name": "a", "datapath": "/typo.csv"})
    require_known(dict.fromkeys(KNOWN))


def test_whatever_is_read_is_known() -> None:
    """Literal keys; those in a constant are known too, or nobody could set them."""
    read = r"node_config(?:\.get\(|\[|, )\s*\"([a-z-]+)\""
    package = Path(fedpeft_app.__file__).parent
    found = {
        key
        for file in package.rglob("*.py")
        for key in re.findall(read, file.read_text(encoding="utf-8"))
    }
    assert {"name", "batch-size", "rank"} <= found <= set(KNOWN)


def test_a_node_without_data_needs_a_share() -> None:
    with pytest.raises(DataError, match="Expected data-path .* or partition-id"):
        share_of({"name": "a"})


@pytest.mark.parametrize(
    "config",
    [
        {"partition-id": 1},
        {"partition-id": 4, "num-partitions": 4},
        {"partition-id": -1, "num-partitions": 4},
        {"partition-id": "0", "num-partitions": 4},
    ],
)
def test_there_must_be_such_a_share(config: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="below num-partitions"):
        share_of(config)
    assert share_of({"partition-id": 3, "num-partitions": 4}) == (3, 4)


def test_a_node_trains_on_the_split_that_its_owner_names() -> None:
    splits = ("train", "validation", "test")
    assert chosen_split({}, splits) == "train"
    assert chosen_split({"data-split": "validation"}, splits) == "validation"
    with pytest.raises(DataError, match=r"train, validation, test, got 'tarin'.* 'train'"):
        chosen_split({"data-split": "tarin"}, splits)
