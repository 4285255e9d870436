"""Causal language modelling: instruction tuning, conversations, or plain text."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from fedpeft_app.data.columns import Reads
from fedpeft_app.data.encoded import ExampleSet, Values
from fedpeft_app.data.labels import Labels
from fedpeft_app.data.tasks.dialogue import PROMPT, Example, Writer
from fedpeft_app.data.tasks.padding import padded, padded_width, padding_token
from fedpeft_app.data.tasks.task import Batch, Metrics, Outputs, Positions, Prediction, Usage

if TYPE_CHECKING:
    import torch

_FORMS = {"messages": ("messages",), "instruction": ("prompt", "response"), "text": ("text",)}
_ANSWERS = ("messages", "instruction")
_PLAIN = """If these are plain texts, set task.options = '{"form": "text"}'."""
_NOT_LEARNT = -100  # label of a token that is context or padding, as everywhere in transformers
_LARGEST_EXPONENT = 700.0  # exp of more than 709 is no float


class CausalLM:
    """Writing by a causal language model; methods as in `Task`.

    A conversation teaches every turn of the assistant, an instruction its response, a text
    all its tokens. Conversations, and instructions where it can, are written by the
    tokenizer's chat template.

    Args:
        form: "messages", "instruction" (prompt and response), or "auto", the first of these
            whose columns the data have; "text" learns all of a text, and continues one.
        template: How an instruction is written for a tokenizer without chat template.
        turns: Which of its turns an assistant learns: "all", or the "last".
        max_new_tokens: Most tokens that `predict` writes.

    Raises:
        ValueError: If an argument makes no sense.
    """

    model_kind = "causal-lm"
    encoding_options = ("form", "template", "turns")
    metric_names = ("loss", "perplexity", "accuracy", "exact-match")
    headline = "loss"  # half the tokens of an answer are easy, and few answers are exact
    lower_is_better = frozenset({"loss", "perplexity"})

    def __init__(
        self,
        *,
        form: Literal["auto", "messages", "instruction", "text"] = "auto",
        template: str = "{prompt}\n",
        turns: Literal["all", "last"] = "all",
        max_new_tokens: int = 64,
    ) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be a number from 1, got {max_new_tokens}")
        if PROMPT not in template:
            raise ValueError(f"template must hold {PROMPT}, got {template!r}")
        # Plain texts must be asked for: `predict` sees no data that would tell.
        forms = _ANSWERS if form == "auto" else (form,)
        self.reads = Reads(
            inputs=tuple(_FORMS[name] for name in forms), labels="optional", otherwise=_PLAIN
        )
        self._form = form
        self._template = template
        self._turns: Literal["all", "last"] = turns
        self._max_new_tokens = max_new_tokens
        self._writer = Writer(tokenizer=None, template=template, turns=turns, max_length=64)
        self._pad = 0

    def bind(self, processor: Any, *, labels: Sequence[str] = (), max_length: int = 64) -> Self:
        """Take the tokenizer and its padding token."""
        bound = copy.copy(self)
        bound._writer = Writer(
            tokenizer=processor,
            template=self._template,
            turns=self._turns,
            max_length=max_length,
        )
        bound._pad = padding_token(processor)
        return bound

    @property
    def usage(self) -> Usage:
        """Say how prompts are written, and how much is written after them."""
        plain = self._form == "text"
        chat = not plain and self._writer.has_template
        return Usage(
            chat=chat,
            template=PROMPT if plain else self._template,
            begins=not chat and self._writer.begins,
            max_new_tokens=self._max_new_tokens,
        )

    def encode(self, inputs: Sequence[Example], threads: int = 1) -> Iterator[Values | None]:
        """Tokenise examples: a text is cut at the longest length, a longer answer left out."""
        return (self._writer.row(example) for example in inputs)

    def collate(
        self,
        examples: ExampleSet,
        positions: Positions,
        generator: np.random.Generator | None = None,
        multiple: int = 1,
    ) -> Batch:
        """Build one batch, padded on the right; "labels" are -100 where nothing is learnt."""
        import torch

        rows = [examples.row(int(position)) for position in positions]
        ids = [np.where(row < 0, ~row, row) for row in rows]
        learnt = [np.where(row < 0, _NOT_LEARNT, row) for row in rows]
        width = padded_width(max(map(len, rows)), multiple, self._writer.max_length)
        shown = [np.ones_like(row) for row in rows]
        return {
            "input_ids": torch.from_numpy(padded(ids, self._pad, width)),
            "attention_mask": torch.from_numpy(padded(shown, 0, width)),
            "labels": torch.from_numpy(padded(learnt, _NOT_LEARNT, width)),
        }

    def loss(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the mean negative log-likelihood of the learnt tokens of a batch, float32."""
        from torch.nn.functional import cross_entropy

        logits, targets, learnt = _next_tokens(model, batch)
        return cross_entropy(logits[learnt].float(), targets[learnt])

    def losses(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the mean negative log-likelihood of the learnt tokens of each example, float32.

        So an example's loss knows nothing of how long the others are, unlike its share of `loss`.
        """
        from torch.nn.functional import cross_entropy

        logits, targets, learnt = _next_tokens(model, batch)
        # Not by picking what is learnt, as above: shapes that depend on values defy vmap.
        surprise = cross_entropy(
            logits.float().transpose(1, 2), targets, ignore_index=_NOT_LEARNT, reduction="none"
        )
        return surprise.sum(dim=1) / learnt.sum(dim=1).clamp(min=1)

    def weight(self, batch: Batch) -> float:
        """Count the learnt tokens of a batch; the first has none before it to follow from."""
        return float((batch["labels"][:, 1:] != _NOT_LEARNT).sum())

    def outputs(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Judge the learnt tokens of each example, each given those before it.

        Returns:
            `(batch, 4)`, float32: their summed negative log-likelihood, how many there are,
            how many are the likeliest, and 1 if all are: then greedy decoding writes just
            this answer.
        """
        import torch
        from torch.nn.functional import cross_entropy

        logits, targets, learnt = _next_tokens(model, batch)
        chosen = logits[learnt].float()
        surprise = torch.zeros(targets.shape, device=targets.device)
        surprise[learnt] = cross_entropy(chosen, targets[learnt], reduction="none")
        right = torch.zeros_like(learnt)
        right[learnt] = chosen.argmax(dim=-1) == targets[learnt]
        counts, hits = learnt.sum(dim=1), right.sum(dim=1)
        columns = (surprise.sum(dim=1), counts, hits, counts == hits)
        return torch.stack([column.float() for column in columns], dim=1)

    def metrics(self, outputs: Outputs, labels: Labels) -> Metrics:
        """Judge a language model.

        Args:
            outputs: What `outputs` gave, one row per example.
            labels: Not used: an example is its own answer.

        Returns:
            Loss, perplexity and accuracy per learnt token, and the share of examples that
            greedy decoding reproduces.
        """
        surprise, tokens, hits, exact = outputs.astype(np.float64).T
        loss = float(surprise.sum() / tokens.sum())
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, _LARGEST_EXPONENT)),
            "accuracy": float(hits.sum() / tokens.sum()),
            "exact-match": float(exact.mean()),
        }

    def predict(self, model: Any, inputs: Sequence[str], batch_size: int) -> list[Prediction]:
        """Answer instructions, or continue texts if `form` is "text", by greedy decoding."""
        return [Prediction(answer=self._answer(model, text), probability=None) for text in inputs]

    def _answer(self, model: Any, text: str) -> str:
        """Answer one instruction, or continue one text."""
        import torch

        writer = self._writer
        start = writer.opening(text) if self._form == "text" else writer.prompt(text)
        ids = torch.tensor([start], device=next(model.parameters()).device)
        with torch.inference_mode():
            written = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                pad_token_id=self._pad,
                eos_token_id=ends(model, writer.tokenizer),
            )
        answer: str = writer.tokenizer.decode(written[0, len(start) :], skip_special_tokens=True)
        return answer


def ends(model: Any, tokenizer: Any) -> list[int]:
    """List the tokens that end a text: the model's, which may be several, and the tokenizer's.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.

    Returns:
        Token ids, ascending.
    """
    own = model.generation_config.eos_token_id
    found = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id}
    return sorted(found - {None})


def _next_tokens(model: Any, batch: Batch) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Run the model: logits of each next token, that token, and whether it is learnt."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:]
    length = batch["labels"].shape[1]  # soft prompts stand before it
    return logits[:, -length:-1], targets, targets != _NOT_LEARNT
