"""Model cards and snippets, where names have awkward characters."""

import ast
from pathlib import Path

import pytest
import yaml

from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.runs.card import loading_snippet, model_card
from fedpeft_app.runs.export import FORMS, _moving


def card(**changes: object) -> str:
    """Write a card, most of it given."""
    arguments = {"base_id": "org/base", "labels": ["a", "b"], "snippet": "pass\n", "peft": True}
    return model_card(**{**arguments, "facts": {"mode": "federated"}, "moving": "", **changes})


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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "folder", ["/tmp/run", '/tmp/it\'s "{labels}"', "C:\\new\\temp", "/tmp/é🌾"]
)
def test_a_snippet_is_python_for_any_folder(form: str, folder: str) -> None:
    tree = ast.parse(loading_snippet(form, Path(folder), max_length=64, dtype="bfloat16"))
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(assigned["folder"]) == folder
    assert {"labels", "model", "tokenizer", "inputs"} <= set(assigned)


def test_only_a_bare_adapter_needs_the_frozen_dtype() -> None:
    texts = {
        form: loading_snippet(form, Path("/tmp/a"), max_length=64, dtype="bfloat16")
        for form in FORMS
    }
    assert [form for form in FORMS if 'dtype="bfloat16"' in texts[form]] == ["adapter"]
    assert all("max_length=64" in text for text in texts.values())


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
    text = _moving("adapter", located, Path("/runs/adapter"))
    assert text.endswith(advice)
    assert ("`/cache/base`" in text) == (origin != "hub")
