"""The protocol that every task follows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from fedpeft_app.data.columns import Reads
from fedpeft_app.data.encoded import ExampleSet, Values
from fedpeft_app.data.labels import Labels

if TYPE_CHECKING:  # a run is checked before it starts, and torch takes seconds to import
    import torch

Batch = dict[str, "torch.Tensor"]
Metrics = dict[str, float]
Positions = npt.NDArray[np.int64]
Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model makes of one input.

    Attributes:
        answer: A label, labels with the task's separator between them, or a text.
        probability: Of that label, or of exactly these labels, in [0, 1]; None for a text.
    """

    answer: str
    probability: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How a trained model is used, for code that does without fedpeft.

    Attributes:
        many: Whether an example has any number of labels.
        chat: Whether prompts are written by the tokenizer's chat template.
        template: A prompt's form otherwise, with "{prompt}" in it.
        begins: Whether prompts begin with the tokenizer's bos_token.
        max_new_tokens: Most tokens that are written, from 1.
    """

    many: bool = False
    chat: bool = False
    template: str = "{prompt}"
    begins: bool = False
    max_new_tokens: int = 64


class Task(Protocol):
    """What a model is trained to do.

    The constructor takes the items of `task.options` as keyword arguments, each of the type
    that it is annotated with, and raises `ValueError` on a value that makes no sense; it is
    cheap and imports nothing heavy. What depends on the model comes later, by `bind`.

    Attributes:
        model_kind: Which kind of model it needs (a key of `backbone.load.AUTO_CLASSES`).
        reads: What it needs of a source.
        encoding_options: Which arguments of the constructor shape `reads` or what `encode`
            gives; when one of the others changes, stored examples are used again.
        metric_names: Every name that `metrics` may give.
        headline: The one of them that sums a model up, and that chooses the best round unless
            `evaluate.select-by` names another.
        lower_is_better: Those of them of which less is better.
    """

    model_kind: str
    reads: Reads
    encoding_options: tuple[str, ...]
    metric_names: tuple[str, ...]
    headline: str
    lower_is_better: frozenset[str]

    def bind(
        self,
        processor: Any,
        *,
        labels: Sequence[str] = (),
        max_length: int = 64,
    ) -> Self:
        """Give a copy that knows the model it is for; only such a copy does what follows.

        Args:
            processor: The model's tokenizer or image processor.
            labels: Label names in the order of the model's outputs; empty where they are
                not known yet, which is enough to encode.
            max_length: Tokens kept of each text, special tokens included.

        Raises:
            DataError: If processor or labels do not suit the task.
        """
        ...

    @property
    def usage(self) -> Usage:
        """Say how `predict` uses the model."""
        ...

    def encode(self, inputs: Sequence[Any], threads: int = 1) -> Iterable[Values | None]:
        """Turn inputs into what is stored of them.

        Args:
            inputs: What `reads` asks for, all splits of a source.
            threads: Threads to decode images with, from 1.

        Yields:
            A row per input: token ids `(tokens,)`, int32, or pixels `(height, width, 3)`,
            uint8; None for an input of which nothing can be learnt whole.

        Raises:
            DataError: At the input that cannot be encoded.
        """
        ...

    def collate(
        self,
        examples: ExampleSet,
        positions: Positions,
        generator: np.random.Generator | None = None,
        multiple: int = 1,
    ) -> Batch:
        """Build one batch.

        Args:
            examples: Encoded examples.
            positions: Which of them, `(batch,)`, at least one.
            generator: Decides how examples are varied; given in training only.
            multiple: Training with privacy wants what is padded to be as long as a multiple of
                this, or as the longest example that there can be.

        Returns:
            The model's inputs and "labels", all `(batch, …)`.
        """
        ...

    def loss(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the mean loss over a batch.

        Args:
            model: The model, in training mode.
            batch: What `collate` gave.

        Returns:
            A scalar, float32.
        """
        ...

    def losses(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the loss of each example of a batch; training with privacy clips their gradients.

        Args:
            model: The model, in training mode.
            batch: What `collate` gave.

        Returns:
            `(batch,)`, float32.

        Guarantee:
            An example's loss is what it is in any other batch: no mean over a batch, or over
            tokens of several examples, is in it.
        """
        ...

    def weight(self, batch: Batch) -> float:
        """Count what `loss` is the mean of, so that the losses of batches can be averaged.

        Args:
            batch: What `collate` gave.

        Returns:
            Examples, or tokens that are learnt; above 0.
        """
        ...

    def outputs(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give what `metrics` judges.

        Args:
            model: The model, in evaluation mode.
            batch: What `collate` gave.

        Returns:
            One row per example, `(batch, k)`, floating point.
        """
        ...

    def metrics(self, outputs: Outputs, labels: Labels) -> Metrics:
        """Judge outputs against labels.

        Args:
            outputs: What `outputs` gave, one row per example.
            labels: Labels as an `ExampleSet` has them.

        Returns:
            Name → value; always has "loss" and "accuracy".
        """
        ...

    def predict(self, model: Any, inputs: Sequence[str], batch_size: int) -> list[Prediction]:
        """Answer inputs.

        Args:
            model: The model, in evaluation mode.
            inputs: Texts, instructions, or paths of images, at least one.
            batch_size: Inputs per forward pass.

        Raises:
            DataError: If an input cannot be read.
        """
        ...
