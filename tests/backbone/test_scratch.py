"""Models of random weights: the same everywhere, and complete folders like any download."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_configs import CAUSAL, CONFIGS, IMAGE, TEXT

from fedpeft_app.backbone import scratch
from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import LocatedModel, locate
from fedpeft_app.backbone.processor import load_processor, load_tokenizer
from fedpeft_app.errors import BackboneError, SourceError

LLAMA, VIT = "scratch:llama-tiny-bytes", "scratch:vit-tiny-patch4-28"
MARKS = ("<bos>", "<eos>", "<pad>", "<unk>")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LocatedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPEFT_HOME", str(tmp_path_factory.mktemp("home")))
        return locate(LLAMA)


@pytest.fixture(scope="module")
def bytes_of(llama: LocatedModel) -> Any:
    """The tokenizer whose tokens are bytes."""
    return load_tokenizer(llama)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", [LLAMA, VIT])
def test_two_caches_hold_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for home in ("a", "b"):
        monkeypatch.setenv("FEDPEFT_HOME", str(tmp_path / home))
        torch.rand(3)  # history must not matter
        found.append(locate(name))
    assert found[0].path != found[1].path
    assert found[0].fingerprint == found[1].fingerprint
    assert contents(found[0].path) == contents(found[1].path)
    assert found[0].origin == "scratch"


def test_drawing_leaves_global_randomness_alone() -> None:
    before = torch.random.get_rng_state()
    scratch.draw(LLAMA)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_was_drawn_is_kept() -> None:
    first = scratch.draw(LLAMA)
    times = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert scratch.draw(LLAMA) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == times
    assert [path.name for path in first.parent.iterdir() if path.is_dir()] == [first.name]


def test_a_failed_draw_leaves_no_litter(own_home: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such"}')
    with pytest.raises(BackboneError, match="Cannot build a model from .*no-such"):
        scratch.draw(f"scratch:{tmp_path}")
    assert [path for path in (own_home / "cache" / "scratch").iterdir() if path.is_dir()] == []


def test_a_drawn_language_model_loads_whole(llama: LocatedModel) -> None:
    backbone = load_model(llama, kind=CAUSAL, labels=())
    assert backbone.head == frozenset()
    assert backbone.model.config.pad_token_id == 258
    original = transformers.AutoModelForCausalLM.from_pretrained(str(llama.path)).state_dict()
    drawn = backbone.model.state_dict()
    assert all(torch.equal(drawn[name], original[name]) for name in original)


@pytest.mark.parametrize("labels", ["abc", "ab"])  # transformers' own head has two outputs
def test_a_drawn_image_model_gets_a_head_by_the_seed(labels: str) -> None:
    located = locate(VIT)
    models = [load_model(located, kind=IMAGE, labels=labels, seed=seed).model for seed in (0, 0, 1)]
    weights = [model.classifier.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    bodies = [model.vit.embeddings.cls_token for model in models]
    assert torch.equal(bodies[0], bodies[2])


def test_a_drawn_image_model_brings_its_processor() -> None:
    processor = load_processor(locate(VIT), IMAGE)
    assert dict(processor.size) == {"height": 28, "width": 28}


def test_tokens_are_bytes_in_their_order(bytes_of: Any) -> None:
    assert len(bytes_of) == 260
    assert len(bytes_of("wheat", add_special_tokens=False)["input_ids"]) == 5
    assert [bytes_of.convert_tokens_to_ids(mark) for mark in MARKS] == [256, 257, 258, 259]
    assert (bytes_of.bos_token, bytes_of.eos_token, bytes_of.pad_token) == MARKS[:3]


@given(text=st.text())
def test_any_text_comes_back(bytes_of: Any, text: str) -> None:
    ids = bytes_of(text, add_special_tokens=False)["input_ids"]
    if not any(mark in text for mark in MARKS):
        assert len(ids) == len(text.encode())
        assert max(ids, default=0) < 256
    assert bytes_of.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_text_with_accents_comes_back_byte_by_byte(bytes_of: Any) -> None:
    ids = bytes_of("é 🌾", add_special_tokens=False)["input_ids"]
    assert len(ids) == 2 + 1 + 4
    assert bytes_of.decode(ids) == "é 🌾"


def test_known_ids_fit_the_known_vocabulary(llama: LocatedModel, bytes_of: Any) -> None:
    config = transformers.AutoConfig.from_pretrained(str(llama.path))
    assert config.vocab_size == len(bytes_of)
    ids = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    assert ids == (bytes_of.bos_token_id, bytes_of.eos_token_id, bytes_of.pad_token_id)


def test_a_folder_with_a_config_is_enough(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "My Model.v1"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    located = locate(f"scratch:{folder}")
    assert located.path.name.startswith("My-Model-v1-")
    assert len(load_model(located, kind=TEXT, labels="abc").model.bert.encoder.layer) == 3
    assert load_tokenizer(located)("wheat")["input_ids"] == [2, 5, 3]


def test_a_config_that_names_no_class_gives_a_body(tmp_path: Path) -> None:
    values = {key: value for key, value in CONFIGS["vit"]().to_dict().items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": None}))
    backbone = load_model(locate(f"scratch:{tmp_path}"), kind=IMAGE, labels="ab")
    assert backbone.head == {"classifier.weight", "classifier.bias"}


def test_another_config_is_another_model(tmp_path: Path) -> None:
    folders = set()
    for size in (4, 8):
        config = {**CONFIGS["vit"]().to_dict(), "image_size": size}
        (tmp_path / "config.json").write_text(json.dumps(config))
        folders.add(scratch.draw(f"scratch:{tmp_path}"))
    assert len(folders) == 2


def test_an_unknown_architecture_has_a_near_miss() -> None:
    with pytest.raises(SourceError, match=r"config\.json 'vit-tiny-patch4-82'\. Known: .* Did you"):
        locate("scratch:vit-tiny-patch4-82")


def test_a_folder_whose_config_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"Expected JSON in .*config\.json"):
        locate(f"scratch:{tmp_path}")


def test_a_folders_tokenizer_is_part_of_what_is_drawn(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    first = locate(f"scratch:{folder}").path
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text().replace("{", '{"model_max_length": 7, ', 1))
    assert locate(f"scratch:{folder}").path != first
