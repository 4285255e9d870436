"""What a client may take of a GPU, and the step that is tried in it; on a CPU that plays one."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_samples import make_adapted, make_examples

from fedpeft_app.data.tasks.task import Batch
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import CapacityError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training import capacity
from fedpeft_app.training.capacity import Share, Step, own_share, require_memory, within
from fedpeft_app.training.made_up import made_up

GIB = 2**30
SHARE = Share(fraction=0.25, total_bytes=80 * GIB)
STEP = Step(batch_size=4, evaluate_batch_size=6, length=12, precision="fp32")


class Watched:
    """A task that notes what it is given, and may be too large for the memory there is."""

    def __init__(self, most: int = 10**9) -> None:
        self.sizes: list[tuple[str, tuple[int, ...]]] = []
        self._task = TextClassification()
        self._most = most
        self.collate = self._task.collate
        self.losses = self._task.losses

    def _note(self, kind: str, batch: Batch) -> None:
        shape = tuple(batch["input_ids"].shape)
        self.sizes.append((kind, shape))
        if shape[0] > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        self._note("train", batch)
        return self._task.loss(model, batch)

    def outputs(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        self._note("evaluate", batch)
        return self._task.outputs(model, batch)


@pytest.fixture
def adapted(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    own_share.cache_clear()
    yield
    own_share.cache_clear()


def test_the_largest_batches_of_the_settings_are_tried(adapted: AdaptedModel) -> None:
    task = Watched()
    require_memory(adapted, task, make_examples(3), STEP, SHARE)  # type: ignore[arg-type]
    assert task.sizes == [("train", (4, 12)), ("evaluate", (6, 12))]


def test_what_is_tried_does_not_depend_on_the_nodes_examples(adapted: AdaptedModel) -> None:
    seen = []
    for examples in (make_examples(3, words=2), make_examples(9, words=11)):
        task = Watched()
        capacity._TRIED.clear()
        require_memory(adapted, task, examples, STEP, SHARE)  # type: ignore[arg-type]
        seen.append(task.sizes)
    assert seen[0] == seen[1]


def test_a_size_is_tried_once_in_a_process(adapted: AdaptedModel) -> None:
    task, examples = Watched(), make_examples(3)
    for step in (
        STEP,
        STEP,
        Step(batch_size=5, evaluate_batch_size=0, length=12, precision="fp32"),
    ):
        require_memory(adapted, task, examples, step, SHARE)  # type: ignore[arg-type]
    assert [size for kind, size in task.sizes if kind == "train"] == [(4, 12), (5, 12)]


@pytest.mark.parametrize("private", [False, True])
def test_the_model_is_as_it_was(adapted: AdaptedModel, *, private: bool) -> None:
    before = {name: value.clone() for name, value in adapted.model.state_dict().items()}
    generator = torch.get_rng_state()
    step = Step(batch_size=3, evaluate_batch_size=2, length=9, precision="fp32", private=private)
    require_memory(adapted, Watched(), make_examples(3), step, SHARE)  # type: ignore[arg-type]
    after = adapted.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.grad is None for value in adapted.trainable)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not adapted.model.training


@pytest.mark.parametrize(("most", "culprit"), [(3, "train.batch-size"), (5, "evaluate.batch-size")])
def test_what_does_not_fit_is_named_with_what_to_lower(
    adapted: AdaptedModel, most: int, culprit: str
) -> None:
    task = Watched(most)
    with pytest.raises(CapacityError) as caught:
        require_memory(adapted, task, make_examples(3), STEP, SHARE)  # type: ignore[arg-type]
    assert f"({culprit}) to fit into the 19.5 GiB" in str(caught.value)
    assert "a share of 0.25 of 80.0 GiB" in str(caught.value)
    assert "--client-gpus" in str(caught.value)
    assert all(value.grad is None for value in adapted.trainable)


def test_what_did_not_fit_is_tried_again(adapted: AdaptedModel) -> None:
    for _ in range(2):
        with pytest.raises(CapacityError):
            require_memory(adapted, Watched(3), make_examples(3), STEP, SHARE)  # type: ignore[arg-type]


def test_on_a_cpu_nothing_is_tried(adapted: AdaptedModel) -> None:
    task = Watched()
    require_memory(adapted, task, make_examples(3), STEP, own_share(torch.device("cpu")))  # type: ignore[arg-type]
    assert task.sizes == []


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), within(SHARE, "training"):
        raise ZeroDivisionError
    with pytest.raises(torch.OutOfMemoryError), within(None, "training"):
        raise torch.OutOfMemoryError


@pytest.mark.parametrize(
    ("fraction", "gib", "allowed"), [(1.0, 24, 23.5), (0.25, 80, 19.5), (0.01, 24, 0.0)]
)
def test_a_share_leaves_room_for_cuda_itself(fraction: float, gib: int, allowed: float) -> None:
    share = Share(fraction=fraction, total_bytes=gib * GIB)
    assert share.allowed_bytes == allowed * GIB


def gpu(monkeypatch: pytest.MonkeyPatch, total: int, assigned: float) -> list[tuple[float, int]]:
    """Let PyTorch tell of a GPU, and note what it is asked to keep to."""
    asked: list[tuple[float, int]] = []
    properties = SimpleNamespace(total_memory=total)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: properties)
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, index: asked.append((fraction, index)),
    )
    monkeypatch.setattr(capacity, "assigned", lambda resource: assigned)
    return asked


def test_a_fraction_of_a_gpu_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gpu(monkeypatch, 80 * GIB, 0.25)
    share = own_share(torch.device("cuda", 0))
    assert own_share(torch.device("cuda", 0)) is share
    assert share == SHARE
    assert asked == [(pytest.approx(19.5 / 80), 0)]


@pytest.mark.parametrize("assigned", [0.0, 1.0])
def test_a_whole_gpu_is_not_limited(monkeypatch: pytest.MonkeyPatch, assigned: float) -> None:
    asked = gpu(monkeypatch, 80 * GIB, assigned)
    share = own_share(torch.device("cuda", 0))
    assert share is not None
    assert share.fraction == 1.0
    assert asked == []


def test_a_share_that_holds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, 8 * GIB, 0.05)
    with pytest.raises(CapacityError, match=r"got 0.05 of 8.0 GiB. Raise --client-gpus"):
        own_share(torch.device("cuda", 0))


def test_made_up_examples_are_those_of_the_model(adapted: AdaptedModel) -> None:
    vocabulary = len(adapted.model.get_input_embeddings().weight)
    task = TextClassification()
    batch = made_up(adapted, task, make_examples(2), (7, 7, 7))
    assert batch["input_ids"].shape == (3, 7)
    assert np.all((batch["input_ids"].numpy() >= 0) & (batch["input_ids"].numpy() < vocabulary))


@pytest.fixture
def little_memory() -> Iterator[Share]:
    """Let this process have 64 MiB of its GPU."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**26 / total, 0)
    yield Share(fraction=(2**26 + GIB / 2) / total, total_bytes=total)
    torch.cuda.set_per_process_memory_fraction(1.0, 0)


@pytest.mark.gpu  # nobody has run it yet
def test_a_step_that_does_not_fit_a_gpu_is_refused_by_name(
    tiny_model: Path, little_memory: Share
) -> None:
    adapted = make_adapted(tiny_model)
    adapted.model.to("cuda")
    task, examples = TextClassification(), make_examples(4)
    small = Step(batch_size=4, evaluate_batch_size=4, length=16, precision="fp32")
    require_memory(adapted, task, examples, small, little_memory)
    large = Step(batch_size=2**15, evaluate_batch_size=0, length=16, precision="fp32")
    with pytest.raises(CapacityError, match="train.batch-size.*--client-gpus"):
        require_memory(adapted, task, examples, large, little_memory)
    require_memory(adapted, task, examples, small, little_memory)  # and nothing of it is left
