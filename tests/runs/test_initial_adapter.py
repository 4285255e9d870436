"""Starting from an adapter folder: exactly its numbers, or an error."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedpeft_app.adapters import AdapterState
from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.backbone.processor import load_tokenizer
from fedpeft_app.data.tasks.task import Usage
from fedpeft_app.errors import AdapterMismatchError, RunFolderError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import METHODS, find_method
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.runs.export import export
from fedpeft_app.runs.initial import load_adapter, peft_key, require_fitting

_LABELS = ("crude", "grain", "money")
_SETTINGS = {
    "lora": ("lora", MethodSettings(rank=2)),
    "dora": ("lora", MethodSettings(rank=2, options={"use_dora": True})),
    "rslora": ("lora", MethodSettings(rank=4, options={"use_rslora": True})),
    "residual": ("lora-residual", MethodSettings(rank=2)),
    "embeddings": ("lora", MethodSettings(rank=2, targets="word_embeddings,query")),
    "head": ("head", MethodSettings()),
    "full": ("full", MethodSettings()),
}


def adapted(model: Path, kind: str) -> AdaptedModel:
    """Load the tiny model and adapt it."""
    name, settings = _SETTINGS[kind]
    backbone = load_model(locate(str(model)), kind="sequence-classification", labels=_LABELS)
    return adapt(backbone, METHODS.get(name)(), settings, seed=0)


def numbered(model: AdaptedModel) -> AdapterState:
    """Give every value of an adapter a number of its own, and pour it in."""
    vector = np.arange(model.spec.size, dtype=np.float32) / 64
    state = AdapterState(spec=model.spec, vector=vector)
    model.pour(state)
    return state


@pytest.mark.parametrize("kind", [kind for kind in _SETTINGS if kind != "residual"])
def test_what_is_saved_comes_back_bit_for_bit(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    model = adapted(tiny_model, kind)
    state = numbered(model)
    options = {"save_embedding_layers": False} if model.method.peft else {}
    model.model.save_pretrained(tmp_path, **options)
    assert load_adapter(tmp_path, model.spec, _LABELS).vector.tobytes() == state.vector.tobytes()


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> tuple[Path, AdaptedModel]:
    """A LoRA folder, and the model it was saved from."""
    model = adapted(tiny_model, "lora")
    numbered(model)
    model.model.save_pretrained(tmp_path, save_embedding_layers=False)
    (tmp_path / "labels.json").write_text(json.dumps(_LABELS), encoding="utf-8")
    return tmp_path, model


def test_a_residual_starts_from_zero_beside_the_lora_that_is_read(
    folder: tuple[Path, AdaptedModel], tiny_model: Path
) -> None:
    path, lora = folder
    spec = adapted(tiny_model, "residual").spec
    require_fitting(path, spec, _LABELS)
    found, read = load_adapter(path, spec, _LABELS).tensors(), lora.read().tensors()
    assert set(read) < set(found)
    for name, value in found.items():
        assert np.array_equal(value, read.get(name, np.zeros_like(value))), name


def test_a_missing_tensor_is_named(folder: tuple[Path, AdaptedModel]) -> None:
    path, model = folder
    tensors = load_file(path / "adapter_model.safetensors")
    del tensors["base_model.model.classifier.bias"]
    save_file(tensors, path / "adapter_model.safetensors")
    with pytest.raises(AdapterMismatchError, match=r"missing .*classifier.*bias.*unexpected none"):
        load_adapter(path, model.spec, _LABELS)


def test_an_unexpected_tensor_is_named(folder: tuple[Path, AdaptedModel]) -> None:
    path, model = folder
    tensors = load_file(path / "adapter_model.safetensors")
    tensors["base_model.model.surprise"] = np.zeros(1, np.float32)
    save_file(tensors, path / "adapter_model.safetensors")
    with pytest.raises(AdapterMismatchError, match=r"unexpected \['base_model.model.surprise'\]"):
        load_adapter(path, model.spec, _LABELS)


def test_another_rank_is_refused(folder: tuple[Path, AdaptedModel], tiny_model: Path) -> None:
    other = adapted(tiny_model, "rslora")
    with pytest.raises(AdapterMismatchError, match=r"Expected float32 \(4, 32\)"):
        load_adapter(folder[0], other.spec, _LABELS)


def test_another_scaling_is_refused(folder: tuple[Path, AdaptedModel]) -> None:
    path, model = folder  # alpha 16 / rank 2 = 8
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    (path / "adapter_config.json").write_text(
        json.dumps({**config, "lora_alpha": 8.0}), encoding="utf-8"
    )
    with pytest.raises(AdapterMismatchError, match=r"scaling \(alpha / rank\) of 4, .* has 8\."):
        load_adapter(path, model.spec, _LABELS)


@pytest.mark.parametrize("labels", [_LABELS[::-1], _LABELS[:2], ("a", "b", "c")])
def test_other_labels_are_refused(
    folder: tuple[Path, AdaptedModel], labels: tuple[str, ...]
) -> None:
    with pytest.raises(AdapterMismatchError, match="was trained for the labels .'crude', 'grain'"):
        load_adapter(folder[0], folder[1].spec, labels)


def test_a_folder_without_labels_is_taken_by_its_tensors(
    folder: tuple[Path, AdaptedModel],
) -> None:
    (folder[0] / "labels.json").unlink()
    load_adapter(folder[0], folder[1].spec, ("a", "b", "c"))


def test_a_folder_without_weights_is_refused(
    folder: tuple[Path, AdaptedModel], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(RunFolderError, match="Expected adapter_model.safetensors, adapter.saf"):
        load_adapter(tmp_path_factory.mktemp("empty"), folder[1].spec, _LABELS)


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "labels.json", "adapter_config.json"]
)
def test_a_damaged_file_is_named(folder: tuple[Path, AdaptedModel], name: str) -> None:
    (folder[0] / name).write_bytes(b"{")
    with pytest.raises(RunFolderError, match=f"Cannot read .*{name}"):
        load_adapter(folder[0], folder[1].spec, _LABELS)


@pytest.mark.parametrize(
    ("parameter", "key"),
    [
        ("q.lora_A.default.weight", "q.lora_A.weight"),
        ("e.lora_embedding_A.default", "e.lora_embedding_A"),
        ("q.lora_magnitude_vector.default.weight", "q.lora_magnitude_vector"),
        ("classifier.modules_to_save.default.bias", "classifier.bias"),
        ("classifier.bias", "classifier.bias"),
        ("body.defaults.weight", "body.defaults.weight"),
    ],
)
def test_keys_are_pefts_own(parameter: str, key: str) -> None:
    assert peft_key(parameter) == key


@pytest.mark.parametrize("method", ["lora-fa", "lora-sa", "vera", "lora", "bias"])
@pytest.mark.parametrize("head", ["frozen", "personal"])
def test_what_does_not_travel_is_no_hindrance(
    tiny_model: Path, tmp_path: Path, method: str, head: str
) -> None:
    def make(seed: int) -> AdaptedModel:
        backbone = load_model(
            locate(str(tiny_model)), kind="sequence-classification", labels=_LABELS, seed=seed
        )
        options = {"r": 4} if method == "vera" else {}
        settings = MethodSettings(rank=2, options=options)
        return adapt(backbone, METHODS.get(method)(), settings, seed, head=head)

    def load(model: AdaptedModel) -> AdapterState:
        drawn = {name: value.numpy(force=True) for name, value in model.drawn.items()}
        kept = [tensor.name for tensor in model.personal.spec.tensors]
        return load_adapter(tmp_path / "out", model.spec, _LABELS, drawn=drawn, personal=kept)

    model = make(seed=0)
    state = numbered(model)
    tokenizer = load_tokenizer(locate(str(tiny_model)))
    export(
        model,
        state,
        tokenizer,
        tmp_path / "out",
        form="adapter",
        max_length=8,
        usage=Usage(),
        facts={},
    )
    assert load(model).vector.tobytes() == state.vector.tobytes()
    if head == "frozen" or method == "lora-fa":  # VeRA draws from a key of its own
        with pytest.raises(AdapterMismatchError, match="drawn from the run's seed"):
            load(make(seed=1))


def test_another_scaling_of_any_method_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    def make(alpha: float) -> AdaptedModel:
        backbone = load_model(
            locate(str(tiny_model)), kind="sequence-classification", labels=_LABELS
        )
        return adapt(backbone, find_method("peft:LOHA"), MethodSettings(rank=2, alpha=alpha), 0)

    model = make(4.0)
    model.model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert load_adapter(tmp_path, model.spec, _LABELS).spec.scaling == 2.0
    with pytest.raises(AdapterMismatchError, match=r"alpha / r = 4.0/2, this run has 32"):
        load_adapter(tmp_path, make(64.0).spec, _LABELS)
