"""Tables → texts and labels: same content from every format, faults named by row."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpeft_app.data.columns import Columns, Reads
from fedpeft_app.data.examples import Examples, image_files
from fedpeft_app.data.images import pixels_of
from fedpeft_app.data.read import read
from fedpeft_app.data.sources import Source, find_source
from fedpeft_app.errors import DataError

TEXT = Reads(inputs=(("text",),))
TEXTS = ["plain", 'commas, "quotes"', "two\nlines", "Ünïcødé 小麦 🌾", "  spaced  ", "NA", "null"]
LABELS = ["b", "a", "b", "ä", "a", "None", "b"]
FORMATS = ("csv", "json", "jsonl", "parquet")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the suffix names."""
    match path.suffix:
        case ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case _:
            path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def load(path: Path, **columns: Any) -> tuple[Examples, tuple[str, ...]]:
    """Read a file's only split."""
    splits, names = read(find_source(str(path)), Columns(**columns), TEXT)
    assert list(splits) == ["train"]
    return splits["train"], names


def load_text(tmp_path: Path, name: str, content: str | bytes, **columns: Any) -> Any:
    """Write a file and read it."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(path, **columns)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_examples(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    examples, names = load(write(tmp_path / f"data.{suffix}", rows))
    assert examples.inputs == TEXTS
    assert names == ("None", "a", "b", "ä")  # by code point, on every machine
    assert examples.labels.tolist() == [2, 1, 2, 3, 1, 0, 2]
    assert examples.groups == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_numeric_labels_are_sorted_by_value(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": f"t{label}", "label": label} for label in (10, 9, -1, 2)]
    examples, names = load(write(tmp_path / f"data.{suffix}", rows))
    assert names == ("-1", "2", "9", "10")
    assert examples.labels.tolist() == [3, 2, 0, 1]


def test_labels_with_a_decimal_point_are_sorted_by_value(tmp_path: Path) -> None:
    _, names = load_text(tmp_path, "d.csv", "text,label\na,10.0\nb,9.5\nc,1.0\n")
    assert names == ("1.0", "9.5", "10.0")


@pytest.mark.parametrize("odd", ["--1", "²", "1e3", "nan", "1_000"])
def test_labels_that_only_look_like_numbers_are_names(tmp_path: Path, odd: str) -> None:
    _, names = load_text(tmp_path, "d.csv", f"text,label\na,10\nb,9\nc,{odd}\n")
    assert names == tuple(sorted(["10", "9", odd]))


def test_labels_of_one_value_have_one_order(tmp_path: Path) -> None:
    _, names = load_text(tmp_path, "d.csv", "text,label\na,1\nb,01\nc,1.0\nd,0\n")
    assert names == ("0", "01", "1", "1.0")


def test_given_labels_set_the_order(tmp_path: Path) -> None:
    content = "text,label\na,x\nb,y\n"
    examples, names = load_text(tmp_path, "d.csv", content, labels=("z", "y", "x"))
    assert names == ("z", "y", "x")
    assert examples.labels.tolist() == [2, 1]


def test_a_label_that_is_not_trained_on_is_refused_unless_named(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [{"text": "t", "label": "b"}, {"text": "u", "label": "c"}])
    write(tmp_path / "test.csv", [{"text": "v", "label": "c"}, {"text": "w", "label": "a"}])
    source = find_source(str(tmp_path))
    with pytest.raises(DataError, match=r"test\.csv, row 2: label 'a' is not one of \['b', 'c'\]"):
        read(source, Columns(), TEXT)
    splits, names = read(source, Columns(labels=("a", "b", "c")), TEXT)
    assert names == ("a", "b", "c")
    assert splits["test"].labels.tolist() == [2, 0]


def test_blanks_around_a_label_do_not_count(tmp_path: Path) -> None:
    examples, names = load_text(tmp_path, "d.csv", "text,label\na,x\nb, x \nc,y\n")
    assert names == ("x", "y")
    assert examples.labels.tolist() == [0, 0, 1]


def test_odd_column_names_and_groups(tmp_path: Path) -> None:
    rows = [
        {"the text, all of it": "t", "Ünit": 7, "y": "p", "date": "2020-01-01"},
        {"the text, all of it": "u", "Ünit": 8, "y": "q", "date": "2021"},
    ]
    for suffix in FORMATS:
        path = write(tmp_path / f"d.{suffix}", rows)
        examples, _ = load(path, text="the text, all of it", label="y", group="Ünit")
        assert (examples.inputs, examples.groups) == (["t", "u"], ["7", "8"])
        assert load(path, text="date", label="y")[0].inputs == ["2020-01-01", "2021"]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "t", "label": "p"}, {"text": "u", "label": "q"}]
    path = write(tmp_path / f"d.{suffix}", rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path)[0].inputs == ["t", "u"]


def test_json_may_be_an_object_of_columns(tmp_path: Path) -> None:
    for value in (
        {"text": ["t", "u"], "label": [1, 2]},
        {"text": {"0": "t", "1": "u"}, "label": {"0": 1, "1": 2}},
    ):
        examples, names = load_text(tmp_path, "d.json", json.dumps(value))
        assert (examples.inputs, names) == (["t", "u"], ("1", "2"))


def test_json_values_are_kept_as_written(tmp_path: Path) -> None:
    lines = '{"text": 12, "label": true}\n\n{"text": 1.50, "label": false}\n'
    examples, names = load_text(tmp_path, "d.jsonl", lines)
    assert (examples.inputs, names) == (["12", "1.5"], ("False", "True"))


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        ("data.text-column", {"text": "body"}),
        ("data.label-column", {"label": "body"}),
        ("data.partition-column", {"group": "body"}),
    ],
)
def test_missing_column_names_the_key_and_what_there_is(
    tmp_path: Path, key: str, columns: dict[str, str]
) -> None:
    content = "text,label,extra\na,x,1\nb,y,2\n"
    with pytest.raises(DataError) as caught:
        load_text(tmp_path, "d.csv", content, **columns)
    assert f"has no column 'body' ({key}). It has: text, label, extra." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("d.csv", "text,label\na,x\n  ,y\n", "row 2: column 'text' is empty"),
        ("d.csv", "text,label\na,x\nb,y\nc,\n", "row 3: column 'label' is empty"),
        ("d.csv", "text,label\na,x\nb\n", "row 2: column 'label' is empty"),
        ("d.jsonl", '{"text":"a","label":"x"}\n{"text":null,"label":"y"}', "row 2: column 'text'"),
        ("d.jsonl", '{"text":"a","label":1}\n{"text":"b","label":null}', "row 2: column 'label'"),
        ("d.jsonl", '{"text":"a","label":1}\n{"text":"b"}', "row 2: column 'label' is empty"),
        ("d.jsonl", '{"text":"a","label":NaN}', "row 1: column 'label' is empty"),
        ("d.jsonl", '{"text":"a","label":1}\n{"text":["b"],"label":1}', "row 2: column 'text' hol"),
        ("d.jsonl", '{"text":"a","label":{"b":1}}', "row 1: column 'label' holds a dict"),
        ("d.csv", "text,label\na,x\nb,x\n", r"at least two labels; column 'label' .* \['x'\]"),
        ("d.csv", "text,label\n", "has no rows"),
        ("d.json", "[]", "has no rows"),
        ("d.jsonl", "\n", "the file is empty"),
        ("d.csv", "", "the file is empty"),
        ("d.csv", "text,label\na,x\n\nb,c,y\n", "row 2 has 3 fields, the header 2"),
        ("d.csv", 'text,label\n"a\nb",x\n,\nb,c,y\n', "row 3 has 3 fields, the header 2"),
        ("d.csv", "text,label\na,b,x\nc,d,y\n", "row 1 has 3 fields, the header 2"),
        ("d.csv", 'text,label\n"a,x\n', "row 1 opens a quote that does not end where its field"),
        ("d.csv", 'text,label\n\na,x\n"b,y\nc,x\n"d",y\ne,x\n', "row 2 opens a quote that"),
        ("d.csv", 'label,text\nx,"a, b\ny,"c, d"\n', "row 1 opens a quote that"),
        ("d.csv", '"text,label\na,x\n', "the header opens a quote that"),
        ("d.csv", 'text,label\n"he said "hi" to me",x\n', "row 1 .* a quote within quotes twice"),
        ("d.csv", "text,label\né,x\n".encode("latin-1"), "line 2 is not in UTF-8; save the file"),
        ("d.jsonl", b'{"text":"a","label":1}\n\xff\n', "line 2 is not in UTF-8; save the file"),
        ("d.jsonl", '{"text":"a","label":1}\n{"text"\n', "Cannot read .*line 2: "),
        ("d.jsonl", '"a"\n', "expected objects, got str in row 1"),
        ("d.json", "5", "expected a list of objects, got int"),
        ("d.json", "{", "Cannot read "),
        ("d.parquet", "no parquet", "Cannot read "),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, name: str, content: str | bytes, complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        load_text(tmp_path, name, content)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_parquet_values_are_empty_not_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match="row 2: column 'label' is empty"):
        load(tmp_path / "d.parquet")


def test_group_must_be_given_on_every_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2: column 'site' is empty"):
        load_text(tmp_path, "d.csv", "text,label,site\na,x,s\nb,y,\n", group="site")


def test_label_outside_the_given_ones_names_row_and_choice(tmp_path: Path) -> None:
    content = "text,label\na,x\nb,y\nc,zebra\n"
    with pytest.raises(DataError, match=r"row 3: label 'zebra' is not one of \['x', 'y'\]"):
        load_text(tmp_path, "d.csv", content, labels=("x", "y"))


@pytest.mark.parametrize("text", ['5" disk', '"\n' + "long " * 40_000, '"', '""'])
def test_quotes_in_order_are_no_fault(tmp_path: Path, text: str) -> None:
    """A text of 200,000 characters is longer than the csv module's own limit."""
    rows = [{"text": text, "label": label} for label in ("x", "y")]
    assert load(write(tmp_path / "d.csv", rows))[0].inputs == [text, text]
    assert load_text(tmp_path, "e.csv", 'text,label\n5" disk,x\nb,y\n')[0].inputs[0] == '5" disk'


def test_one_given_label_is_blamed_on_who_gave_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two labels; data\.labels has only \['x'\]"):
        load_text(tmp_path, "d.csv", "text,label\na,x\nb,y\n", labels=("x",))


@pytest.mark.parametrize("site", [{}, {"site": "s"}])
def test_only_training_examples_have_natural_nodes(tmp_path: Path, site: dict[str, str]) -> None:
    write(tmp_path / "train.csv", [{"text": "t", "label": at, "site": at} for at in "pq"])
    write(tmp_path / "test.csv", [{"text": "u", "label": "p", **site}])
    splits, _ = read(find_source(str(tmp_path)), Columns(group="site"), TEXT)
    assert (splits["train"].groups, splits["test"].groups) == (["p", "q"], [])


def test_a_label_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.labels names 'x' more than once"):
        load_text(tmp_path, "d.csv", "text,label\na,x\nb,y\n", labels=("x", "y", "x"))


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).filter(
    lambda text: bool(text.strip())
)


@given(rows=st.lists(st.tuples(cells, cells), min_size=2, max_size=6))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_formats_agree_on_any_text(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    written = [{"text": text, "label": label} for text, label in rows]
    stripped = [label.strip() for _, label in rows]
    if len(set(stripped)) < 2:
        return
    for suffix in FORMATS:
        examples, names = load(write(tmp_path / f"any.{suffix}", written))
        assert examples.inputs == [text for text, _ in rows]
        assert [names[label] for label in examples.labels] == stripped


def cardoso(tmp_path: Path, body: str) -> Source:
    path = tmp_path / "train.tab"
    path.write_bytes(f"Category\tText\nd\tstring\nclass\t\n{body}".encode())
    return Source(name="pinned", kind="cardoso", files={"train": path}, fingerprint="0")


def test_cardoso_lines_are_label_tab_text(tmp_path: Path) -> None:
    body = "grain\twheat \x85 corn\tbarley\ncrude\toil\u2028barrel\n"  # no line ends, those
    splits, names = read(cardoso(tmp_path, body), Columns(text="ignored", group="ignored"), TEXT)
    assert names == ("crude", "grain")
    assert splits["train"].inputs == ["wheat \x85 corn\tbarley", "oil\u2028barrel"]
    assert splits["train"].labels.tolist() == [1, 0]


def test_cardoso_line_without_tab_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.tab, line 5: expected 'label<TAB>text'"):
        read(cardoso(tmp_path, "grain\twheat\nbroken\n"), Columns(), TEXT)


class HubSplit:
    """What `datasets` gives for one split."""

    def __init__(self, labels: list[int], names: list[str] | None) -> None:
        self.features = {"text": SimpleNamespace(), "label": SimpleNamespace(names=names)}
        self.column_names = ["text", "label"]
        self._labels = labels

    def select_columns(self, names: list[str]) -> "HubSplit":
        assert names == ["text", "label"]
        return self

    def to_pandas(self) -> pd.DataFrame:
        texts = [f"t{index}" for index in range(len(self._labels))]
        return pd.DataFrame({"text": texts, "label": self._labels})


def from_hub(monkeypatch: pytest.MonkeyPatch, loaded: Any) -> Any:
    import datasets

    def load_dataset(name: str, subset: str | None) -> Any:
        assert (name, subset) == ("org/set", "part")
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = Source(name="org/set", kind="hub", files={}, subset="part", fingerprint="hub")
    return read(source, Columns(), TEXT)


def test_hub_labels_become_names_and_other_splits_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = {
        "test": HubSplit([1], ["neg", "pos"]),
        "train": HubSplit([1, 0], ["neg", "pos"]),
        "unsupervised": HubSplit([-1], ["neg", "pos"]),
    }
    splits, names = from_hub(monkeypatch, loaded)
    assert (list(splits), names) == (["train", "test"], ("neg", "pos"))
    assert splits["train"].labels.tolist() == [1, 0]


def test_hub_examples_without_label_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {"train": HubSplit([1, 0, -1], ["neg", "pos"])}
    with pytest.raises(DataError, match="org/set, row 3: column 'label' is empty"):
        from_hub(monkeypatch, loaded)


def test_hub_set_needs_a_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no split 'train'. It has: corpus\."):
        from_hub(monkeypatch, {"corpus": HubSplit([1, 0], None)})


@pytest.mark.parametrize("error", [ConnectionError("no route\nstack of it"), RuntimeError()])
def test_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    with pytest.raises(DataError, match="Cannot load 'org/set' from the hub") as caught:
        from_hub(monkeypatch, error)
    assert "\n" not in str(caught.value)


def tagged_images(folder: Path) -> Any:
    """Make a hub set of images with lists of class labels, by the real library."""
    import datasets
    from PIL import Image

    Image.new("RGB", (3, 2), (9, 9, 9)).save(folder / "a.png")
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "tags": datasets.List(datasets.ClassLabel(names=["sea", "sky", "dog"])),
            "huge": datasets.Value("string"),
        }
    )
    rows = {"img": [str(folder / "a.png")] * 2, "tags": [[0, 2], []], "huge": ["x", "y"]}
    return {"train": datasets.Dataset.from_dict(rows, features=features)}


def test_hub_images_stay_encoded_and_label_names_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    loaded = tagged_images(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset: loaded)
    source = Source(name="org/set", kind="hub", files={}, fingerprint="hub:org/set")
    columns = Columns(image="img", label="tags")
    splits, names = read(source, columns, Reads(inputs=(("image",),), labels="many"))
    assert names == ("sea", "sky", "dog")
    assert splits["train"].labels.tolist() == [[1, 0, 1], [0, 0, 0]]
    pixels = [pixels_of(picture) for picture in splits["train"].inputs]
    assert [image.shape for image in pixels] == [(2, 3, 3)] * 2


@pytest.mark.parametrize("suffix", FORMATS)
def test_many_labels_from_lists_or_cells_with_a_separator(tmp_path: Path, suffix: str) -> None:
    lists: list[Any] = [["b", "a"], [], ["c"]]
    if suffix == "csv":
        lists = ["b| a", "", "c"]
    rows = [{"text": f"t{at}", "label": labels} for at, labels in enumerate(lists)]
    path = write(tmp_path / f"d.{suffix}", rows)
    many = Reads(inputs=(("text",),), labels="many", separator="|")
    splits, names = read(find_source(str(path)), Columns(), many)
    assert names == ("a", "b", "c")
    assert splits["train"].labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(DataError, match=r"row 3: label 'c' is not one of \['a', 'b'\]"):
        read(find_source(str(path)), Columns(labels=("a", "b")), many)


ANY_FORM = Reads(inputs=(("messages",), ("prompt", "response"), ("text",)), labels="optional")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (("messages", "prompt", "response", "text"), [{"role": "user", "content": "hi"}]),
        (("prompt", "response", "text"), ("p", "r")),
        (("prompt", "text"), "t"),
    ],
)
def test_the_first_form_whose_columns_are_there_is_read(
    tmp_path: Path, there: tuple[str, ...], expected: Any
) -> None:
    turn = {"role": "user", "content": "hi", "more": 1}
    row = {"messages": [turn], "prompt": "p", "response": "r", "text": "t"}
    path = write(tmp_path / "d.jsonl", [{name: row[name] for name in there}] * 2)
    splits, names = read(find_source(str(path)), Columns(), ANY_FORM)
    assert splits["train"].inputs == [expected] * 2
    assert (splits["train"].labels.tolist(), names) == ([0, 0], ())


def test_optional_labels_are_categories_without_names(tmp_path: Path) -> None:
    rows = [{"text": "t", "label": label} for label in ("q", "p", "q")]
    splits, names = read(find_source(str(write(tmp_path / "d.csv", rows))), Columns(), ANY_FORM)
    assert (splits["train"].labels.tolist(), names) == ([1, 0, 1], ())


def test_optional_labels_need_no_training(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [{"text": "t", "label": "q"}])
    write(tmp_path / "test.csv", [{"text": "u", "label": "p"}])
    splits, _ = read(find_source(str(tmp_path)), Columns(), ANY_FORM)
    assert (splits["train"].labels.tolist(), splits["test"].labels.tolist()) == ([1], [0])


@pytest.mark.parametrize(
    "cell", ["hi", [], [{"role": "user"}], [{"role": "user", "content": ["part"]}], ["hi"]]
)
def test_what_is_no_conversation_names_its_row(tmp_path: Path, cell: Any) -> None:
    good = [{"role": "user", "content": "hi"}]
    path = write(tmp_path / "d.jsonl", [{"messages": good}, {"messages": cell}])
    with pytest.raises(DataError, match=r"d\.jsonl, row 2: expected in column 'messages' a list"):
        read(find_source(str(path)), Columns(), ANY_FORM)


def test_no_form_of_input_lists_all_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "p", "body": "t"}])
    with pytest.raises(DataError) as caught:
        read(find_source(str(path)), Columns(text="essay"), ANY_FORM)
    for part in (
        "'messages' (data.messages-column)",
        "'prompt' (data.prompt-column) and 'response' (data.response-column)",
        "'essay' (data.text-column)",
        "It has: prompt, body.",
    ):
        assert part in str(caught.value)


IMAGE = Reads(inputs=(("image",),))


def test_a_table_may_name_image_files_beside_it(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "pictures" / "a.png")
    rows = [{"file": "pictures/a.png", "label": label} for label in ("p", "q")]
    path = write(tmp_path / "d.csv", rows)
    splits, _ = read(find_source(str(path)), Columns(image="file"), IMAGE)
    assert image_files(list(splits.values())) == [tmp_path / "pictures" / "a.png"] * 2
    write(path, [*rows, {"file": "pictures/b.png", "label": "p"}])
    with pytest.raises(DataError, match=r"d\.csv, row 3: column 'file' names '.*b\.png', which"):
        read(find_source(str(path)), Columns(image="file"), IMAGE)


def test_a_table_may_hold_encoded_images(tmp_path: Path) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    cells: list[Any] = [buffer.getvalue(), {"bytes": buffer.getvalue(), "path": None}]
    for number, cell in enumerate(cells):
        rows = [{"image": cell, "label": label} for label in ("p", "q")]
        path = write(tmp_path / f"{number}.parquet", rows)
        splits, _ = read(find_source(str(path)), Columns(), IMAGE)
        assert pixels_of(splits["train"].inputs[0]).shape == (2, 3, 3)
    write(tmp_path / "d.jsonl", [{"image": 5, "label": "p"}])
    with pytest.raises(DataError, match=r"row 1: expected in column 'image' a path or the bytes"):
        read(find_source(str(tmp_path / "d.jsonl")), Columns(), IMAGE)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_equal_numbers_are_one_label_and_one_node(tmp_path: Path, suffix: str) -> None:
    values = (1, 2.0, 1.0, 2, 2.5)
    rows = [{"text": f"t{at}", "label": value, "site": value} for at, value in enumerate(values)]
    examples, names = load(write(tmp_path / f"d.{suffix}", rows), group="site")
    assert names == ("1", "2", "2.5")
    assert examples.labels.tolist() == [0, 1, 0, 1, 2]
    assert examples.groups == ["1", "2", "1", "2", "2.5"]


def test_whole_numbers_have_one_name_in_columns_of_either_kind(tmp_path: Path) -> None:
    for name, labels in (("ints", [1, 2]), ("floats", [1.0, 2.0])):
        rows = [{"text": "t", "label": label} for label in labels]
        assert load(write(tmp_path / f"{name}.parquet", rows))[1] == ("1", "2")


def test_numbers_in_lists_of_labels_are_one_label_too(tmp_path: Path) -> None:
    rows = [{"text": "t", "label": [1, 2.0]}, {"text": "u", "label": 2}]
    many = Reads(inputs=(("text",),), labels="many")
    splits, names = read(find_source(str(write(tmp_path / "d.json", rows))), Columns(), many)
    assert names == ("1", "2")
    assert splits["train"].labels.tolist() == [[1, 1], [0, 1]]
