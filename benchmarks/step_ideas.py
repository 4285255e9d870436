"""Three ways to make a step cheaper that the product does not take, measured against what it does.

torch.compile against eager, over the batches of one pass and again over the next; int8 layers
(dynamic quantisation) against bf16, forward only, since they have no backward pass; and, of
attention without padding, the most that it could save: the share of tokens that are padding.
MiniLM, LoRA in all layers, R8, 128 tokens, batches of 16 by length, one thread; CPU seconds.

    python benchmarks/step_ideas.py [--documents 480] [--out FILE]

docs/log.md says what followed from it.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from ratios import Ratio, write
from rich.console import Console
from rich.table import Table

from fedpeft_app.assembly import make_worker
from fedpeft_app.config import parse
from fedpeft_app.training.fit import step_groups
from fedpeft_app.training.precision import autocast
from fedpeft_app.training.worker import Worker

CPU = torch.device("cpu")
Batches = Sequence[dict[str, torch.Tensor]]


def batches(worker: Worker, round_number: int) -> list[dict[str, torch.Tensor]]:
    """Collate what a node trains on in a round."""
    groups = step_groups(worker.train.lengths, worker.settings, round_number, 0)
    return [worker.task.collate(worker.train, group[0]) for group in groups]


def padding(lengths: np.ndarray, every: Batches) -> tuple[float, float]:
    """Give the share of tokens that are padding: grouped by length, and as examples come."""
    held = sum(batch["input_ids"].numel() for batch in every)
    size = len(every[0]["labels"])
    mixed = np.random.default_rng(0).permutation(lengths)
    parts = [mixed[at : at + size] for at in range(0, len(mixed), size)]
    unordered = sum(int(part.max()) * len(part) for part in parts)
    return 1 - lengths.sum() / held, 1 - lengths.sum() / unordered


def train(worker: Worker, model: Callable[..., Any], every: Batches) -> float:
    """Train on batches; give CPU seconds."""
    trainable = worker.adapted.trainable
    optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0, fused=True)
    began = time.process_time()
    for batch in every:
        with autocast("bf16", CPU):
            loss = worker.task.loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.process_time() - began


def predict(model: torch.nn.Module, every: Batches, precision: str) -> tuple[float, list[int]]:
    """Give CPU seconds, and the class of every document."""
    found: list[int] = []
    model.eval()
    began = time.process_time()
    with torch.inference_mode(), autocast(precision, CPU):
        for batch in every:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            found += model(**inputs).logits.argmax(-1).tolist()
    return time.process_time() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=480)
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = {"data.max-examples": asked.documents, "data.partitioner": "iid"}
    config = parse({**data, "data.max-length": 128, "train.precision": "bf16"})
    worker = make_worker(config, {"partition-id": 0, "num-partitions": 1})
    model = worker.adapted.model.train()
    first, second = batches(worker, 1), batches(worker, 2)
    grouped, unordered = padding(np.asarray(worker.train.lengths), first)

    train(worker, model, first[:4])  # warm
    eager = [train(worker, model, first), train(worker, model, second)]
    compiled = torch.compile(model, dynamic=True)
    wall = time.monotonic()
    passes = [train(worker, compiled, first)]
    wall = time.monotonic() - wall
    passes.append(train(worker, compiled, second))
    faster = Ratio(what="steps/s compiled, once it is, to eager", values=(eager[1] / passes[1],))

    train(worker, model, first * 2)  # so that there is something to agree on
    plain, exact = predict(model, first, "fp32")
    half, rounded = predict(model, first, "bf16")
    frozen = {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and not layer.weight.requires_grad
    }
    quantised = torch.ao.quantization.quantize_dynamic(
        copy.deepcopy(model), frozen, dtype=torch.qint8
    )
    small, whole = predict(quantised, first, "fp32")
    int8 = Ratio(what="documents/s forward, int8 to bf16", values=(half / small,))
    table = Table("", "CPU s a pass", "note")
    table.add_row("train, eager", f"{eager[1]:.1f}", f"the pass before: {eager[0]:.1f}")
    table.add_row("train, compiled", f"{passes[1]:.1f}", f"the first pass: {wall:.0f} s")
    same = [np.mean(np.array(other) == np.array(exact)) for other in (rounded, whole)]
    table.add_row("forward, fp32", f"{plain:.1f}", "")
    table.add_row("forward, bf16", f"{half:.1f}", f"{same[0]:.1%} as in fp32")
    table.add_row("forward, int8", f"{small:.1f}", f"{same[1]:.1%} as in fp32")
    table.add_row("padding, grouped", "", f"{grouped:.1%} of tokens; {unordered:.1%} ungrouped")
    Console(width=90).print(table)
    measured = {"eager": eager, "compiled": passes, "first pass, s": wall}
    measured |= {"fp32": plain, "bf16": half, "int8": small, "agree": list(map(float, same))}
    write(asked.out, [faster, int8], {**measured, "padding": [grouped, unordered]})


if __name__ == "__main__":
    main()
