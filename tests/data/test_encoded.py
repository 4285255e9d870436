"""Tokenised examples: written once, memory-mapped, never stale or torn."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.data.encoded import EncodedSource, encoded, example_set
from fedpeft_app.data.read import Examples
from fedpeft_app.errors import DataError


class Corpus:
    """A source of two splits that counts how often it is read and encoded."""

    def __init__(self) -> None:
        self.reads = 0
        self.encoded: list[list[str]] = []

    def read(self) -> tuple[dict[str, Examples], tuple[str, ...]]:
        self.reads += 1
        train = Examples(
            texts=["a", "bcd", "ef"],
            labels=np.array([1, 0, 1]),
            groups=["site-b", "site-a", "site-b"],
        )
        test = Examples(texts=["gh"], labels=np.array([0]), groups=["site-c"])
        return {"train": train, "test": test}, ("no", "yes")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Give each letter's place in the alphabet, from 1."""
        self.encoded.append(list(texts))
        return [[ord(letter) - 96 for letter in text] for text in texts]

    def open(self, *key: object) -> EncodedSource:
        return encoded(key or ("key",), self.read, self.encode)


@pytest.fixture
def corpus() -> Corpus:
    return Corpus()


def test_tokens_come_back_as_encoded(corpus: Corpus) -> None:
    source = corpus.open()
    train = source.splits["train"]
    assert [train.row(position).tolist() for position in range(3)] == [[1], [2, 3, 4], [5, 6]]
    assert train.lengths.tolist() == [1, 3, 2]
    assert train.selected_labels.tolist() == [1, 0, 1]
    assert source.splits["test"].row(0).tolist() == [7, 8]
    assert source.label_names == ("no", "yes")


def test_groups_are_indices_into_sorted_names_of_all_splits(corpus: Corpus) -> None:
    source = corpus.open()
    for split in source.splits.values():
        assert split.group_names == ("site-a", "site-b", "site-c")
    assert source.splits["train"].groups.tolist() == [1, 0, 1]
    assert source.splits["test"].groups.tolist() == [2]


def test_the_second_opening_neither_reads_nor_encodes(corpus: Corpus) -> None:
    first, second = corpus.open(), corpus.open()
    assert corpus.reads == 1
    assert corpus.encoded == [["a", "bcd", "ef"], ["gh"]]  # once a split
    assert first.fingerprint == second.fingerprint
    for split in ("train", "test"):
        assert first.splits[split].ids.tolist() == second.splits[split].ids.tolist()


def test_token_ids_stay_on_disk(corpus: Corpus) -> None:
    ids = corpus.open().splits["train"].ids
    assert isinstance(ids, np.memmap)
    assert ids.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 9


def test_any_change_of_the_key_is_another_source(corpus: Corpus) -> None:
    keys = [("a", 64), ("a", 65), ("b", 64), ("a", "64"), ("a", 64, ""), ("a64",)]
    assert len({corpus.open(*key).fingerprint for key in keys}) == len(keys)
    assert corpus.reads == len(keys)


def test_concurrent_openings_tokenise_once(corpus: Corpus) -> None:
    with ThreadPoolExecutor(8) as pool:
        sources = list(pool.map(lambda _: corpus.open(), range(8)))
    assert corpus.reads == 1
    assert all(source.splits["train"].ids.tolist() == [1, 2, 3, 4, 5, 6] for source in sources)


def test_a_torn_write_is_done_again(corpus: Corpus, own_home: Path) -> None:
    fingerprint = corpus.open().fingerprint
    folder = own_home / "cache" / "tokens" / fingerprint
    (folder / "meta.json").unlink()  # written last
    (folder / "train" / "ids.npy").write_bytes(b"half")
    assert corpus.open().splits["train"].row(2).tolist() == [5, 6]
    assert corpus.reads == 2


def test_a_write_that_fails_leaves_nothing_to_read(corpus: Corpus, own_home: Path) -> None:
    def fail(texts: Sequence[str]) -> list[list[int]]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        encoded(("key",), corpus.read, fail)
    assert not list((own_home / "cache" / "tokens").rglob("meta.json"))
    assert corpus.open().splits["train"].row(0).tolist() == [1]


def test_the_folder_holds_arrays_and_json_only(corpus: Corpus, own_home: Path) -> None:
    folder = own_home / "cache" / "tokens" / corpus.open().fingerprint
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".npy", ".json"}
    assert json.loads((folder / "meta.json").read_text())["splits"] == ["train", "test"]


def test_a_text_without_tokens_names_its_row(corpus: Corpus) -> None:
    with pytest.raises(DataError, match="Split 'train', row 2: the tokenizer finds no token"):
        encoded(("key",), corpus.read, lambda texts: [[1] if len(t) < 3 else [] for t in texts])


def test_select_narrows_what_is_selected(corpus: Corpus) -> None:
    train = corpus.open().splits["train"]
    once = train.select(np.array([2, 0]))
    assert [once.row(position).tolist() for position in range(len(once))] == [[5, 6], [1]]
    twice = once.select(np.array([1]))
    assert (twice.row(0).tolist(), twice.indices.tolist()) == ([1], [0])
    assert twice.ids is train.ids
    assert len(once.select(np.zeros(0, np.int64))) == 0


@given(rows=st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=8))
def test_token_set_holds_any_rows(rows: list[list[int]]) -> None:
    held = example_set(rows)
    assert [held.row(position).tolist() for position in range(len(held))] == rows
    assert held.lengths.tolist() == [len(row) for row in rows]
    assert held.selected_labels.tolist() == [0] * len(rows)


@pytest.mark.parametrize("damage", ["overwrite", "truncate", "remove", "meta"])
def test_a_damaged_store_is_made_anew(damage: str, own_home: Path) -> None:
    examples = Examples(texts=["a b", "c"], labels=np.array([0, 1]), groups=[])
    calls = []

    def read() -> tuple[dict[str, Examples], tuple[str, ...]]:
        calls.append(1)
        return {"train": examples}, ("x", "y")

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [[ord(word) for word in text.split()] for text in texts]

    def content() -> list[int]:
        return [int(token) for token in encoded(["key"], read, encode).splits["train"].ids]

    assert content() == content() == [97, 98, 99]
    assert len(calls) == 1
    ids = next((own_home / "cache").rglob("ids.npy"))
    if damage == "overwrite":
        ids.write_bytes(ids.read_bytes()[:-4] + b"\xff\xff\xff\x7f")
    elif damage == "truncate":
        ids.write_bytes(ids.read_bytes()[:-4])
    elif damage == "remove":
        ids.unlink()
    else:
        (ids.parents[1] / "meta.json").write_text("{", encoding="utf-8")
    assert content() == [97, 98, 99]
    assert len(calls) == 2
