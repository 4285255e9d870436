"""Would clients train faster several at a time? A prototype, measured; not in the product.

Clients that share a frozen backbone differ in their adapters alone. Here K of them take a step at
once: their LoRA tensors and heads lie stacked, `vmap` runs the model over (client, batch), the
frozen layers see all of it as one large batch, and one optimizer moves the stacks. Against that,
the same K clients one after the other, as the product trains them. Both sides learn the same (which
is checked), in float32 or under autocast, on the same made-up batches of one length, in turns.

    python benchmarks/many_clients.py [--clients 1 2 4 8] [--batch 4 16] [--length 64]
                                      [--device cpu|cuda] [--precision auto|fp32|bf16]
                                      [--repeats 5] [--out FILE]

Seconds are CPU seconds on a CPU (one thread), and of the device's clock on a GPU.
docs/decisions/many-clients.md says what followed from it.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from ratios import Ratio, write
from rich.console import Console
from rich.table import Table
from torch.func import functional_call, grad_and_value, vmap

from fedpeft_app.assembly import adapted_model, bound_task
from fedpeft_app.backbone.masks import masks_always_built
from fedpeft_app.config import parse
from fedpeft_app.training.precision import autocast, resolve_precision

LABELS = tuple(map(str, range(8)))
STEPS = 4
RATE = 1e-3
Tensors = dict[str, torch.Tensor]


class Clients:
    """The same model for K clients.

    Args:
        count: How many, K.
        batch: Examples of each per step.
        length: Tokens of every example.
        where: The device.
        precision: "auto", "fp32" or "bf16".
    """

    def __init__(
        self, count: int, batch: int, length: int, where: torch.device, precision: str = "auto"
    ) -> None:
        config = parse({"data.max-length": length})
        self.adapted = adapted_model(config, LABELS)
        self.task = bound_task(config, LABELS)
        self.model = self.adapted.model.to(where).train()
        self.where, self.precision = where, resolve_precision(precision, where)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 20_000, (STEPS, count, batch, length), generator=generator)
        labels = torch.randint(0, len(LABELS), (STEPS, count, batch), generator=generator)
        self.batches = [
            {
                "input_ids": ids[step].to(where),
                "attention_mask": torch.ones_like(ids[step]).to(where),
                "labels": labels[step].to(where),
            }
            for step in range(STEPS)
        ]
        named = dict(self.model.named_parameters())
        self.names = [name for name, value in named.items() if value.requires_grad]
        self.start = {name: named[name].detach().clone() for name in self.names}
        self.count = count

    def one_by_one(self) -> list[Tensors]:
        """Train the clients one after the other, as nodes do."""
        named = dict(self.model.named_parameters())
        trained = []
        for client in range(self.count):
            with torch.no_grad():
                for name in self.names:
                    named[name].copy_(self.start[name])
            own = [named[name] for name in self.names]
            optimizer = torch.optim.AdamW(own, lr=RATE, weight_decay=0.0, fused=True)
            for batch in self.batches:
                with autocast(self.precision, self.where):
                    loss = self.task.loss(self.model, {k: v[client] for k, v in batch.items()})
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            trained.append({name: named[name].detach().clone() for name in self.names})
        return trained

    def at_once(self) -> list[Tensors]:
        """Train them in one pass over stacked adapters."""
        frozen = {
            name: value.detach()
            for name, value in [*self.model.named_parameters(), *self.model.named_buffers()]
            if name not in self.start
        }
        stacks = {
            name: value.expand(self.count, *value.shape).clone().requires_grad_()
            for name, value in self.start.items()
        }
        optimizer = torch.optim.AdamW(list(stacks.values()), lr=RATE, weight_decay=0.0, fused=True)

        def loss(own: Tensors, batch: Tensors) -> torch.Tensor:
            def run(**inputs: Any) -> Any:
                return functional_call(self.model, {**frozen, **own}, (), inputs)

            return self.task.loss(run, batch)

        gradients = vmap(grad_and_value(loss), in_dims=(0, 0), randomness="different")
        for batch in self.batches:
            with masks_always_built(), autocast(self.precision, self.where):
                found, _ = gradients(
                    {name: value.detach() for name, value in stacks.items()}, batch
                )
            for name, value in stacks.items():
                value.grad = found[name]
            optimizer.step()
        return [
            {name: value[client].detach().clone() for name, value in stacks.items()}
            for client in range(self.count)
        ]


def seconds(call: Callable[[], Any], where: torch.device) -> float:
    """Time a call."""
    if where.type == "cuda":
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    call()
    return time.process_time() - began


def apart(ours: list[Tensors], theirs: list[Tensors], start: Tensors) -> float:
    """Give how far two results are apart, over how far training moved."""
    gaps = [(a[name] - b[name]).norm() for a, b in zip(ours, theirs, strict=True) for name in start]
    moves = [(b[name] - start[name]).norm() for b in theirs for name in start]
    return float(torch.stack(gaps).norm() / torch.stack(moves).norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    where = torch.device(asked.device)
    if where.type == "cpu":
        torch.set_num_threads(1)
    table = Table("clients", "batch of each", "times as fast at once", "min … max", "apart")
    rows, gaps = [], []
    for batch in asked.batch:
        for count in asked.clients:
            clients = Clients(count, batch, asked.length, where, asked.precision)
            gap = apart(clients.at_once(), clients.one_by_one(), clients.start)  # and warm
            values = tuple(
                seconds(clients.one_by_one, where) / seconds(clients.at_once, where)
                for _ in range(asked.repeats)
            )
            gaps.append(gap)
            rows.append(Ratio(what=f"{count} clients, batches of {batch}, at once", values=values))
            spread = f"{min(values):.2f} … {max(values):.2f}"
            median = f"{statistics.median(values):.2f}"
            table.add_row(str(count), str(batch), median, spread, f"{gap:.1e}")
    Console(width=90).print(table)
    settings = {"device": asked.device, "length": asked.length, "precision": asked.precision}
    write(asked.out, rows, {**settings, "apart": gaps})
    sys.exit(0)


if __name__ == "__main__":
    main()
