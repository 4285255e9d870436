"""Training on 8- and 4-bit weights, as nodes do it on a GPU: frozen codes, float32 adapters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpeft_app.assembly import adapted_model, forget_models
from fedpeft_app.backbone.processor import load_processor
from fedpeft_app.config import parse
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.task import Batch, Positions, Usage
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.runs.export import export
from fedpeft_app.runs.initial import load_adapter
from fedpeft_app.training.fit import FitSettings, fit

pytestmark = pytest.mark.gpu
TOKENS = {
    "input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


class Lesson:
    """Stands for a task: as much of it as training needs."""

    def collate(self, examples: ExampleSet, positions: Positions, *_: Any) -> Batch:
        return {name: tensor[torch.from_numpy(positions)] for name, tensor in TOKENS.items()}

    def weight(self, batch: Batch) -> float:
        return float(len(batch["input_ids"]))

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        output = model(**batch).logits.float()
        loss: torch.Tensor = (
            (output - torch.arange(output.shape[-1], device=output.device)).square().mean()
        )
        return loss


def make(llama: Path, method: str, quantization: str) -> AdaptedModel:
    """Make the model as a node does, with nothing kept from earlier ones."""
    settings = {
        "task": "causal-lm",
        "model.name": str(llama),
        "model.quantization": quantization,
        "model.dtype": "bfloat16",
        "method.name": method,
        "method.rank": 2,
        "data.max-length": 16,
    }
    forget_models()
    return adapted_model(parse(settings), ())


def logits(adapted: AdaptedModel) -> torch.Tensor:
    where = adapted.trainable[0].device
    with torch.no_grad():
        inputs = {name: tensor.to(where) for name, tensor in TOKENS.items()}
        found: torch.Tensor = adapted.model.eval()(**inputs).logits.float().cpu()
    return found


def frozen(adapted: AdaptedModel) -> dict[str, torch.Tensor]:
    trained = {tensor.name for tensor in adapted.tensors}
    tensors = adapted.model.named_parameters()
    return {name: value.detach().clone() for name, value in tensors if name not in trained}


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("method", ["lora", "bottleneck", "ln", "prefix"])
def test_what_is_trained_on_quantised_weights_comes_back_from_its_export(
    tiny_llama: Path, tmp_path: Path, method: str, quantization: str
) -> None:
    adapted = make(tiny_llama, method, quantization)
    before = frozen(adapted)
    assert any(not value.is_floating_point() for value in before.values())
    assert {parameter.dtype for parameter in adapted.trainable} == {torch.float32}
    settings = FitSettings(batch_size=2, epochs=2, learning_rate=0.05, precision="bf16")
    lesson: Any = Lesson()
    report = fit(adapted, lesson, example_set([(1, 1)] * 2), settings, round_number=1, partition=0)
    assert report.steps == 2
    learnt = adapted.read()
    assert np.isfinite(learnt.vector).all()
    assert not np.array_equal(learnt.vector, adapted.initial.vector)
    for name, value in frozen(adapted).items():
        assert torch.equal(value, before[name]), name
    said = logits(adapted)

    folder = tmp_path / "adapter"
    processor = load_processor(adapted.backbone.located, "causal-lm")
    export(
        adapted, learnt, processor, folder, form="adapter", max_length=8, usage=Usage(), facts={}
    )
    again = make(tiny_llama, method, quantization)
    assert not torch.allclose(logits(again), said, atol=1e-3)
    again.pour(load_adapter(folder, again.spec, ()))
    assert torch.allclose(logits(again), said, atol=1e-3)
