"""Encoded examples: written once, memory-mapped, never stale or torn."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.data.encoded import EncodedSource, Values, encoded, example_set
from fedpeft_app.data.examples import Examples
from fedpeft_app.errors import DataError


def tokens(ids: Iterable[int]) -> Values:
    return np.fromiter(ids, dtype=np.int32)


class Corpus:
    """A source of two splits that counts how often it is read and encoded."""

    def __init__(self) -> None:
        self.reads = 0
        self.encoded: list[list[str]] = []

    def read(self) -> tuple[dict[str, Examples], tuple[str, ...]]:
        self.reads += 1
        train = Examples(
            where="train.csv",
            inputs=["a", "bcd", "ef"],
            labels=np.array([1, 0, 1]),
            groups=["site-b", "site-a", "site-b"],
        )
        test = Examples(where="test.csv", inputs=["gh"], labels=np.array([0]), groups=["site-c"])
        return {"train": train, "test": test}, ("no", "yes")

    def encode(self, texts: Sequence[str]) -> Iterator[Values]:
        """Give each letter's place in the alphabet, from 1."""
        self.encoded.append(list(texts))
        return (tokens(ord(letter) - 96 for letter in text) for text in texts)

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
    train, test = source.splits["train"], source.splits["test"]
    assert train.groups[train.indices].tolist() == [1, 0, 1]
    assert test.groups[test.indices].tolist() == [2]


def test_the_second_opening_neither_reads_nor_encodes(corpus: Corpus) -> None:
    first, second = corpus.open(), corpus.open()
    assert corpus.reads == 1
    assert corpus.encoded == [["a", "bcd", "ef", "gh"]]  # all splits at once
    assert first.fingerprint == second.fingerprint
    for split in ("train", "test"):
        assert first.splits[split].values.tolist() == second.splits[split].values.tolist()


def test_values_stay_on_disk(corpus: Corpus) -> None:
    values = corpus.open().splits["train"].values
    assert isinstance(values.base, np.memmap)
    assert values.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 9


def test_any_change_of_the_key_is_another_source(corpus: Corpus) -> None:
    keys = [("a", 64), ("a", 65), ("b", 64), ("a", "64"), ("a", 64, ""), ("a64",)]
    assert len({corpus.open(*key).fingerprint for key in keys}) == len(keys)
    assert corpus.reads == len(keys)


def test_concurrent_openings_encode_once(corpus: Corpus) -> None:
    with ThreadPoolExecutor(8) as pool:
        sources = list(pool.map(lambda _: corpus.open(), range(8)))
    assert corpus.reads == 1
    assert all(source.splits["train"].row(1).tolist() == [2, 3, 4] for source in sources)


def test_a_torn_write_is_done_again(corpus: Corpus, own_home: Path) -> None:
    fingerprint = corpus.open().fingerprint
    folder = own_home / "cache" / "examples" / fingerprint
    (folder / "meta.json").unlink()  # written last
    (folder / "values.bin").write_bytes(b"half")
    assert corpus.open().splits["train"].row(2).tolist() == [5, 6]
    assert corpus.reads == 2


def test_a_write_that_fails_leaves_nothing_to_read(corpus: Corpus, own_home: Path) -> None:
    def fail(texts: Sequence[str]) -> Iterator[Values]:
        yield tokens([1])
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        encoded(("key",), corpus.read, fail)
    assert not list((own_home / "cache" / "examples").rglob("meta.json"))
    assert corpus.open().splits["train"].row(0).tolist() == [1]


def test_the_folder_holds_arrays_and_json_only(corpus: Corpus, own_home: Path) -> None:
    folder = own_home / "cache" / "examples" / corpus.open().fingerprint
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {
        ".bin",
        ".npy",
        ".json",
    }
    assert json.loads((folder / "meta.json").read_text())["splits"] == {"train": 3, "test": 1}


def test_a_text_without_tokens_names_its_row(corpus: Corpus) -> None:
    def encode(texts: Sequence[str]) -> list[Values]:
        return [tokens([1] if len(text) < 3 else []) for text in texts]

    with pytest.raises(DataError, match="train.csv, row 2: the tokenizer finds no token"):
        encoded(("key",), corpus.read, encode)


def test_an_input_that_cannot_be_encoded_names_its_file_and_row(corpus: Corpus) -> None:
    def encode(texts: Sequence[str]) -> Iterator[Values]:
        for text in texts:
            if text == "gh":
                raise DataError("It is upside down.")
            yield tokens([1])

    with pytest.raises(DataError, match=r"test\.csv, row 1: It is upside down\."):
        encoded(("key",), corpus.read, encode)


def test_what_teaches_nothing_is_left_out_and_counted(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    def encode(texts: Sequence[str]) -> list[Values | None]:
        return [None if text == "bcd" else tokens([len(text)]) for text in texts]

    with caplog.at_level(logging.WARNING):
        source = encoded(("key",), corpus.read, encode)
    train = source.splits["train"]
    assert [train.row(position).tolist() for position in range(len(train))] == [[1], [2]]
    assert (train.selected_labels.tolist(), train.groups[train.indices].tolist()) == (
        [1, 1],
        [1, 1],
    )
    assert source.splits["test"].row(0).tolist() == [2]
    assert "1 of the 3 examples in train.csv are left out" in caplog.text


def test_a_split_that_teaches_nothing_is_refused(corpus: Corpus) -> None:
    def encode(texts: Sequence[str]) -> list[Values | None]:
        return [None if text == "gh" else tokens([1]) for text in texts]

    with pytest.raises(DataError, match=r"None of the 1 examples in test\.csv has an answer"):
        encoded(("key",), corpus.read, encode)


def test_images_keep_their_shape_and_bytes() -> None:
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    examples = Examples(where="x", inputs=[0, 1], labels=np.array([1, 0]), groups=[])
    source = encoded(
        ("key",), lambda: ({"train": examples}, ("a", "b")), lambda inputs: iter(pixels)
    )
    train = source.splits["train"]
    assert (train.shape, train.values.dtype) == ((3, 4, 3), np.uint8)
    assert np.array_equal(train.row(1), pixels[1])
    assert train.lengths.tolist() == [36, 36]
    held = example_set(list(pixels)).select(np.array([1]))
    assert np.array_equal(held.row(0), pixels[1])


def test_many_labels_are_stored_as_marks() -> None:
    marks = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1]], np.uint8)
    examples = Examples(where="x", inputs=["a", "b", "c"], labels=marks, groups=[])
    source = encoded(
        ("key",),
        lambda: ({"train": examples}, ("p", "q", "r")),
        lambda texts: [tokens([1]) for _ in texts],
    )
    assert source.splits["train"].selected_labels.tolist() == marks.tolist()
    assert source.splits["train"].strata.tolist() == [1, 3, 0]  # the first; none is the last


def test_the_strata_of_single_labels_are_the_labels() -> None:
    held = example_set([[1], [2], [3]], np.array([2, 0, 1]))
    assert held.select(np.array([2, 0])).strata.tolist() == [1, 2]


def test_select_narrows_what_is_selected(corpus: Corpus) -> None:
    train = corpus.open().splits["train"]
    once = train.select(np.array([2, 0]))
    assert [once.row(position).tolist() for position in range(len(once))] == [[5, 6], [1]]
    twice = once.select(np.array([1]))
    assert (twice.row(0).tolist(), twice.indices.tolist()) == ([1], [0])
    assert twice.values is train.values
    assert len(once.select(np.zeros(0, np.int64))) == 0


@given(rows=st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=8))
def test_token_set_holds_any_rows(rows: list[list[int]]) -> None:
    held = example_set(rows)
    assert [held.row(position).tolist() for position in range(len(held))] == rows
    assert held.lengths.tolist() == [len(row) for row in rows]
    assert held.selected_labels.tolist() == [0] * len(rows)


@pytest.mark.parametrize("damage", ["overwrite", "truncate", "remove", "meta"])
def test_a_damaged_store_is_made_anew(damage: str, own_home: Path) -> None:
    examples = Examples(where="x", inputs=["a b", "c"], labels=np.array([0, 1]), groups=[])
    calls = []

    def read() -> tuple[dict[str, Examples], tuple[str, ...]]:
        calls.append(1)
        return {"train": examples}, ("x", "y")

    def encode(texts: Sequence[str]) -> list[Values]:
        return [tokens(ord(word) for word in text.split()) for text in texts]

    def content() -> list[int]:
        return [int(token) for token in encoded(["key"], read, encode).splits["train"].values]

    assert content() == content() == [97, 98, 99]
    assert len(calls) == 1
    values = next((own_home / "cache").rglob("values.bin"))
    if damage == "overwrite":
        values.write_bytes(values.read_bytes()[:-4] + b"\xff\xff\xff\x7f")
    elif damage == "truncate":
        values.write_bytes(values.read_bytes()[:-4])
    elif damage == "remove":
        values.unlink()
    else:
        (values.parent / "meta.json").write_text("{", encoding="utf-8")
    assert content() == [97, 98, 99]
    assert len(calls) == 2


def test_a_sound_store_is_opened_without_waiting_for_anybody(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = corpus.open()

    def held(path: str) -> None:
        raise AssertionError(path)

    monkeypatch.setattr("fedpeft_app.data.encoded.FileLock", held)
    assert corpus.open().fingerprint == first.fingerprint
