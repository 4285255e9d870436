"""Laws that every method obeys on every checkpoint of the zoo."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from zoo import ZOO, batch, logits, make, save

from fedpeft_app.adapters import AdapterState
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import METHODS, find_method
from fedpeft_app.methods.method import Adaptation, MethodSettings

WITHIN = ("full", "head", "lora")  # tests/contracts holds every method to the same
KINDS = [(animal, method) for animal in ZOO for method in WITHIN]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in ZOO}


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A checkpoint and a method."""
    animal, method = request.param
    return animal, method


@pytest.fixture
def adapted(kind: tuple[str, str], zoo: dict[str, Path]) -> AdaptedModel:
    return adapted_again(kind, zoo)


def adapted_again(kind: tuple[str, str], zoo: dict[str, Path], seed: int = 0) -> AdaptedModel:
    animal, method = kind
    return make(zoo[animal], method, rank=2, alpha=6.0, targets=targets(animal, method), seed=seed)


def targets(animal: str, method: str) -> str:
    """What `method.targets` is to say; methods without targets take the default only."""
    return ZOO[animal].targets if method == "lora" else "auto"


def plain(name: str) -> str:
    """A parameter's name before PEFT."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def step(adapted: AdaptedModel) -> None:
    """One step of plain gradient descent."""
    optimizer = torch.optim.SGD(adapted.trainable, lr=0.5)
    adapted.model.train()
    loss = cross_entropy(adapted.model(**batch()).logits.float(), torch.tensor([0, 1, 2]))
    loss.backward()
    optimizer.step()


def test_what_trains_is_exactly_what_the_spec_says(adapted: AdaptedModel) -> None:
    trainable = [
        (name, tuple(parameter.shape))
        for name, parameter in adapted.model.named_parameters()
        if parameter.requires_grad
    ]
    assert [(tensor.name, tensor.shape) for tensor in adapted.spec.tensors] == trainable
    assert adapted.spec.size == sum(parameter.numel() for parameter in adapted.trainable)
    assert adapted.spec.method == adapted.method.name
    assert adapted.spec.backbone == adapted.backbone.located.fingerprint


def test_the_head_is_always_trained(adapted: AdaptedModel, kind: tuple[str, str]) -> None:
    head = [plain(tensor.name) for tensor in adapted.spec.tensors if tensor.head]
    assert sorted(head) == sorted(ZOO[kind[0]].head)


def expected_names(animal: str, method: str, adapted: AdaptedModel) -> Iterator[str]:
    """What a method declares to train, in plain names."""
    yield from ZOO[animal].head
    if method == "full":
        body = {name for name, _ in adapted.model.named_parameters()}
        yield from body - set(ZOO[animal].head)
    if method == "lora":
        for module in adapted.spec.ranks:
            for factor in ("lora_A", "lora_B"):
                yield plain(f"{module}.{factor}.default.weight")


def test_nothing_but_the_declared_tensors_trains(
    adapted: AdaptedModel, kind: tuple[str, str]
) -> None:
    found = [plain(tensor.name) for tensor in adapted.spec.tensors]
    assert sorted(found) == sorted(expected_names(*kind, adapted))


def test_reading_and_pouring_give_the_same_bits(
    adapted: AdaptedModel, kind: tuple[str, str], zoo: dict[str, Path]
) -> None:
    values = np.random.default_rng(0).standard_normal(adapted.spec.size).astype(np.float32)
    values[:3] = [np.float32(-0.0), np.finfo(np.float32).tiny / 2, np.finfo(np.float32).max]
    state = AdapterState(spec=adapted.spec, vector=values)
    adapted.pour(state)
    assert adapted.read().vector.tobytes() == values.tobytes()
    twin = adapted_again(kind, zoo, seed=1)
    twin.pour(AdapterState(spec=adapted.spec, vector=np.clip(values, -1, 1)))
    adapted.pour(AdapterState(spec=adapted.spec, vector=np.clip(values, -1, 1)))
    assert torch.equal(logits(adapted.model), logits(twin.model))


def test_tensors_lie_where_the_spec_says(adapted: AdaptedModel) -> None:
    read = adapted.read().tensors()
    for name, parameter in adapted.model.named_parameters():
        if parameter.requires_grad:
            assert np.array_equal(read[name], parameter.detach().numpy())


def test_a_state_is_a_copy(adapted: AdaptedModel) -> None:
    state = adapted.read()
    before = state.vector.copy()
    with torch.no_grad():
        for parameter in adapted.trainable:
            parameter.add_(1.0)
    assert np.array_equal(state.vector, before)
    adapted.pour(state)
    with torch.no_grad():
        adapted.trainable[0].add_(1.0)
    assert np.array_equal(state.vector, before)


def test_a_read_only_state_can_be_poured(adapted: AdaptedModel) -> None:
    vector = np.ones(adapted.spec.size, np.float32)
    vector.flags.writeable = False
    adapted.pour(AdapterState(spec=adapted.spec, vector=vector))
    assert adapted.read().vector.tolist() == vector.tolist()


def test_a_step_moves_every_trainable_tensor_and_no_frozen_bit(adapted: AdaptedModel) -> None:
    # B = 0 at the start keeps A's gradient at 0: give every tensor a value first.
    values = np.random.default_rng(1).standard_normal(adapted.spec.size).astype(np.float32) * 0.1
    adapted.pour(AdapterState(spec=adapted.spec, vector=values))
    before = snapshot(adapted.model)
    step(adapted)
    trainable = {tensor.name for tensor in adapted.spec.tensors}
    unmoved = set()
    for name, value in snapshot(adapted.model).items():
        if name not in trainable:
            assert torch.equal(value, before[name]), name
        elif torch.equal(value, before[name]):
            unmoved.add(name)
    # A key's bias cancels in the softmax; rounding may leave it where it was.
    assert not {name for name in unmoved if not name.endswith(("key.bias", "k_lin.bias"))}


def test_the_seed_decides_every_fresh_bit(
    adapted: AdaptedModel, kind: tuple[str, str], zoo: dict[str, Path]
) -> None:
    torch.rand(11)  # history must not matter
    assert adapted_again(kind, zoo).read().vector.tobytes() == adapted.read().vector.tobytes()
    other = adapted_again(kind, zoo, seed=1)
    assert other.spec.fingerprint == adapted.spec.fingerprint
    assert other.read().vector.tobytes() != adapted.read().vector.tobytes()


def test_adapting_leaves_global_randomness_alone(
    kind: tuple[str, str], zoo: dict[str, Path]
) -> None:
    before = torch.random.get_rng_state()
    adapted_again(kind, zoo)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_adapters_are_float32_and_work_on_a_bfloat16_base(
    kind: tuple[str, str], zoo: dict[str, Path]
) -> None:
    animal, method = kind
    adapted = make(zoo[animal], method, rank=2, targets=targets(animal, method), dtype="bfloat16")
    trainable = {tensor.name for tensor in adapted.spec.tensors}
    for name, parameter in adapted.model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in trainable else torch.bfloat16), name
    before = adapted.read().vector
    step(adapted)  # plain float32 arithmetic …
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step(adapted)  # … and autocast
    assert not np.array_equal(adapted.read().vector, before)
    assert np.isfinite(adapted.read().vector).all()


def test_a_state_of_another_adapter_is_refused(
    adapted: AdaptedModel, kind: tuple[str, str], zoo: dict[str, Path]
) -> None:
    animal, method = kind
    other = make(zoo[animal], method, rank=2, targets=targets(animal, method), labels=("a", "b"))
    with pytest.raises(AdapterMismatchError) as caught:
        adapted.pour(other.read())
    assert adapted.spec.fingerprint in str(caught.value)
    assert other.spec.fingerprint in str(caught.value)


def test_a_state_of_another_checkpoint_of_the_same_shape_is_refused(
    zoo: dict[str, Path], tmp_path: Path
) -> None:
    adapted = make(zoo["bert"], "head")
    torch.manual_seed(5)
    ZOO["bert"].build().save_pretrained(tmp_path)
    with pytest.raises(AdapterMismatchError, match=r"This state is for adapter .* \(head\)"):
        adapted.pour(make(tmp_path, "head").read())


def test_decoders_classify_the_same_alone_and_in_a_padded_batch(zoo: dict[str, Path]) -> None:
    for method in (*WITHIN, "prefix"):
        model = make(zoo["gpt2"], method).model
        pad = model.config.pad_token_id
        assert pad == 19  # no tokenizer in the folder: the end of the text
        filled = {key: value.clone() for key, value in batch().items()}
        filled["input_ids"][filled["attention_mask"] == 0] = pad
        with torch.no_grad():
            together = model.eval()(**filled).logits
            for row, length in enumerate((4, 3, 2)):
                alone = model(input_ids=filled["input_ids"][row : row + 1, :length]).logits
                assert torch.allclose(together[row], alone[0], atol=1e-5)


class Forgetful:
    """A method that freezes everything."""

    name = "forgetful"
    learning_rate = head_learning_rate = 1.0
    peft = merges = False

    def adapt(
        self, model: torch.nn.Module, head: frozenset[str], settings: MethodSettings
    ) -> Adaptation:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        next(model.parameters()).requires_grad_(True)
        return Adaptation(model=model)


def test_a_method_that_leaves_the_head_untrained_is_refused(zoo: dict[str, Path]) -> None:
    backbone = make(zoo["bert"], "head").backbone
    with pytest.raises(AdapterMismatchError, match=r"untrained: classifier\.bias, classifier\.w"):
        adapt(backbone, Forgetful(), MethodSettings(), 0)


@pytest.mark.parametrize("name", METHODS.names())
def test_methods_say_what_the_run_needs_to_know(name: str) -> None:
    method = find_method(name)
    assert method.name == name
    assert min(method.learning_rate, method.head_learning_rate) > 0
    assert isinstance(method.peft, bool)
    assert isinstance(method.merges, bool)
