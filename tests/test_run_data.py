"""A run's data: encoded once, again when it changed; what a node has of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_texts
from PIL import Image

from fedpeft_app import run_data
from fedpeft_app.assembly import adapted_model, agreement
from fedpeft_app.config import parse
from fedpeft_app.criterion import Criterion
from fedpeft_app.data.sources import Source, find_source
from fedpeft_app.data_plan import columns, criterion, encoding, make_task
from fedpeft_app.errors import ConfigError, DataError, UnknownNameError
from fedpeft_app.run_data import bound_task, node_data, open_data, own_setting, server_splits


@pytest.fixture
def catalogue(tmp_path: Path, tiny_vit: Path) -> dict[str, Any]:
    """Settings of a table that names four images."""
    rows = []
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'odd' if number % 2 else 'even'}")
    (tmp_path / "table.csv").write_text("\n".join(["image,label", *rows]), encoding="utf-8")
    return {
        "task": "image-classification",
        "model.name": str(tiny_vit),
        "data.name": str(tmp_path / "table.csv"),
    }


def test_images_that_changed_are_encoded_again_by_the_next_run(
    catalogue: dict[str, Any], tmp_path: Path
) -> None:
    config = parse(catalogue)
    first = open_data(config, config.data.name)
    assert first.splits["train"].row(3)[0, 0].tolist() == [3, 0, 0]
    assert open_data(config, config.data.name) is first
    Image.new("RGB", (8, 8), (99, 99, 99)).save(tmp_path / "3.png")
    assert open_data(config, config.data.name) is first  # looked at once per process and run
    config = parse({**catalogue, "output.name": "next"})
    second = open_data(config, config.data.name)
    assert second.fingerprint != first.fingerprint
    assert second.splits["train"].row(3)[0, 0].tolist() == [99, 99, 99]


@pytest.mark.parametrize("change", [{"data.image-size": 20}, {"data.label-column": "image"}])
def test_whatever_shapes_the_rows_makes_another_store(
    catalogue: dict[str, Any], change: dict[str, Any]
) -> None:
    prints = {
        open_data(config, config.data.name).fingerprint
        for config in (parse(catalogue), parse({**catalogue, **change}))
    }
    assert len(prints) == 2


def test_the_image_size_reaches_the_model(catalogue: dict[str, Any]) -> None:
    for size, expected in ((0, 16), (20, 20)):
        config = parse({**catalogue, "data.image-size": size})
        train = open_data(config, config.data.name).splits["train"]
        batch = bound_task(config).collate(train, np.array([0, 1]))
        assert batch["pixel_values"].shape == (2, 3, expected, expected)


def test_nodes_share_what_is_not_held_out_and_caps_keep_order(
    tiny_settings: dict[str, Any],
) -> None:
    settings = {**tiny_settings, "strategy.fraction-evaluate": 1.0}
    plain, capped = parse(settings), parse({**settings, "data.max-examples-per-node": 7})
    for number in range(4):
        node = {"partition-id": number, "num-partitions": 4}
        whole, few = node_data(plain, node), node_data(capped, node)
        held_out = [*whole.held_out.indices, *whole.test.indices]
        assert len({*whole.train.indices, *held_out}) == len(whole.train) + len(held_out) == 27
        assert len(few.train) == 7
        assert set(few.train.indices) <= set(whole.train.indices)
        assert np.all(np.diff(few.train.indices) > 0)
        assert few.held_out.indices.tolist() == whole.held_out.indices.tolist()
        assert few.test.indices.tolist() == whole.test.indices.tolist()


def test_nothing_is_held_out_where_nodes_do_not_judge(tiny_settings: dict[str, Any]) -> None:
    node = {"partition-id": 0, "num-partitions": 4, "validation-fraction": 0.5}
    assert len(node_data(parse(tiny_settings), node).held_out) == 0


def test_an_owner_may_hold_out_another_share(tiny_settings: dict[str, Any]) -> None:
    config = parse({**tiny_settings, "strategy.fraction-evaluate": 1.0})
    data = node_data(config, {"partition-id": 0, "num-partitions": 4, "validation-fraction": 0.5})
    # Of 27 a tenth is for testing, of the others a half, instead of a tenth, for validation.
    assert (len(data.train), len(data.held_out), len(data.test)) == (12, 12, 3)


def test_an_own_setting_counts_before_the_runs() -> None:
    assert own_setting({"batch-size": 4}, "batch-size", 16, least=1) == 4
    assert own_setting({}, "batch-size", 16, least=1) == 16
    for value in (0, "4", True, None):
        with pytest.raises(DataError, match="at least 1 for batch-size in this node's"):
            own_setting({"batch-size": value}, "batch-size", 16, least=1)


def test_task_options_are_checked_with_near_misses() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'augmnt' of image.*mean 'augment'\?"):
        make_task(parse({"task": "image-classification", "task.options": '{"augmnt": "flip"}'}))
    with pytest.raises(ConfigError, match=r"task.options = .*augment must be 'none', 'flip'"):
        make_task(parse({"task": "image-classification", "task.options": '{"augment": "x"}'}))
    with pytest.raises(UnknownNameError, match="text-classification, image-classification, causal"):
        make_task(parse({"task": "causal-ml"}))


@pytest.mark.parametrize(
    ("task", "options", "complaint"),
    [
        ("text-classification", '{"multi_label": true, "separator": 5}', "separator must be a .*5"),
        ("text-classification", '{"multi_label": "false"}', "multi_label must be a valid boolean"),
        ("text-classification", '{"class_weights": "balanced"}', "class_weights must be an object"),
        ("text-classification", '{"class_weights": [1, 2]}', "class_weights must be an object"),
        ("text-classification", '{"class_weights": {"a": "2"}}', "class_weights.a must be a valid"),
        ("text-classification", '{"class_weights": {"a": true}}', "class_weights.a must be a val"),
        (
            "text-classification",
            '{"class_weights": {"a": 1e400}}',
            "finite number above 0, got inf",
        ),
        ("causal-lm", '{"template": 3}', "template must be a valid string, got 3"),
        ("causal-lm", '{"max_new_tokens": true}', "max_new_tokens must be a valid integer"),
        ("causal-lm", '{"form": "csv"}', "form must be 'auto', 'messages', .*got 'csv'"),
        ("causal-lm", '{"turns": "first"}', "turns must be 'all' or 'last'"),
    ],
)
def test_task_options_have_the_types_that_the_task_says(
    task: str, options: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=rf"task\.options = .*{complaint}"):
        make_task(parse({"task": task, "task.options": options}))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("no, yes", ("no", "yes")),
        ("", ()),
        ('["no", "yes, but"]', ("no", "yes, but")),
        (' ["[a]"]', ("[a]",)),
    ],
)
def test_labels_are_named_between_commas_or_as_json(text: str, names: tuple[str, ...]) -> None:
    assert columns(parse({"data.labels": text})).labels == names


@pytest.mark.parametrize("text", ['["no", "yes]', "[no, yes]", "[0, 1]"])
def test_labels_that_are_no_json_list_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.labels = .* or a JSON list such as"):
        columns(parse({"data.labels": text}))


def test_what_leaves_too_few_examples_for_the_nodes_is_named(tiny_settings: dict[str, Any]) -> None:
    """108 examples are for training."""
    config = parse({**tiny_settings, "data.max-examples": 2})
    problem = r"8 training examples for 4 nodes.* got 2\. .*: .*data\.max-examples = 2\."
    with pytest.raises(DataError, match=problem):
        node_data(config, {"partition-id": 0, "num-partitions": 4})
    whole = parse({**tiny_settings, "data.min-examples": 27})
    assert len(node_data(whole, {"partition-id": 0, "num-partitions": 4}).train) == 27


@pytest.mark.parametrize(
    ("task", "metric"), [("text-classification", "macro-f1"), ("causal-lm", "perplexity")]
)
def test_rounds_are_chosen_by_what_the_task_measures(task: str, metric: str) -> None:
    config = parse({"task": task, "evaluate.select-by": metric})
    assert criterion(config, make_task(config)).metric == metric
    other = parse({"task": task, "evaluate.select-by": "micro-f1"})
    with pytest.raises(ConfigError, match=f"{task} does not measure it, only: loss"):
        criterion(other, make_task(other))


@pytest.mark.parametrize(
    ("task", "task_options", "metric", "lower"),
    [
        ("text-classification", "{}", "accuracy", False),
        ("image-classification", '{"multi_label": true}', "micro-f1", False),
        ("causal-lm", "{}", "loss", True),
    ],
)
def test_a_task_has_a_metric_of_its_own_to_go_by(
    task: str, task_options: str, metric: str, *, lower: bool
) -> None:
    config = parse({"task": task, "task.options": task_options})
    expected = Criterion(metric=metric, lower_is_better=lower)
    assert criterion(config, make_task(config)) == expected


def test_what_tuning_runs_see_is_never_what_the_table_is_judged_on(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "one.csv"
    rows = [f"w{number},{'odd' if number % 2 else 'even'}" for number in range(100)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    settings = {**tiny_settings, "data.name": str(path)}
    tested = set(server_splits(parse(settings)).test.indices)
    budget = {"evaluate.server": False, "strategy.fraction-evaluate": 1.0, "seed": 100}
    tuning = parse({**settings, **budget})
    nodes = [node_data(tuning, {"partition-id": at, "num-partitions": 4}) for at in range(4)]
    parts = [part for node in nodes for part in (node.train, node.held_out, node.test)]
    seen = {int(position) for part in parts for position in part.indices}
    assert (len(tested), len(seen)) == (20, 80)
    assert not tested & seen


def test_a_source_is_looked_at_once_per_process_and_run(
    tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def find(name: str, subset: str) -> Source:
        looked.append(name)
        return find_source(name, subset)

    monkeypatch.setattr(run_data, "find_source", find)
    config = parse({**tiny_settings, "output.name": "once"})
    for number in (0, 1, 0):
        node_data(config, {"partition-id": number, "num-partitions": 4})
    assert looked == [config.data.name]
    open_data(parse({**tiny_settings, "output.name": "twice"}), config.data.name)
    assert len(looked) == 2


@pytest.mark.parametrize(
    ("task", "options", "again"),
    [
        ("text-classification", '{"class_weights": {"oil": 2.0}}', False),
        ("text-classification", '{"separator": ";"}', True),
        ("image-classification", '{"augment": "flip"}', False),
        ("causal-lm", '{"max_new_tokens": 3}', False),
        ("causal-lm", '{"turns": "last"}', True),
    ],
)
def test_only_options_that_shape_examples_have_them_encoded_again(
    task: str, options: str, *, again: bool
) -> None:
    keys = [
        encoding(config, make_task(config))
        for config in (parse({"task": task}), parse({"task": task, "task.options": options}))
    ]
    assert (keys[0] != keys[1]) == again


def test_examples_are_encoded_again_when_a_plug_ins_code_changes(
    tiny_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = (
        "from fedpeft_app.data.tasks.text_classification import TextClassification\n"
        "class Shouting(TextClassification):\n"
        "    pass\n"
    )
    prints = []
    for number, text in enumerate((code, code, code.replace("pass", "model_name = 'B'"))):
        (tmp_path / "shouting_task.py").write_text(text, encoding="utf-8")
        name = f"run-{number}"  # another run
        config = parse({**tiny_settings, "task": "shouting_task:Shouting", "output.name": name})
        prints.append(open_data(config, config.data.name).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_nodes_agree_on_the_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        shutil.copytree(tiny_model, folder)
    settings = json.loads((other / "tokenizer_config.json").read_text(encoding="utf-8"))
    changed = json.dumps({**settings, "do_lower_case": False})
    (other / "tokenizer_config.json").write_text(changed, encoding="utf-8")
    facts = []
    for folder in (tiny_model, same, other):
        config = parse({"model.name": str(folder), "method.rank": 2})
        facts.append(agreement(config, adapted_model(config, ("a", "b"))))
    assert facts[0] == facts[1]
    assert {key for key in facts[0] if facts[0][key] != facts[2][key]} == {"processor"}
    assert len(facts[0]["processor"]) == 16


def test_nodes_agree_on_the_first_state_where_they_are_sent_increments(tiny_model: Path) -> None:
    starts = []
    for seed, codec in ((0, "int8"), (0, "int8"), (1, "int8"), (0, "float32"), (1, "float32")):
        wire = {"wire.downlink": codec, "seed": seed}
        config = parse({"model.name": str(tiny_model), "method.rank": 2, **wire})
        starts.append(agreement(config, adapted_model(config, ("a", "b")))["start"])
    assert starts[0] == starts[1] != starts[2]
    assert len(starts[0]) == 16
    assert starts[3] == starts[4] == ""  # the whole state is sent


@pytest.mark.parametrize("node", [{"name": "a"}, {"name": "b", "datapath": "/typo.csv"}])
def test_no_node_has_public_data_that_nobody_gave_it(
    node: dict[str, Any], tiny_settings: dict[str, Any], own_home: Path
) -> None:
    with pytest.raises(DataError, match="data-path"):
        node_data(parse(tiny_settings), node)
    assert not (own_home / "identity").exists()


def test_a_split_that_trains_judges_nothing(tiny_settings: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name, count in {"train": 30, "validation": 20, "test": 10}.items():
        texts, labels = make_texts(count, seed=count)
        rows = "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True))
        (own / f"{name}.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    judged = {"strategy.fraction-evaluate": 1.0, "data.node-validation-fraction": 0.25}
    node = {"data-path": str(own), "data-split": "validation"}
    data = node_data(parse({**tiny_settings, **judged}), node)
    assert (len(data.train), len(data.held_out), len(data.test)) == (15, 5, 10)
