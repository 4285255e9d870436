"""Activations on disk: computed once, never stale, never damaged, never more than allowed."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpeft_app.data import activations as module
from fedpeft_app.data.activations import Activations, Shape, activations
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.mirrors import cache_dir

ROOMY = 2**20
SHAPE = Shape(rows=np.array([2, 3, 1]), width=4, dtype="float32")  # 96 bytes


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPEFT_HOME", str(tmp_path))


@pytest.fixture
def examples() -> ExampleSet:
    return replace(example_set([[1, 2], [3, 4, 5], [6]]), source="a store")


class Counting:
    """Writes numbers, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, empty: Activations) -> None:
        self.times += 1
        size = int(empty.offsets[-1])
        numbers = np.arange(size * 4, dtype=np.float32).reshape(size, 4)
        for position in range(3):
            own = numbers[empty.offsets[position] : empty.offsets[position + 1]]
            empty.put(np.array([position]), own[None])


def opened(examples: ExampleSet, fill: Any, limit: int = ROOMY, key: str = "m") -> Activations:
    found = activations([key], examples, SHAPE, fill, limit)
    assert found is not None
    return found


def folders() -> list[Path]:
    return sorted(path for path in (cache_dir() / "activations").iterdir() if path.is_dir())


def test_they_are_computed_once_and_read_ever_after(examples: ExampleSet) -> None:
    fill = Counting()
    first = opened(examples, fill).values.copy()
    assert np.array_equal(opened(examples, fill).values, first)
    assert fill.times == 1
    assert first[-1].tolist() == [20.0, 21.0, 22.0, 23.0]


def test_a_batch_has_zeros_behind_shorter_examples(examples: ExampleSet) -> None:
    batch = opened(examples, Counting()).batch(np.array([2, 1]))
    assert batch.shape == (2, 3, 4)
    assert batch[0].tolist() == [[20.0, 21.0, 22.0, 23.0], [0.0] * 4, [0.0] * 4]
    assert batch[1].ravel().tolist() == list(range(8, 20))


def test_what_is_put_is_cut_to_the_rows_of_each_example(examples: ExampleSet) -> None:
    def fill(empty: Activations) -> None:
        empty.put(np.array([2, 0, 1]), np.full((3, 3, 4), 7.0, np.float32))
        empty.put(np.array([0]), np.full((1, 3, 4), 8.0, np.float32))

    values = opened(examples, fill).values
    assert values[:, 0].tolist() == [8.0, 8.0, 7.0, 7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    "change",
    [
        lambda examples: replace(examples, source="another store"),
        lambda examples: replace(examples, indices=examples.indices[::-1].copy()),
    ],
    ids=["store", "selection"],
)
def test_others_have_their_own(examples: ExampleSet, change: Any) -> None:
    fill = Counting()
    opened(examples, fill)
    opened(change(examples), fill)
    opened(examples, fill, key="another model")
    assert fill.times == 3


def test_examples_in_memory_alone_have_none(examples: ExampleSet) -> None:
    fill = Counting()
    assert activations(["m"], replace(examples, source=""), SHAPE, fill, ROOMY) is None
    assert fill.times == 0


def test_damaged_ones_are_computed_anew(examples: ExampleSet) -> None:
    fill = Counting()
    before = opened(examples, fill).values.copy()
    (folder,) = folders()
    content = bytearray((folder / "values.bin").read_bytes())
    content[17] ^= 1
    (folder / "values.bin").write_bytes(content)
    assert np.array_equal(opened(examples, fill).values, before)
    assert fill.times == 2


def test_half_written_ones_are_never_read(examples: ExampleSet) -> None:
    def fails(empty: Activations) -> None:
        empty.values[0] = 1.0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(examples, fails)
    assert folders() == []
    fill = Counting()
    assert opened(examples, fill).values[0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert fill.times == 1


def test_there_are_none_where_they_would_not_fit(
    examples: ExampleSet, caplog: pytest.LogCaptureFixture
) -> None:
    fill = Counting()
    assert activations(["m"], examples, SHAPE, fill, SHAPE.bytes - 1) is None
    assert fill.times == 0
    assert "train.frozen-cache-gib" in caplog.text


def test_those_unused_for_longest_make_room(examples: ExampleSet) -> None:
    fill, limit = Counting(), 400  # each takes 96, and 77 for its digest
    opened(examples, fill, limit, "old")
    (old,) = folders()
    long_ago = time.time() - 2 * module._IN_USE_S
    os.utime(old, (long_ago, long_ago))
    opened(examples, fill, limit, "older, but used again")
    second = next(folder for folder in folders() if folder != old)
    opened(examples, fill, limit, "new")
    assert old not in folders()
    assert second in folders()


def test_what_was_used_lately_is_never_deleted(examples: ExampleSet) -> None:
    fill, limit = Counting(), int(1.5 * SHAPE.bytes) + 100
    opened(examples, fill, limit, "in use")
    assert activations(["new"], examples, SHAPE, fill, limit) is None
    assert len(folders()) == 1


def test_what_is_being_filled_is_never_deleted_however_long_that_takes(
    examples: ExampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IN_USE_S", -1.0)  # all counts as unused
    fill, limit = Counting(), int(1.5 * SHAPE.bytes)

    def crowded(empty: Activations) -> None:
        assert activations(["another"], examples, SHAPE, fill, limit) is None
        fill(empty)

    opened(examples, crowded, limit)
    assert fill.times == 1


def test_what_a_killed_process_left_behind_makes_room(examples: ExampleSet) -> None:
    opened(examples, Counting())
    (folder,) = folders()
    left = folder.rename(folder.with_suffix(".partial"))
    long_ago = time.time() - 2 * module._IN_USE_S
    os.utime(left, (long_ago, long_ago))
    opened(examples, Counting(), int(1.5 * SHAPE.bytes) + 100, "another")
    assert left not in folders()


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    examples: ExampleSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert activations(["m"], examples, SHAPE, Counting(), ROOMY) is None
    assert "computed in every pass" in caplog.text


def test_a_full_disk_costs_time_and_nothing_else(
    examples: ExampleSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    assert activations(["m"], examples, SHAPE, Counting(), ROOMY) is None
    assert "No space left" in caplog.text
    assert folders() == []
