"""A user's own data, by configuration alone: tables, folders of images, instructions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LocalGrid, make_texts, read_events
from PIL import Image

from fedpeft_app.cli.preflight import preflight
from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import ConfigError, FedPeftError
from fedpeft_app.restore import predict, restore

TRAINING = {
    "rounds": 3,
    "train.local-epochs": 3,
    "method.rank": 2,
    "data.partitioner": "iid",
    "data.min-examples": 2,
    "train.learning-rate": 1e-2,
    "train.head-learning-rate": 5e-2,
    "train.batch-size": 8,
    "train.precision": "fp32",
    "strategy.fraction-train": 1.0,
}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
TOPICS = {"grain": "wheat corn", "crude": "oil barrel", "money": "bank rate"}


def run(settings: dict[str, Any], nodes: int = 2) -> Any:
    """Check a run as the command line does, and go through with it."""
    config = parse(settings)
    preflight(config, nodes)
    return coordinate(LocalGrid(nodes, settings), config, run_id=1)


def finished(folder: Any) -> dict[str, Any]:
    return read_events(folder.journal)[-1]


def paint(path: Path, colour: tuple[int, int, int], seed: int, side: int = 12) -> None:
    """Draw noise around a colour."""
    noise = np.random.default_rng(seed).integers(-20, 20, (side, side, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one sub-folder a class, 20 images each, of several sizes."""
    folder = tmp_path / "photos"
    for name, colour in COLOURS.items():
        for number in range(20):
            paint(folder / name / f"{number:02}.png", colour, number, side=12 + number % 3)
    return folder


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    """A file of 60 instructions and answers."""
    texts, labels = make_texts(60, seed=0)
    lines = [
        json.dumps({"question": f"name the topic {text}", "answer": label})
        for text, label in zip(texts, labels, strict=True)
    ]
    path = tmp_path / "instructions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def image_settings(tiny_vit: Path, images: Path) -> dict[str, Any]:
    return {
        **TRAINING,
        "task": "image-classification",
        "model.name": str(tiny_vit),
        "data.name": str(images),
    }


@pytest.fixture
def writing_settings(tiny_llama: Path, instructions: Path) -> dict[str, Any]:
    return {
        **TRAINING,
        "task": "causal-lm",
        "model.name": str(tiny_llama),
        "method.name": "full",
        "data.name": str(instructions),
        "data.prompt-column": "question",
        "data.response-column": "answer",
    }


def test_a_table_with_odd_column_names(tmp_path: Path, tiny_model: Path) -> None:
    texts, labels = make_texts(90, seed=0)
    rows = "\n".join(f'{n},"{t}",{k}' for n, (t, k) in enumerate(zip(texts, labels, strict=True)))
    path = tmp_path / "export 2024.csv"
    path.write_text(f"Nº,what was said,Tema\n{rows}\n", encoding="utf-8")
    folder = run(
        {
            **TRAINING,
            "model.name": str(tiny_model),
            "data.name": str(path),
            "data.max-length": 16,
            "data.text-column": "what was said",
            "data.label-column": "Tema",
        }
    )
    assert finished(folder)["test"]["accuracy"] > 0.8


def test_a_folder_of_images(image_settings: dict[str, Any], images: Path) -> None:
    settings = {**image_settings, "task.options": '{"augment": "crop-flip"}'}
    folder = run(settings)
    assert finished(folder)["test"]["accuracy"] > 0.8
    restored = restore(folder, parse(settings), finished(folder)["round"])
    found = predict(restored, parse(settings), [str(images / "red" / "00.png")])
    assert found[0].answer in COLOURS
    assert 1 / 3 < found[0].probability <= 1.0


def test_images_of_another_size_than_the_model_was_made_for(
    image_settings: dict[str, Any],
) -> None:
    folder = run({**image_settings, "rounds": 1, "data.image-size": 24})
    assert finished(folder)["event"] == "run_finished"
    processor = json.loads((folder.adapter / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 24, "width": 24}


def test_a_file_of_instructions(writing_settings: dict[str, Any]) -> None:
    folder = run({**writing_settings, "rounds": 4})
    events = read_events(folder.journal)
    losses = [event["train_loss"] for event in events if event["event"] == "round_finished"]
    assert losses[-1] < losses[0] / 2
    test = events[-1]["test"]
    assert set(test) == {"loss", "perplexity", "accuracy", "exact-match"}
    restored = restore(folder, parse(writing_settings), events[-1]["round"])
    (found,) = predict(restored, parse(writing_settings), ["name the topic wheat corn"])
    assert found.probability is None
    assert isinstance(found.answer, str)


def test_a_node_uses_its_own_data_batch_size_and_share(
    image_settings: dict[str, Any], images: Path
) -> None:
    from fedpeft_app.run_data import node_data

    config = parse({**image_settings, "strategy.fraction-evaluate": 1.0})
    own = {"data-path": str(images), "validation-fraction": 0.5, "workers": 2}
    data = node_data(config, own)
    assert (len(data.train), len(data.held_out), len(data.test)) == (27, 27, 6)  # of 60
    for number in range(3):
        paint(images.parent / "own" / "train" / "red" / f"{number}.png", COLOURS["red"], number)
        paint(images.parent / "own" / "train" / "blue" / f"{number}.png", COLOURS["blue"], number)
        paint(images.parent / "own" / "valid" / "red" / f"{number}.png", COLOURS["red"], number)
    data = node_data(config, {**own, "data-path": str(images.parent / "own")})
    assert (len(data.train), len(data.held_out), len(data.test)) == (5, 3, 1)  # of 6; its own 3


@pytest.mark.parametrize(
    ("key", "value"), [("batch-size", 0), ("validation-fraction", 1.0), ("workers", "many")]
)
def test_a_node_configuration_that_makes_no_sense_is_refused(
    image_settings: dict[str, Any], key: str, value: object
) -> None:
    from fedpeft_app.assembly import make_worker

    config = parse({**image_settings, "strategy.fraction-evaluate": 1.0})
    with pytest.raises(FedPeftError, match=f"for {key} in this node's --node-config, got"):
        make_worker(config, {"partition-id": 0, "num-partitions": 2, key: value})


def test_a_cap_a_node_leaves_just_as_many_training_examples(
    image_settings: dict[str, Any],
) -> None:
    settings = {
        **image_settings,
        "rounds": 1,
        "data.max-examples-per-node": 5,
        "strategy.fraction-evaluate": 1.0,
    }
    events = read_events(run(settings).journal)
    calls = [event for event in events if event["event"] == "roll_call"]
    assert calls[0]["examples"] == {"0": 5, "1": 5}


def _empty_class(folder: Path) -> None:
    (folder / "violet").mkdir()


def _unreadable_image(folder: Path) -> None:
    (folder / "green" / "07.png").write_bytes(b"not an image at all")


def _cut_image(folder: Path) -> None:
    path = folder / "green" / "07.png"
    path.write_bytes(path.read_bytes()[:100])


def _foreign_file(folder: Path) -> None:
    (folder / "green" / "notes.docx").write_bytes(b"x")


def _one_class(folder: Path) -> None:
    for name in ("green", "blue"):
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()


def _empty_test(folder: Path) -> None:
    for name in COLOURS:
        (folder / name).rename(folder.parent / name)
    for name in COLOURS:
        (folder / "train").mkdir(exist_ok=True)
        (folder.parent / name).rename(folder / "train" / name)
    (folder / "test").mkdir()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_empty_class, r"The class folder .*/violet holds no files"),
        (_unreadable_image, r"Cannot read the image .*green/07\.png: no image format"),
        (_cut_image, r"Cannot read the image .*green/07\.png"),
        (_foreign_file, r"got .*green/notes\.docx"),
        (_one_class, r"at least two labels; .* has only \['red'\]"),
        (_empty_test, r"one sub-folder a class in .*/test, found none"),
    ],
)
def test_a_bad_folder_is_known_before_the_start(
    image_settings: dict[str, Any],
    images: Path,
    damage: Callable[[Path], None],
    complaint: str,
) -> None:
    damage(images)
    with pytest.raises(FedPeftError, match=complaint) as caught:
        preflight(parse(image_settings), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "what"}', r"row 61: column 'answer' is empty"),
        ('{"question": "", "answer": "a"}', r"row 61: column 'question' is empty"),
        ('{"question": ["a"], "answer": "a"}', r"row 61: column 'question' holds a list"),
        ("{", r"instructions\.jsonl .*line 61"),
    ],
)
def test_a_bad_row_is_known_before_the_start(
    writing_settings: dict[str, Any], instructions: Path, line: str, complaint: str
) -> None:
    instructions.write_text(f"{instructions.read_text(encoding='utf-8')}\n{line}")
    with pytest.raises(FedPeftError, match=complaint):
        preflight(parse(writing_settings), 2)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"data.response-column": "reply"}, r"columns of no form of input: .*'reply'.*It has: q"),
        ({"data.partitioner": "dirichlet"}, r"spreads examples by label.*Use 'iid' or 'natural'"),
        ({"evaluate.select-by": "macro-f1"}, r"causal-lm does not measure it, only: loss, perp"),
        ({"task.options": '{"tamplate": ""}'}, r"unknown option 'tamplate'.*mean 'template'"),
        ({"task.options": '{"template": "x"}'}, r"template must hold \{prompt\}"),
        ({"data.max-length": 4}, r"None of the \d+ examples in .*has an answer that ends"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_known_before_the_start(
    writing_settings: dict[str, Any], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(FedPeftError, match=complaint):
        preflight(parse({**writing_settings, **settings}), 2)


def test_what_is_left_out_leaves_too_little_before_the_start(
    writing_settings: dict[str, Any], instructions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 60 rows 50 have answers that are too long; a fifth of the others is for testing."""
    long = json.dumps({"question": "name the topic", "answer": "wheat " * 30})
    rows = instructions.read_text(encoding="utf-8").split("\n")
    instructions.write_text("\n".join([*rows[:10], *[long] * 50]), encoding="utf-8")
    settings = {**writing_settings, "data.max-length": 20, "data.min-examples": 4}
    with pytest.raises(FedPeftError, match=r"8 training examples for 2 nodes.* got 7\."):
        preflight(parse(settings), 2)
    assert "50 of the 60 examples in" in caplog.text


def test_a_label_outside_the_map_names_file_and_row(
    tiny_settings: dict[str, Any], tiny_data: Path
) -> None:
    with pytest.raises(FedPeftError, match=r"train\.csv, row 3: label 'money' is not one of"):
        preflight(parse({**tiny_settings, "data.labels": "crude,grain"}), 2)


def test_a_share_to_judge_on_that_is_nothing_anywhere_is_refused(
    tiny_settings: dict[str, Any],
) -> None:
    """Of 27 examples a node a tenth, 3, is for testing; a fiftieth of the 24 others rounds to 0."""
    settings = {**tiny_settings, "strategy.fraction-evaluate": 1.0}
    small, enough = ({**settings, "data.node-validation-fraction": n} for n in (0.02, 0.021))
    with pytest.raises(ConfigError, match=r"data\.node-validation-fraction = 0\.02: of the 24 ex"):
        preflight(parse(small), 4)
    preflight(parse(enough), 4)
    preflight(parse({**small, "strategy.fraction-evaluate": 0.0}), 4)


def test_natural_nodes_need_no_column_in_test_data(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    texts, labels = make_texts(40, seed=0)
    rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    train = [f"{row},{'ab'[at % 2]}" for at, row in enumerate(rows)]
    for name, header, lines in (("train", ",site", train), ("test", "", rows)):
        text = "\n".join([f"text,label{header}", *lines])
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    natural = {"data.partitioner": "natural", "data.partition-column": "site"}
    settings = {**tiny_settings, "data.name": str(tmp_path), **natural, "rounds": 1}
    assert finished(run(settings))["event"] == "run_finished"


def test_weights_of_labels_that_there_are_not(tiny_settings: dict[str, Any]) -> None:
    options = '{"class_weights": {"gold": 2}}'
    with pytest.raises(FedPeftError, match=r"class_weights names 'gold', but the labels are"):
        preflight(parse({**tiny_settings, "task.options": options}), 2)


def test_a_near_miss_of_a_metric_is_suggested(tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"only: loss, .*Did you mean 'macro-f1'\?"):
        preflight(parse({**tiny_settings, "evaluate.select-by": "macro_f1"}), 2)
