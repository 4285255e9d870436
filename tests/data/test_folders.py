"""A folder a class: texts or images, with or without splits above."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedpeft_app.data.columns import Columns, Reads
from fedpeft_app.data.encoded import encoded
from fedpeft_app.data.examples import Examples
from fedpeft_app.data.read import read
from fedpeft_app.data.sources import find_source
from fedpeft_app.data.tasks.image_classification import ImageClassification
from fedpeft_app.errors import DataError

TEXT, IMAGE = Reads(inputs=(("text",),)), Reads(inputs=(("image",),))


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def load(folder: Path, reads: Reads = TEXT) -> tuple[dict[str, Examples], tuple[str, ...]]:
    return read(find_source(str(folder)), Columns(text="not", label="used"), reads)


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    folder = write(tmp_path, b__2_txt="two", b__1_txt="one", a__deep__x_txt="ex")
    splits, names = load(folder)
    assert (list(splits), names) == (["train"], ("a", "b"))
    assert splits["train"].inputs == ["ex", "one", "two"]
    assert splits["train"].labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
def test_splits_may_stand_above(tmp_path: Path, validation: str) -> None:
    folder = write(tmp_path, train__a__1_txt="1", train__b__2_txt="2", test__b__3_txt="3")
    write(folder, **{f"{validation}__a__4_txt": "4"})
    splits, names = load(folder)
    assert names == ("a", "b")
    assert {name: split.inputs for name, split in splits.items()} == {
        "train": ["1", "2"],
        "validation": ["4"],
        "test": ["3"],
    }


def test_what_a_system_leaves_behind_does_not_count(tmp_path: Path) -> None:
    folder = write(tmp_path, a__1_txt="1", b__2_txt="2")
    for name in (".DS_Store", "Thumbs.db"):
        (folder / "a" / name).write_text("x")
    (folder / ".git").mkdir()
    splits, names = load(folder)
    assert (len(splits["train"].inputs), names) == (2, ("a", "b"))


def test_images_are_found_not_read(tmp_path: Path) -> None:
    for name in ("a/1.JPG", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no image at all")
    splits, _ = load(tmp_path, IMAGE)
    assert [picture.content for picture in splits["train"].inputs] == [
        tmp_path / "a" / "1.JPG",
        tmp_path / "b" / "2.png",
    ]


def test_texts_are_no_images(tmp_path: Path) -> None:
    folder = write(tmp_path, a__1_txt="1", b__2_txt="2")
    with pytest.raises(DataError, match=r"no column 'image' \(data.image-column\). It has: text"):
        load(folder, IMAGE)


def test_the_fingerprint_follows_files(tmp_path: Path) -> None:
    folder = write(tmp_path, a__1_txt="1", b__2_txt="2")
    first = find_source(str(folder)).fingerprint
    assert find_source(str(folder)).fingerprint == first
    write(folder, b__2_txt="twenty")
    second = find_source(str(folder)).fingerprint
    (folder / "b" / "2.txt").rename(folder / "a" / "2.txt")
    write(folder, b__3_txt="3")
    assert len({first, second, find_source(str(folder)).fingerprint}) == 3


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, a__1_txt="1", b__2_txt="2")
    (folder / "b" / "3.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"b/3\.txt as text in UTF-8"):
        load(folder)
    write(folder, b__3_txt=" \n")
    with pytest.raises(DataError, match=r"Expected a text in .*b/3\.txt, found nothing\."):
        load(folder)
    (folder / "b" / "3.txt").rename(folder / "b" / "3.png")
    with pytest.raises(DataError, match=r"got both, such as .*/b/3\.png among 3 files"):
        load(folder)
    (folder / "b" / "3.png").rename(folder / "b" / "3.pdf")
    with pytest.raises(DataError, match=r"got .*b/3\.pdf\. Remove it"):
        load(folder)
    (folder / "b" / "3.pdf").unlink()
    (folder / "valid").mkdir()
    (folder / "dev").mkdir()
    with pytest.raises(DataError, match="Expected one validation folder in .*, got 2"):
        load(folder)


def test_other_splits_need_one_for_training(tmp_path: Path) -> None:
    folder = write(tmp_path, test__a__1_txt="1", other__2_txt="2")
    with pytest.raises(DataError, match=r"a folder train beside .*/test, found none"):
        load(folder)


def test_a_folder_of_nothing_known_says_what_could_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file named train.*idx3-ubyte.*one sub-folder a class"):
        find_source(str(tmp_path))


def test_an_example_is_named_by_its_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", a__1_txt="1", b__2_txt="2", c__3_txt="3")
    splits, _ = load(folder)
    assert splits["train"].place(2) == str(folder / "b" / "2.txt")
    with pytest.raises(DataError, match=r"c/3\.txt: label 'c' is not one of \['a', 'b'\]"):
        read(find_source(str(folder)), Columns(labels=("a", "b")), TEXT)
    with pytest.raises(DataError, match=r"^\S+/b/2\.txt: the tokenizer finds no token"):
        encoded(
            ("key",),
            lambda: load(folder),
            lambda texts: [np.array([1] if text == "1" else [], np.int32) for text in texts],
        )


def test_an_image_that_cannot_be_read_is_named_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("a/1.png", "b/2.png"):
        (folder / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "b" / "2.png").write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"^Cannot read the image \S+/b/2\.png"):
        encoded(("key",), lambda: load(folder, IMAGE), ImageClassification().encode)
