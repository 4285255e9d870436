"""IDX files: read as written, damage named."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fedpeft_app.data import sources
from fedpeft_app.data.columns import Columns, Reads
from fedpeft_app.data.images import pixels_of
from fedpeft_app.data.read import read
from fedpeft_app.data.sources import find_source
from fedpeft_app.errors import DataError, SourceError

IMAGE = Reads(inputs=(("image",),))
PIXELS = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4)


def idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return b"\0\0\x08" + bytes([values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def write(
    folder: Path, *, packed: bool = False, labels: tuple[int, ...] = (9, 0, 9), split: str = "train"
) -> Path:
    folder.mkdir(exist_ok=True)
    for name, values in (
        (f"{split}-images-idx3-ubyte", PIXELS),
        (f"{split}-labels-idx1-ubyte", np.array(labels)),
    ):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (folder / name).write_bytes(idx(values))
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_images_and_labels_come_back(tmp_path: Path, *, packed: bool) -> None:
    folder = write(write(tmp_path / "d", packed=packed), packed=packed, split="t10k")
    splits, names = read(find_source(str(folder)), Columns(), IMAGE)
    assert (sorted(splits), names) == (["test", "train"], ("0", "9"))
    assert splits["train"].labels.tolist() == [1, 0, 1]
    found = pixels_of(splits["test"].inputs[2])
    assert np.array_equal(found, np.stack([PIXELS[2]] * 3, axis=-1))


def test_fashion_mnist_has_its_labels_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_FASHION_FOLDER", write(tmp_path / "d", packed=True))
    splits, names = read(find_source("fashion-mnist"), Columns(), IMAGE)
    assert (len(names), names[0], names[9]) == (10, "T-shirt/top", "Ankle boot")
    assert splits["train"].labels.tolist() == [9, 0, 9]


def test_fashion_mnist_that_is_not_installed_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_FASHION_FOLDER", tmp_path / "none")
    with pytest.raises(SourceError, match="apt-get install dataset-fashion-mnist"):
        find_source("fashion-mnist")


def damage(folder: Path, kind: str) -> None:
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    match kind:
        case "no labels":
            labels.unlink()
        case "swapped":
            images.write_bytes(labels.read_bytes())
        case "short":
            images.write_bytes(images.read_bytes()[:-1])
        case "header only":
            images.write_bytes(images.read_bytes()[:9])
        case "counts":
            labels.write_bytes(idx(np.array([1, 2])))
        case "not packed":
            images.rename(images.with_name(f"{images.name}.gz"))


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("no labels", r"Expected train-labels-idx1-ubyte\[\.gz\] beside .*train-images"),
        ("swapped", "Expected an IDX file of bytes in 3 dimensions in .*train-images"),
        ("short", "Expected 3 x 2 x 4 values in .*train-images.*, got 23"),
        ("header only", "Expected an IDX file"),
        ("counts", "holds 3 images, .*train-labels-idx1-ubyte 2 labels"),
        ("not packed", "Cannot read .*train-images"),
    ],
)
def test_damage_is_named(tmp_path: Path, kind: str, complaint: str) -> None:
    folder = write(tmp_path / "d")
    damage(folder, kind)
    with pytest.raises(DataError, match=complaint):
        read(find_source(str(folder)), Columns(), IMAGE)


def test_a_label_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FASHION_FOLDER", write(tmp_path / "d", labels=(1, 2, 10)))
    with pytest.raises(DataError, match="has label 10, expected 0 to 9"):
        read(find_source("fashion-mnist"), Columns(), IMAGE)
