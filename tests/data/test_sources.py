"""Data name → files: known ids, local files and folders, hub ids."""

from pathlib import Path

import pytest

from fedpeft_app.data import sources
from fedpeft_app.data.folders import TABLES
from fedpeft_app.data.sources import find_source
from fedpeft_app.errors import DataError, SourceError


def test_known_id_is_fetched_and_has_two_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        (tmp_path / f"reuters-r8-{split}.tab").write_text(split)
    monkeypatch.setattr(sources, "fetch", lambda name: tmp_path)
    source = find_source("reuters-r8")
    assert (source.kind, sorted(source.files)) == ("cardoso", ["test", "train"])
    assert source.files["test"].read_text() == "test"


def test_a_pinned_model_is_no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "fetch", lambda name: pytest.fail("must not download"))
    assert find_source("sentence-transformers/all-MiniLM-L6-v2").kind == "hub"


@pytest.mark.parametrize("suffix", TABLES)
def test_a_file_is_all_training_data(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_text("content")
    source = find_source(str(path))
    assert (source.kind, dict(source.files)) == ("tables", {"train": path})


@pytest.mark.parametrize("validation", ["validation", "valid", "dev"])
def test_a_folder_has_splits_by_file_name(tmp_path: Path, validation: str) -> None:
    for name in ("train.csv", f"{validation}.jsonl", "test.parquet", "notes.csv", "train.txt"):
        (tmp_path / name).write_text(name)
    files = find_source(str(tmp_path)).files
    assert {split: path.name for split, path in files.items()} == {
        "train": "train.csv",
        "validation": f"{validation}.jsonl",
        "test": "test.parquet",
    }


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.csv").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert find_source("./train.csv").files["train"] == tmp_path / "train.csv"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_source("~/train.csv").files["train"] == tmp_path / "train.csv"


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/folder",
        "./none",
        "~/none",
        "~nobody-here/none",
        "none.csv",
        "none.tsv",
        "data/none.XLSX",
        "photoz/",
        "a/b/c",
    ],
)
def test_missing_path_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(
        SourceError, match=r"No data at '.*file \(\.csv, .*reuters-r8, reuters-r52, 20newsgroups"
    ):
        find_source(name)


@pytest.mark.parametrize("name", ["imdb", "org/corpus", "org/corpus-2.5"])
def test_other_names_are_hub_ids_not_looked_up_yet(name: str) -> None:
    source = find_source(name)
    assert (source.kind, source.files, source.fingerprint) == ("hub", {}, f"hub:{name}")
    assert find_source(name, "part").fingerprint == f"hub:{name}:part"


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.xlsx"
    path.write_text("x")
    with pytest.raises(DataError, match=r"\.csv, \.json, \.jsonl, \.parquet, got '.*data\.xlsx'"):
        find_source(str(path))


def test_folder_without_training_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("x")
    with pytest.raises(DataError, match=r"Expected a file named train"):
        find_source(str(tmp_path))


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "valid.csv", "dev.csv"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"Expected one validation file in .*, got 2"):
        find_source(str(tmp_path))


def test_fingerprint_follows_content_and_split_not_place(tmp_path: Path) -> None:
    def fingerprint(folder: str, **content: str) -> str:
        place = tmp_path / folder
        place.mkdir()
        for split, text in content.items():
            (place / f"{split}.csv").write_text(text)
        return find_source(str(place)).fingerprint

    first = fingerprint("first", train="a", test="b")
    assert fingerprint("second", train="a", test="b") == first
    others = [
        fingerprint("third", train="a", test="c"),
        fingerprint("fourth", train="b", test="a"),
        fingerprint("fifth", train="a"),
    ]
    assert len({first, *others}) == 4
