"""Model cards and snippets, where names have awkward characters."""

import ast
import builtins
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.data.tasks.task import Usage
from fedpeft_app.runs.card import Shape, loading_snippet, model_card
from fedpeft_app.runs.export import FORMS, _moving

KINDS = ("sequence-classification", "image-classification", "causal-lm")


def shape(form: str = "adapter", **changes: Any) -> Shape:
    """Describe a PEFT adapter of a text classifier, but for the changes."""
    return Shape(**{"kind": KINDS[0], "form": form, "peft": True, "dtype": "bfloat16", **changes})


def card(**changes: Any) -> str:
    """Write a card, most of it given."""
    arguments = {"base_id": "org/base", "labels": ["a", "b"], "snippet": "pass\n", "moving": ""}
    return model_card(shape(), **{**arguments, "facts": {"mode": "federated"}, **changes})


@pytest.mark.parametrize("name", ["org/base", "a: b # c", "'\"{}", "yes", "模型"])
def test_any_name_makes_valid_front_matter(name: str) -> None:
    front = yaml.safe_load(card(base_id=name).split("---\n")[1])
    assert front["base_model"] == name


def test_a_base_without_an_id_is_left_out() -> None:
    assert "base_model" not in yaml.safe_load(card(base_id="").split("---\n")[1])


def test_a_value_stays_in_its_cell() -> None:
    text = card(labels=["a|b", "c\nd"], facts={"mode": "federated", "exported round": "3 | x"})
    assert "| labels | a\\|b, c d |" in text
    assert "| exported round | 3 \\| x |" in text


@pytest.mark.parametrize(
    ("mode", "claim"),
    [
        ("federated", "their data stayed where it was"),
        ("central", "all training data lay on one node"),
        ("local", "each trained alone"),
    ],
)
def test_the_card_claims_what_the_mode_did(mode: str, claim: str) -> None:
    text = card(facts={"mode": mode})
    assert claim in text
    assert ("stayed where it was" in text) == (mode == "federated")


@pytest.mark.parametrize("mode", ["federated", "central"])
def test_the_card_of_a_private_run_does_not_say_that_metrics_were_sent(mode: str) -> None:
    text = card(facts={"mode": mode, "privacy": "(8.00, 1e-05)-differential privacy"})
    assert "tensors and metrics" not in text
    assert ("no metrics of their data" in text) == (mode == "federated")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kind", "pooling"), [*((kind, "model") for kind in KINDS), *((k, "mean") for k in KINDS[:2])]
)
@pytest.mark.parametrize("loader", ["peft", "own"])
def test_a_snippet_names_nothing_that_it_has_not_made(
    form: str, kind: str, loader: str, pooling: str
) -> None:
    peft = loader == "peft"
    portable = ("bottleneck",) * (not peft and form != "merged")
    portable += ("pooling",) * (pooling != "model")
    what = shape(form, kind=kind, peft=peft, pooling=pooling, portable=portable)
    tree = ast.parse(loading_snippet(what, Path("/tmp/a")))
    names = {node.id: type(node.ctx) for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    made = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert set(names) <= made | imported | set(dir(builtins))
    assert imported <= set(names)  # and nothing is imported in vain


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "folder", ["/tmp/run", '/tmp/it\'s "{labels}"', "C:\\new\\temp", "/tmp/é🌾"]
)
def test_a_snippet_is_python_for_any_folder(form: str, folder: str) -> None:
    tree = ast.parse(loading_snippet(shape(form), Path(folder)))
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(assigned["folder"]) == folder
    assert {"labels", "model", "tokenizer", "inputs"} <= set(assigned)


def test_only_a_bare_adapter_needs_the_frozen_dtype() -> None:
    texts = {form: loading_snippet(shape(form), Path("/tmp/a")) for form in FORMS}
    assert [form for form in FORMS if 'dtype="bfloat16"' in texts[form]] == ["adapter"]
    assert all("max_length=64" in text for text in texts.values())


def test_a_warning_is_not_to_be_missed() -> None:
    assert "**Mind the gap.**" in card(warning="Mind the gap.")
    assert "**" not in card()


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("hub", "the base model is fetched from the hub as `org/base`."),
        ("mirror", "Set it to `org/base`, its id on the hub, or to a local copy."),
        ("folder", "Set it to where a copy of that folder lies."),
    ],
)
def test_the_card_says_how_to_move_an_adapter(origin: str, advice: str) -> None:
    located = LocatedModel(
        name="org/base",
        revision="",
        origin=origin,
        path=Path("/cache/base"),
        fingerprint="0" * 16,
        weight_bytes=1,
    )
    text = _moving(shape(), located, Path("/runs/adapter"))
    assert text.endswith(advice)
    assert ("`/cache/base`" in text) == (origin != "hub")


def test_numbers_are_grouped_by_thousands() -> None:
    assert "| bytes sent | 1,234,567 |" in card(facts={"mode": "central", "bytes sent": 1234567})


@pytest.mark.parametrize(
    ("form", "changes", "reported"),
    [
        ("adapter", {}, True),
        ("self-contained", {}, True),
        ("adapter", {"peft": False}, True),
        ("merged", {}, False),
        ("adapter", {"pooling": "mean"}, False),
        ("adapter", {"kind": "causal-lm"}, False),
    ],
)
def test_what_transformers_reports_is_explained(
    form: str, changes: dict[str, Any], *, reported: bool
) -> None:
    snippet = loading_snippet(shape(form, **changes), Path("/tmp/a"))
    assert ("# transformers reports a new head" in snippet) == reported


@pytest.mark.parametrize("kind", KINDS[:2])
def test_only_labels_that_exclude_one_another_are_chosen_by_rank(kind: str) -> None:
    for many in (False, True):
        snippet = loading_snippet(shape(kind=kind, usage=Usage(many=many)), Path("/tmp/a"))
        assert ("argmax" in snippet, "sigmoid() > 0.5" in snippet) == (not many, many)
        ast.parse(snippet)
