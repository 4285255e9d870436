"""Laws that every method obeys on every kind of model, or is refused as docs/methods.md says."""

import copy
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from fedpeft_app.adapters import AdapterState
from fedpeft_app.backbone.load import Backbone
from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.task import Batch, Positions
from fedpeft_app.errors import AdapterMismatchError, BackboneError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import METHODS, find_method
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.portable.pooling import PooledForSequenceClassification
from fedpeft_app.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.training.fit import FitSettings, fit
from fedpeft_app.wire.record import STATE, Order, read_order, section_of, write_order

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
OF_PEFT = (  # small sizes for small models
    ("peft:LOHA", {}),
    ("peft:LOKR", {}),
    ("peft:BOFT", {}),
    ("peft:FOURIERFT", {"n_frequency": 20}),
    ("peft:HRA", {}),
    ("peft:VBLORA", {"num_vectors": 10, "vector_length": 8}),
)
OPTIONS: Mapping[str, Mapping[str, Any]] = {"vera": {"r": 8}, **dict(OF_PEFT)}
NAMES = [*METHODS.names(), *dict(OF_PEFT)]
SPEAKS_AT_ONCE = {  # for random tokens, or a random spectrum, are put in
    "prompt",
    "prompt-shallow",
    "prefix",
    "p-tuning",
    "peft:FOURIERFT",
}
DRAWN = {"lora-fa", "lora-sb", "vera", "peft:BOFT"}  # tensors of their own that never train
LOCATED = LocatedModel(
    name="tiny",
    revision="",
    origin="scratch",
    path=Path(),
    fingerprint="0123456789abcdef",
    weight_bytes=0,
)
TOKENS = {
    "input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0], [10, 11, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]),
}
PIXELS = {"pixel_values": torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
    "num_labels": 3,
}
_DECODER: dict[str, Any] = {
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "initializer_range": 0.3,
    "num_labels": 3,
}


@dataclass(frozen=True, kw_only=True)
class Animal:
    """A kind of model.

    Attributes:
        build: Makes it, with random weights.
        head: Prefix of its head's parameters.
        inputs: A batch.
    """

    build: Callable[[], Any]
    head: str
    inputs: dict[str, torch.Tensor]


ANIMALS = {
    "BERT": Animal(
        build=lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **_SIZES)
        ),
        head="classifier",
        inputs=TOKENS,
    ),
    "ViT": Animal(
        build=lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=8, patch_size=4, **_SIZES)
        ),
        head="classifier",
        inputs=PIXELS,
    ),
    "GPT-2": Animal(
        build=lambda: transformers.GPT2ForSequenceClassification(
            transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, **_DECODER)
        ),
        head="score",
        inputs=TOKENS,
    ),
    "Llama": Animal(
        build=lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**_SIZES, **_DECODER, "num_key_value_heads": 1})
        ),
        head="no fresh head",
        inputs=TOKENS,
    ),
}
POOLED = {
    "pooled BERT": Animal(
        build=lambda: PooledForSequenceClassification(
            transformers.BertModel(
                transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **_SIZES)
            ),
            3,
            "mean",
        ),
        head="classifier",
        inputs=TOKENS,
    ),
    "pooled ViT": Animal(
        build=lambda: PooledForSequenceClassification(
            transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, **_SIZES)),
            3,
            "cls",
        ),
        head="classifier",
        inputs=PIXELS,
    ),
    "pooled Swin": Animal(  # its embeddings give a tuple
        build=lambda: PooledForSequenceClassification(
            transformers.SwinModel(
                transformers.SwinConfig(
                    image_size=8,
                    patch_size=2,
                    embed_dim=8,
                    depths=[1, 1],
                    num_heads=[2, 2],
                    window_size=2,
                    initializer_range=0.3,
                )
            ),
            3,
            "mean",
        ),
        head="classifier",
        inputs=PIXELS,
    ),
}
ON_POOLED = (
    "full",
    "bias",
    "ln",
    "lora",
    "dora",
    "pissa",
    "ia3",
    "vera",
    "bottleneck",
    "peft:LOHA",
)
KINDS = [
    *((name, animal) for name in NAMES for animal in ANIMALS),
    *((name, animal) for name in ON_POOLED for animal in POOLED),
]
ALL = {**ANIMALS, **POOLED}


@cache
def built(animal: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ALL[animal].build().eval()


def backbone(animal: str, *, dtype: torch.dtype = torch.float32, meta: bool = False) -> Backbone:
    """A fresh copy, always of the same bits."""
    if meta:
        with torch.device("meta"):
            model = ALL[animal].build().eval()
    else:
        model = copy.deepcopy(built(animal)).to(dtype)
    head = frozenset(n for n, _ in model.named_parameters() if n.startswith(ALL[animal].head))
    return Backbone(located=LOCATED, model=model, head=head, parameters=0)


def settings(name: str) -> MethodSettings:
    return MethodSettings(rank=2, alpha=6.0, prompt_length=3, options=OPTIONS.get(name, {}))


def made(name: str, animal: str, *, seed: int = 0, **base: Any) -> AdaptedModel:
    return adapt(backbone(animal, **base), find_method(name), settings(name), seed)


def logits(model: Any, animal: str) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(**ALL[animal].inputs).logits
    return found


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Stands for a task: as much of it as training needs."""

    inputs: dict[str, torch.Tensor]

    def collate(self, examples: ExampleSet, positions: Positions, *_: Any) -> Batch:
        return {name: tensor[torch.from_numpy(positions)] for name, tensor in self.inputs.items()}

    def weight(self, batch: Batch) -> float:
        return float(len(next(iter(batch.values()))))

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        output = model(**batch).logits.float()
        loss: torch.Tensor = (output - torch.arange(output.shape[-1])).square().mean()
        return loss


def train(adapted: AdaptedModel, animal: str, steps: int = 3) -> None:
    """Train as nodes do."""
    settings = FitSettings(
        batch_size=3,
        epochs=steps,
        optimizer="sgd",
        learning_rate=0.05,
        head_learning_rate=0.05,
        schedule="constant",
        max_grad_norm=0.0,
    )
    lesson: Any = Lesson(inputs=ALL[animal].inputs)
    fit(adapted, lesson, example_set([(1, 1)] * 3), settings, round_number=1, partition=0)


def frozen(adapted: AdaptedModel) -> dict[str, torch.Tensor]:
    trained = {tensor.name for tensor in adapted.tensors}
    return {
        name: value.detach().clone()
        for name, value in [*adapted.model.named_parameters(), *adapted.model.named_buffers()]
        if name not in trained
    }


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A method on a model, after a few steps of training.

    Attributes:
        adapted: The model.
        before: Its frozen tensors, before.
        start: What it had of the server, before.
        state: What it learnt and shares.
        personal: What it learnt and keeps.
        logits: What it then says.
    """

    adapted: AdaptedModel
    before: dict[str, torch.Tensor]
    start: AdapterState
    state: AdapterState
    personal: AdapterState
    logits: torch.Tensor

    def teach(self, other: AdaptedModel) -> None:
        """Put into another model all that this one learnt."""
        other.pour(self.state)
        other.personal.pour(self.personal)


def served(adapted: AdaptedModel) -> AdapterState:
    """Stand in for a server that has written what it alone writes."""
    state, generator = adapted.read(), np.random.default_rng(0)
    for tensor, view in state.items():
        if tensor.frozen:
            view[...] = generator.normal(scale=0.2, size=tensor.shape)
    return state


@cache
def trial(name: str, animal: str) -> Trial:
    """Train a pair, once."""
    adapted = made(name, animal)
    adapted.pour(served(adapted))
    start, before = adapted.read(), frozen(adapted)
    train(adapted, animal)
    return Trial(
        adapted=adapted,
        before=before,
        start=start,
        state=adapted.read(),
        personal=adapted.personal.read(),
        logits=logits(adapted.model, animal),
    )


# ------------------------------------------------------------------ what docs/methods.md says


def table(heading: str) -> Iterator[list[str]]:
    """The cells of a table in docs/methods.md."""
    section = DOCS.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")
    for line in section[0].splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def documented_refusals() -> dict[tuple[str, str], str]:
    """(Method, model) → the words that the docs quote from the message."""
    found = {}
    for names, models, reason in table("Refusals"):
        quoted = re.search(r"“([^”]+)”", reason)
        assert quoted, reason
        for name in re.findall(r"`([^`]+)`", names):
            for animal in re.findall(r"BERT|ViT|GPT-2|Llama", models):
                found[name, animal] = quoted[1]
    return found


REFUSALS = documented_refusals()
REFUSED = [kind for kind in KINDS if kind in REFUSALS]
ACCEPTED = [kind for kind in KINDS if kind not in REFUSALS]


def label(kind: tuple[str, str]) -> str:
    return f"{kind[0]}-{kind[1]}"


@pytest.fixture(params=ACCEPTED, ids=label)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A method and a model that fit, by the docs."""
    name, animal = request.param
    return name, animal


@pytest.fixture
def tried(kind: tuple[str, str]) -> Trial:
    return trial(*kind)


@pytest.mark.parametrize("kind", REFUSED, ids=label)
def test_a_refusal_says_what_the_docs_say_with_weights_and_without(kind: tuple[str, str]) -> None:
    for meta in (False, True):
        model = backbone(kind[1], meta=meta)
        with pytest.raises(BackboneError) as caught:
            find_method(kind[0]).adapt(model.model, model.head, settings(kind[0]))
        assert REFUSALS[kind] in str(caught.value)
        assert f"method.name = '{kind[0]}'" in str(caught.value)


def test_the_docs_refuse_nothing_else() -> None:
    assert set(REFUSALS) == set(REFUSED)


def test_the_docs_list_every_method() -> None:
    assert [name for row in table("Methods") for name in re.findall(r"`([^`]+)`", row[0])] == [
        name for name in METHODS.names() if name != "adalora"
    ]


def test_the_docs_say_what_merges_and_what_exports_to_peft() -> None:
    for name, *_, exported, merges in table("Methods"):
        method = find_method(name.strip("`"))
        assert exported.startswith("PEFT") == method.peft, name
        assert (merges == "yes") == method.merges, name


@cache
def counted(name: str, model: str) -> int:
    """Trained parameters of a method on a big model, of which only the shapes are made."""
    with torch.device("meta"):
        if model == "ViT-B/16":
            net: Any = transformers.ViTForImageClassification(
                transformers.ViTConfig(num_labels=100)
            )
        else:
            net = transformers.BertForSequenceClassification(
                transformers.BertConfig(
                    hidden_size=384,
                    num_hidden_layers=6,
                    num_attention_heads=12,
                    intermediate_size=1536,
                    num_labels=20,
                )
            )
    head = frozenset(n for n, _ in net.named_parameters() if n.startswith("classifier"))
    adapted = find_method(name).adapt(net, head, MethodSettings()).model
    sizes = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}
    return sum(size for n, size in sizes.items() if "classifier" not in n)


@pytest.mark.parametrize("row", list(table("Methods")), ids=lambda row: row[0])
def test_the_docs_count_right(row: list[str]) -> None:
    for model, cell in zip(("ViT-B/16", "MiniLM"), row[3:5], strict=True):
        try:
            found = f"{counted(row[0].strip('`'), model):,}"
        except BackboneError:
            found = "refused"
        assert found == cell


@pytest.mark.parametrize(
    ("name", "body"),  # algorithms.md § 1.5, without the head's 768 · 100 + 100 = 76,900
    [
        ("full", 85_798_656),
        ("bottleneck-shared", 148_320),
        ("bias", 102_912),
        ("prompt", 92_160),
        ("head", 0),
    ],
)
def test_the_methods_of_the_paper_have_its_sizes(name: str, body: int) -> None:
    assert counted(name, "ViT-B/16") == body


# ------------------------------------------------------------------ training


def test_training_leaves_every_frozen_bit(tried: Trial) -> None:
    after = frozen(tried.adapted)
    assert after.keys() == tried.before.keys()
    for name, value in after.items():
        assert torch.equal(value, tried.before[name]), name


def test_training_moves_every_declared_tensor(tried: Trial) -> None:
    pairs = ((tried.start, tried.state), (tried.adapted.personal.initial, tried.personal))
    initial, learnt = (
        {name: value for state in states for name, value in state.tensors().items()}
        for states in zip(*pairs, strict=True)
    )
    trained = [tensor.name for tensor in tried.adapted.tensors]
    unmoved = {name for name in trained if np.array_equal(learnt[name], initial[name])}
    # The biases of keys cancel in the softmax; rounding may leave them where they were.
    assert not {name for name in unmoved if not re.search(r"k(ey|_proj)\.bias$", name)}
    assert np.linalg.norm(tried.state.vector - tried.start.vector) > 1e-3


def test_what_trains_is_the_head_and_what_the_method_says(
    tried: Trial, kind: tuple[str, str]
) -> None:
    heads = {tensor.name for tensor in tried.adapted.tensors if tensor.head}
    assert len(heads) == {"GPT-2": 1, "Llama": 0}.get(kind[1], 2)
    assert (tried.adapted.frozen != "") == (kind[0] in DRAWN)


def test_what_the_server_alone_writes_is_zero_at_first_and_never_trains(tried: Trial) -> None:
    travelling = {tensor.name: tensor.frozen for tensor in tried.adapted.spec.tensors}
    carried = {name for name, is_frozen in travelling.items() if is_frozen}
    assert carried == tried.adapted.adaptation.carried
    assert not carried & {tensor.name for tensor in tried.adapted.tensors}
    assert not any(tried.adapted.initial.tensors()[name].any() for name in carried)
    for name in carried:
        assert tried.state.tensors()[name].any()  # or nothing below would speak of it
        assert np.array_equal(tried.state.tensors()[name], tried.start.tensors()[name])


def test_nothing_changes_before_training_unless_something_random_is_put_in(
    kind: tuple[str, str],
) -> None:
    name, animal = kind
    plain = logits(copy.deepcopy(built(animal)), animal)
    fresh = logits(made(name, animal).model, animal)[:, -plain.shape[1] :]  # prompts come first
    same = torch.allclose(fresh, plain, atol=1e-5)
    assert same == (name not in SPEAKS_AT_ONCE)


# ------------------------------------------------------------------ states


def test_a_state_survives_wire_and_disk_bit_by_bit(tried: Trial, tmp_path: Path) -> None:
    state = tried.state
    order = Order(spec=state.spec, sections=[section_of(STATE, state)], round_number=1)
    section = read_order(write_order(order), state.spec).section(STATE)
    assert section is not None
    sent = section.decode()
    assert sent.spec.fingerprint == state.spec.fingerprint
    assert sent.vector.tobytes() == state.vector.tobytes()
    folder = RunFolder(path=tmp_path)
    folder.checkpoints.mkdir()
    save_checkpoint(folder, Checkpoint(state=state, round_number=1, metrics={}))
    kept = load_checkpoint(folder, 1).state
    assert kept.vector.tobytes() == state.vector.tobytes()
    assert kept.spec.fingerprint == state.spec.fingerprint


def test_strange_tensors_are_refused(tried: Trial) -> None:
    tensors = dict(tried.state.tensors())
    name, value = next(iter(tensors.items()))
    for broken in (
        {key: tensor for key, tensor in tensors.items() if key != name},
        {**tensors, "extra": value},
        {**tensors, name: value[None]},
    ):
        with pytest.raises(AdapterMismatchError):
            AdapterState.from_tensors(tried.state.spec, broken)


def test_the_seed_and_the_state_say_all(tried: Trial, kind: tuple[str, str]) -> None:
    torch.rand(7)  # history must not matter
    twin = made(*kind)
    assert twin.initial.vector.tobytes() == tried.adapted.initial.vector.tobytes()
    assert twin.frozen == tried.adapted.frozen
    tried.teach(twin)
    assert torch.equal(logits(twin.model, kind[1]), tried.logits)


def test_nodes_of_any_seed_agree_once_they_hold_a_state(
    tried: Trial, kind: tuple[str, str]
) -> None:
    other = made(*kind, seed=1)
    assert other.spec.fingerprint == tried.state.spec.fingerprint
    tried.teach(other)
    if kind[0] == "lora-fa":  # A is drawn: the roll call compares its digest
        assert other.frozen != tried.adapted.frozen
    else:
        assert other.frozen == tried.adapted.frozen
        assert torch.allclose(logits(other.model, kind[1]), tried.logits, atol=1e-5)


def test_a_copy_computes_the_same(tried: Trial, kind: tuple[str, str]) -> None:
    twin = copy.deepcopy(tried.adapted.model)
    assert torch.equal(logits(twin, kind[1]), tried.logits)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(logits(tried.adapted.model, kind[1]), tried.logits)


def test_shapes_are_known_before_weights_are_there(tried: Trial, kind: tuple[str, str]) -> None:
    name, animal = kind
    empty = backbone(animal, meta=True)
    adaptation = find_method(name).adapt(empty.model, empty.head, settings(name))
    own = [
        (n, tuple(p.shape))
        for n, p in adaptation.model.named_parameters()
        if p.requires_grad or n in adaptation.carried
    ]
    for part, names in (
        (tried.adapted.shared, {n for n, _ in own} - adaptation.personal),
        (tried.adapted.personal, adaptation.personal),
    ):
        shapes = [(n, shape) for n, shape in own if n in names]
        assert shapes == [(tensor.name, tensor.shape) for tensor in part.spec.tensors]


def test_functional_calls_see_the_parameters(tried: Trial, kind: tuple[str, str]) -> None:
    model, animal = tried.adapted.model.eval(), kind[1]
    parts = (tried.adapted.shared, tried.adapted.personal)
    given = {
        name: torch.as_tensor(value)
        for part in parts
        for name, value in part.initial.tensors().items()
    }
    for part in parts:
        part.pour(part.initial)
    expected = logits(model, animal)
    tried.teach(tried.adapted)
    with torch.no_grad():
        found = torch.func.functional_call(model, given, (), ALL[animal].inputs).logits
    assert torch.equal(found, expected)
    assert torch.equal(logits(model, animal), tried.logits)  # and leave no trace


# ------------------------------------------------------------------ half precision

FLOAT32_ONLY = {"bias": "Set model.dtype = 'float32'"}


def test_adapters_are_float32_on_a_half_precision_base(kind: tuple[str, str]) -> None:
    name, animal = kind
    if name in FLOAT32_ONLY:
        with pytest.raises(BackboneError, match=FLOAT32_ONLY[name]):
            made(name, animal, dtype=torch.bfloat16)
        return
    adapted = made(name, animal, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in adapted.trainable} == {torch.float32}
    inputs = ALL[animal].inputs
    if "pixel_values" in inputs:
        inputs = {"pixel_values": PIXELS["pixel_values"].bfloat16()}
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.random.fork_rng():
        output = adapted.model.train()(**inputs).logits.float()
    output.square().mean().backward()
    optimizer = torch.optim.SGD(adapted.trainable, lr=0.1)
    optimizer.step()
    before, after = (
        np.concatenate(states)
        for states in zip(
            *(
                (part.initial.vector, part.read().vector)
                for part in (adapted.shared, adapted.personal)
            ),
            strict=True,
        )
    )
    assert not np.array_equal(before, after)
    assert np.isfinite(after).all()


# ------------------------------------------------------------------ leaving the house


def restated(adapted: AdaptedModel, folder: Path) -> Path:
    """Write what stock PEFT is to load."""
    adapted.model.save_pretrained(folder, save_embedding_layers=False)
    tensors, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    arrays, settings = adapted.adaptation.restate(
        load_file(tensors), json.loads(config.read_text(encoding="utf-8"))
    )
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, tensors)
    config.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def is_peft(kind: tuple[str, str]) -> bool:
    return find_method(kind[0]).peft and kind != ("prompt", "ViT")


@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if is_peft(kind)], ids=label)
def test_stock_peft_loads_it_on_the_model_as_it_was(
    kind: tuple[str, str], tried: Trial, tmp_path: Path
) -> None:
    folder = restated(tried.adapted, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own affairs
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(built(kind[1])), str(folder))
    assert torch.allclose(logits(loaded, kind[1]), tried.logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if not is_peft(kind)], ids=label)
def test_its_own_module_loads_it_on_the_model_as_it_was(
    kind: tuple[str, str], tried: Trial
) -> None:
    adaptation = tried.adapted.adaptation
    model = copy.deepcopy(built(kind[1]))
    if adaptation.portable:
        layout = json.loads(json.dumps(adaptation.layout))
        import_module(f"fedpeft_app.portable.{adaptation.portable}").attach(model, **layout)
    own = {**tried.state.tensors(), **tried.personal.tensors()}
    tensors = {name: torch.as_tensor(value) for name, value in own.items()}
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    assert torch.equal(logits(model, kind[1]), tried.logits)


def merges(kind: tuple[str, str]) -> bool:
    return find_method(kind[0]).merges


@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if merges(kind)], ids=label)
def test_merging_says_the_same(kind: tuple[str, str], tried: Trial) -> None:
    plain = copy.deepcopy(tried.adapted.model)
    if is_peft(kind):
        plain = plain.merge_and_unload()
    assert not [name for name, _ in plain.named_parameters() if "base_layer" in name]
    assert torch.allclose(logits(plain, kind[1]), tried.logits, atol=1e-4)


def in_first_block(adapted: AdaptedModel) -> set[str]:
    names = {tensor.name for tensor in adapted.tensors if not tensor.head}
    return {name for name in names if re.search(r"\.(layers?|h)\.0\.", name)}


WHOLE = {"full", "head", "prompt", "prompt-shallow", "prefix", "p-tuning"}


def test_the_last_layer_alone_leaves_the_first_as_it_was(kind: tuple[str, str]) -> None:
    name, animal = kind
    last = replace(settings(name), layers="last:1")
    if name in WHOLE:
        with pytest.raises(BackboneError, match="method.layers = 'last:1' means nothing to"):
            adapt(backbone(animal), find_method(name), last, 0)
        return
    adapted = adapt(backbone(animal), find_method(name), last, 0)
    assert in_first_block(trial(*kind).adapted)
    assert not in_first_block(adapted)
    assert [tensor for tensor in adapted.tensors if not tensor.head]
