"""Loading: which weights are fresh, from which seed, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedpeft_app.backbone.load import LOADS, Backbone, load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.backbone.processor import load_tokenizer
from fedpeft_app.errors import BackboneError

HEAD = {"classifier.weight", "classifier.bias"}
POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def load(folder: Path, labels: str = "abc", **settings: Any) -> Backbone:
    """Load a model that tells one-letter labels apart."""
    return load_model(
        locate(str(folder)), kind="sequence-classification", labels=labels, **settings
    )


def bits(backbone: Backbone, names: set[str] | frozenset[str]) -> dict[str, bytes]:
    """Copy parameters out, bit by bit."""
    return {
        name: parameter.detach().view(torch.uint8).numpy().tobytes()
        for name, parameter in backbone.model.named_parameters()
        if name in names
    }


def make_copy(folder: Path, to: Path, **config: Any) -> Path:
    """Copy a model, with other values in its config.json."""
    shutil.copytree(folder, to)
    values = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**values, **config}))
    return to


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder without a padding token, and a tokenizer whose end of text is number 6."""
    folder = tmp_path_factory.mktemp("gpt2")
    config = transformers.GPT2Config(
        vocab_size=12, n_embd=16, n_layer=1, n_head=2, n_positions=16, eos_token_id=6
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    words = {word: index for index, word in enumerate("abcdef")} | {"<|endoftext|>": 6}
    transformers.GPT2Tokenizer(vocab=words, merges=[]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def without_pooler(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT, saved without its pooler."""
    folder = tmp_path_factory.mktemp("no-pooler")
    model = transformers.BertModel.from_pretrained(str(tiny_model), add_pooling_layer=False)
    model.save_pretrained(folder)
    return folder


def test_the_head_is_what_the_checkpoint_does_not_hold(
    tiny_model: Path, without_pooler: Path, gpt2: Path
) -> None:
    assert load(tiny_model).head == HEAD
    assert load(without_pooler).head == HEAD | POOLER
    assert load(gpt2).head == {"score.weight"}


def test_the_body_has_the_bits_of_the_checkpoint(tiny_model: Path) -> None:
    loaded = load(tiny_model)
    original = transformers.BertModel.from_pretrained(str(tiny_model)).state_dict()
    body = dict(loaded.model.bert.named_parameters())
    assert len(body) > 30
    assert all(torch.equal(parameter, original[name]) for name, parameter in body.items())


def test_fresh_weights_are_a_function_of_the_seed(without_pooler: Path) -> None:
    first = load(without_pooler, seed=5)
    torch.rand(7)  # history must not matter
    again, other = load(without_pooler, seed=5), load(without_pooler, seed=6)
    assert bits(first, first.head) == bits(again, again.head)
    for name in ("classifier.weight", "bert.pooler.dense.weight"):
        assert bits(first, {name}) != bits(other, {name})
    assert bits(first, frozenset({"classifier.bias"})) == {"classifier.bias": bytes(12)}


def test_loading_leaves_global_randomness_alone(tiny_model: Path) -> None:
    before = torch.random.get_rng_state()
    load(tiny_model, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_head_for_other_labels_is_replaced(tiny_model: Path, tmp_path: Path) -> None:
    load(tiny_model, "ab").model.save_pretrained(tmp_path)
    for labels in ("abcd", "ab"):  # one of another size, one that would fit
        loaded = load(tmp_path, labels, seed=1)
        assert loaded.head == HEAD
        assert loaded.model.classifier.weight.shape == (len(labels), 32)
    first, again = load(tmp_path, "abcd", seed=1), load(tmp_path, "abcd", seed=1)
    assert bits(first, first.head) == bits(again, again.head)


def test_the_config_carries_the_label_names(tiny_model: Path) -> None:
    config = load(tiny_model, "xyz").model.config
    assert config.id2label == {0: "x", 1: "y", 2: "z"}
    assert config.label2id == {"x": 0, "y": 1, "z": 2}
    assert config.num_labels == 3


def test_parameters_count_everything(tiny_model: Path) -> None:
    body = transformers.BertModel.from_pretrained(str(tiny_model)).num_parameters()
    assert load(tiny_model).parameters == body + 3 * 32 + 3


def test_every_load_is_counted(tiny_model: Path) -> None:
    fingerprint = locate(str(tiny_model)).fingerprint
    before = LOADS[fingerprint]
    load(tiny_model)
    load(tiny_model)
    assert LOADS[fingerprint] == before + 2


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_the_dtype_is_the_one_asked_for(
    tiny_model: Path, dtype: str, expected: torch.dtype
) -> None:
    parameters = load(tiny_model, dtype=dtype).model.parameters()
    assert {parameter.dtype for parameter in parameters} == {expected}


def dropouts(model: torch.nn.Module) -> set[float]:
    """Every dropout probability in a model, in modules and in plain attributes."""
    modules = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    plain = {
        float(value)
        for module in model.modules()
        for name, value in vars(module).items()
        if name.endswith("dropout") and isinstance(value, float | int)
    }
    return modules | plain


@pytest.mark.parametrize(("asked", "expected"), [(0.0, 0.0), (0.25, 0.25), (-1, 0.1)])
def test_dropout_is_set_everywhere_or_left_alone(
    tiny_model: Path, gpt2: Path, asked: float, expected: float
) -> None:
    for folder in (tiny_model, gpt2):
        assert dropouts(load(folder, dropout=asked).model) == {expected}


def test_dropout_in_plain_attributes_is_set_too(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        attention_dropout=0,  # an int, as JSON has it
    )
    transformers.LlamaModel(config).save_pretrained(tmp_path)
    assert dropouts(load(tmp_path, dropout=0.25).model) == {0.25}


def outputs(model: Any, ids: list[list[int]], mask: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)
        ).logits
    return logits


def test_without_dropout_training_mode_computes_the_same(tiny_model: Path, gpt2: Path) -> None:
    for folder in (tiny_model, gpt2):
        for dropout, same in ((0.0, True), (0.5, False)):
            model = load(folder, dropout=dropout).model
            evaluated = outputs(model.eval(), [[1, 2, 3]], [[1, 1, 1]])
            trained = outputs(model.train(), [[1, 2, 3]], [[1, 1, 1]])
            assert torch.equal(evaluated, trained) == same


@pytest.mark.parametrize("which", ["tiny_model", "gpt2"])
def test_padding_changes_no_output(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    model = load(folder).model.eval()
    pad = load_tokenizer(locate(str(folder))).pad_token_id
    assert pad == model.config.pad_token_id
    together = outputs(model, [[1, 2, 3, 4], [2, 3, pad, pad]], [[1, 1, 1, 1], [1, 1, 0, 0]])
    alone = outputs(model, [[2, 3]], [[1, 1]])
    assert torch.allclose(together[1:], alone, atol=1e-6)


def test_a_decoder_pads_with_its_tokenizers_padding_token(gpt2: Path, tmp_path: Path) -> None:
    assert load_tokenizer(locate(str(gpt2))).pad_token == "<|endoftext|>"
    assert load(gpt2).model.config.pad_token_id == 6
    folder = make_copy(gpt2, tmp_path / "padded")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    tokenizer.pad_token = "f"  # not the end of the text
    tokenizer.save_pretrained(folder)
    assert load(folder).model.config.pad_token_id == tokenizer.convert_tokens_to_ids("f") != 6


@pytest.mark.parametrize("end", [6, [6, 7]])
def test_a_decoder_without_tokenizer_pads_with_its_end_of_text(
    gpt2: Path, tmp_path: Path, end: int | list[int]
) -> None:
    folder = make_copy(gpt2, tmp_path / "bare", eos_token_id=end)
    for path in folder.glob("*token*"):
        path.unlink()
    assert load(folder).model.config.pad_token_id == 6


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def fill_with_junk(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"junk" * 40)


def leave_a_bad_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"junk")


@pytest.mark.parametrize("damage", [truncate, fill_with_junk, leave_a_bad_pickle])
def test_unreadable_weights_are_refused(
    tiny_model: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(make_copy(tiny_model, tmp_path / "bad"))
    with pytest.raises(BackboneError, match=r"Cannot load the model in .*bad: "):
        load(tmp_path / "bad")


@pytest.mark.parametrize("config", [{"model_type": "no-such"}, {"hidden_size": "wide"}])
def test_a_config_that_transformers_refuses_is_refused(
    tiny_model: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(BackboneError, match=r"Cannot load the model in .*bad: "):
        load(make_copy(tiny_model, tmp_path / "bad", **config))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"hidden_size": 16}, r"shapes of its config\.json: bert\.embeddings"),
        ({"num_hidden_layers": 3}, r"lack 16 of the 55 tensors .*encoder\.layer\.2"),
        ({"model_type": "albert", "embedding_size": 32}, r"lack \d+ of the \d+ tensors"),
    ],
)
def test_weights_of_another_model_are_refused_not_made_up(
    tiny_model: Path, tmp_path: Path, config: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BackboneError, match=complaint):
        load(make_copy(tiny_model, tmp_path / "bad", **config))


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="Cannot load the model"):
        load(tmp_path)


def test_the_tokenizer_is_the_folders_own(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(locate(str(tiny_model)))
    assert tokenizer.convert_ids_to_tokens(tokenizer("wheat oil")["input_ids"]) == [
        "[CLS]",
        "wheat",
        "oil",
        "[SEP]",
    ]


def test_a_folder_without_tokenizer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = make_copy(tiny_model, tmp_path / "bad")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(BackboneError, match=r"Expected tokenizer files .*tokenizer\.json"):
        load_tokenizer(locate(str(folder)))


@pytest.mark.parametrize("content", ["{", '{"version": "1.0"}', '{"model": {"type": "none"}}'])
def test_a_broken_tokenizer_is_refused(tiny_model: Path, tmp_path: Path, content: str) -> None:
    folder = make_copy(tiny_model, tmp_path / "bad")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(BackboneError, match="No usable tokenizer in "):
        load_tokenizer(locate(str(folder)))


def test_loading_keeps_the_users_transformers_logging(tiny_model: Path) -> None:
    logging = transformers.logging
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load(tiny_model)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_without_dropout_no_layer_is_skipped(tmp_path: Path) -> None:
    config = transformers.SwinConfig(
        image_size=16,
        patch_size=4,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=2,
        drop_path_rate=0.9,
    )
    transformers.SwinModel(config).save_pretrained(tmp_path)
    model = load_model(
        locate(str(tmp_path)), kind="image-classification", labels="abc", dropout=0.0
    ).model
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        still, moving = model.eval()(pixels).logits, model.train()(pixels).logits
    torch.testing.assert_close(still, moving)
