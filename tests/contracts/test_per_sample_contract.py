"""Every method on every kind of model: per-sample gradients that are right, or a refusal.

docs/privacy.md says which engine is taken for which pair; this suite finds out, and compares.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_method_contract import ACCEPTED, ALL, ANIMALS, NAMES, label, made

from fedpeft_app.data.tasks.task import Batch
from fedpeft_app.errors import PrivacyError
from fedpeft_app.privacy.per_sample import one_by_one, trained
from fedpeft_app.privacy.soundness import choose
from fedpeft_app.training.engines import ENGINES

DOCS = Path(__file__).parents[2] / "docs" / "privacy.md"
BEGIN, END = "<!-- engines: begin -->", "<!-- engines: end -->"
REFUSED = "refused"
REFUSALS = {  # both are of PEFT 0.21; words of the message
    "peft:LOHA": "autograd.Function",  # of its own, that vmap does not take
    "peft:LOKR": "data-dependent control flow",  # training draws whether a module is passed over
}
TOLERANCE = 1e-5
EXAMPLES = 3
# Scores do not change when all keys move alike: the gradient is rounding.
NO_GRADIENT = re.compile(r"\bk(ey|_proj)\.bias$")


def losses(model: Any, batch: Batch) -> torch.Tensor:
    """Squared distance to the numbers 0, 1, 2, …: tasks have their own tests."""
    output = model(**batch).logits.float()
    found: torch.Tensor = (output - torch.arange(output.shape[-1])).square().flatten(1).mean(1)
    return found


def some(animal: str, rows: int) -> Batch:
    return {name: tensor[:rows] for name, tensor in ALL[animal].inputs.items()}


@cache
def engine(name: str, animal: str) -> str:
    """What the guard makes of a pair."""
    model = made(name, animal).model.train()
    probes = [some(animal, rows) for rows in (2, EXAMPLES)]
    try:
        return choose(ENGINES, model, losses, losses, probes, tolerance=TOLERANCE)
    except PrivacyError:
        return REFUSED


@contextmanager
def ready(name: str, animal: str) -> Iterator[torch.nn.Module]:
    """A model whose every gradient says something, without dropout, as training hooks see it."""
    adapted = made(name, animal)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in adapted.trainable:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model: torch.nn.Module = adapted.model.eval()
    for module in model.modules():
        module.training = any(p.requires_grad for p in module.parameters(recurse=False))
    yield model


def described() -> str:
    """The table of docs/privacy.md."""
    lines = ["| method | " + " | ".join(ANIMALS) + " |", "|---" * (len(ANIMALS) + 1) + "|"]
    for name in NAMES:
        cells = [engine(name, a) if (name, a) in ACCEPTED else "–" for a in ANIMALS]
        if set(cells) != {"–"}:
            lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if kind[0] not in REFUSALS], ids=label)
def test_every_example_has_the_gradient_that_it_has_alone(kind: tuple[str, str]) -> None:
    with ready(*kind) as model:
        names = list(trained(model))
        for batch in (some(kind[1], rows) for rows in (1, 2, EXAMPLES)):
            expected = one_by_one(model, losses, batch)
            with ENGINES[engine(*kind)](model, losses) as gradients:
                found = gradients(batch)
            for name, got, right in zip(names, found, expected, strict=True):
                assert (got.shape, got.dtype) == (right.shape, torch.float32)
                largest = float(right.abs().max())
                assert largest > 1e-4 or NO_GRADIENT.search(name)  # or the next line is empty
                assert float((got - right).abs().max()) <= TOLERANCE * max(1.0, largest), name


@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if kind[0] in REFUSALS], ids=label)
def test_a_refusal_says_why_for_each_engine_and_what_to_take(kind: tuple[str, str]) -> None:
    assert engine(*kind) == REFUSED
    model = made(*kind).model.train()
    with pytest.raises(PrivacyError, match=REFUSALS[kind[0]]) as caught:
        choose(ENGINES, model, losses, losses, [some(kind[1], 2)], tolerance=TOLERANCE)
    for words in ("with hooks: ", "with vmap: ", "lora and ln"):
        assert words in str(caught.value)


def test_the_docs_say_which_engine_is_taken() -> None:
    text = DOCS.read_text(encoding="utf-8")
    written = text.partition(BEGIN)[2].partition(END)[0].strip()
    expected = described()
    assert written == expected, f"between the marks of {DOCS}, write:\n{expected}"
