"""Image classification: one label per image, or any number of them."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from fedpeft_app.data.encoded import ExampleSet, Values
from fedpeft_app.data.images import Geometry, Picture, Pixels, in_threads, pixels_of, size_of
from fedpeft_app.data.labels import Labels
from fedpeft_app.data.tasks.image_input import ImageInput, image_input
from fedpeft_app.data.tasks.scores import Scores, label_tensor, scored
from fedpeft_app.data.tasks.task import Batch, Metrics, Outputs, Positions, Prediction, Usage
from fedpeft_app.errors import DataError

if TYPE_CHECKING:
    import torch

_SHIFT = 8  # images move by up to an eighth of their side: 4 of 32 pixels (arXiv 1512.03385)


class ImageClassification:
    """Classification of images by an image classifier; methods as in `Task`.

    Images that all have one size smaller than the model's input are stored as they are, so
    that Fashion-MNIST takes 165 MB and not 10 GB; others are resized and cropped once.

    Args:
        multi_label: Whether an image has any number of labels.
        separator: Between several labels in one cell of text; a list needs none.
        class_weights: Weight of labels in the loss, by name; see `Scores`.
        augment: How training varies images: "none"; "flip" mirrors every other one;
            "crop-flip" also moves them, by up to an eighth of their side. Not on unless
            asked for: the mirror image of a digit, or of an X-ray, is another thing.

    Raises:
        ValueError: If an argument makes no sense.
    """

    model_kind = "image-classification"
    encoding_options = ("multi_label", "separator")
    lower_is_better = frozenset({"loss"})

    def __init__(
        self,
        *,
        multi_label: bool = False,
        separator: str = ",",
        class_weights: Mapping[str, float] | None = None,
        augment: Literal["none", "flip", "crop-flip"] = "none",
    ) -> None:
        self._scores = Scores(many=multi_label, separator=separator, weights=class_weights)
        self.metric_names = self._scores.metric_names
        self.headline = self._scores.headline
        self.reads = self._scores.reads("image")
        self._augment = augment
        self._input = ImageInput(geometry=Geometry(resize=(224, 224)), size=(224, 224))

    def bind(self, processor: Any, *, labels: Sequence[str] = (), max_length: int = 64) -> Self:
        """Take the image processor's settings and the labels."""
        bound = copy.copy(self)
        bound._input = image_input(processor)
        bound._scores = self._scores.bind(labels)
        return bound

    @property
    def usage(self) -> Usage:
        """Say whether labels exclude one another."""
        return Usage(many=self._scores.many)

    def encode(self, inputs: Sequence[Picture], threads: int = 1) -> Iterator[Values]:
        """Decode images; those that are not of one small size are resized and cropped."""
        sizes = set(in_threads(size_of, inputs, threads))
        small = len(sizes) == 1 and self._is_small(*sizes)
        geometry = None if small else self._input.geometry
        yield from in_threads(lambda one: pixels_of(one, geometry), inputs, threads)

    def collate(
        self,
        examples: ExampleSet,
        positions: Positions,
        generator: np.random.Generator | None = None,
        multiple: int = 1,
    ) -> Batch:
        """Build one batch at the model's input size, varied in training."""
        rows = [examples.row(int(position)) for position in positions]
        pixels: Pixels = np.stack(rows).astype(np.uint8, copy=False)
        if generator is not None and self._augment != "none":
            pixels = _varied(pixels, generator, shift=self._augment == "crop-flip")
        return {
            "pixel_values": self._input.tensor(pixels),
            "labels": label_tensor(examples, positions),
        }

    def loss(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the mean cross-entropy over a batch, computed in float32."""
        return self.losses(model, batch).mean()

    def losses(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the cross-entropy of each example, computed in float32."""
        return self._scores.losses(self.outputs(model, batch), batch["labels"])

    def weight(self, batch: Batch) -> float:
        """Count the examples of a batch."""
        return float(len(batch["labels"]))

    def outputs(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the logits, `(batch, labels)`; positions are interpolated where sizes differ.

        Raises:
            DataError: If the model cannot take images of this size.
        """
        pixels = batch["pixel_values"]
        own = own_size(model.config)
        if own is None or own == tuple(pixels.shape[2:]):
            logits: torch.Tensor = model(pixel_values=pixels).logits
            return logits
        try:
            logits = model(pixel_values=pixels, interpolate_pos_encoding=True).logits
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{model.config.model_type} is made for images of {own[0]} x {own[1]} pixels and "
                f"cannot take {pixels.shape[2]} x {pixels.shape[3]}: {error} Set data.image-size = "
                f"{own[0]}."
            ) from error
        return logits

    def metrics(self, outputs: Outputs, labels: Labels) -> Metrics:
        """Judge logits `(examples, labels)`; see `Scores.metrics`."""
        return self._scores.metrics(outputs, labels)

    def predict(self, model: Any, inputs: Sequence[str], batch_size: int) -> list[Prediction]:
        """Give the label, or the labels, of the image at each path."""
        pictures = [Picture(name=path, content=Path(path)) for path in inputs]
        rows = [pixels_of(picture, self._input.geometry) for picture in pictures]
        found = scored(rows, self.collate, self.outputs, model, batch_size)
        return self._scores.predictions(found)

    def _is_small(self, size: tuple[int, int]) -> bool:
        """Say whether storing images as they are takes less than at the input's size."""
        within = size[0] <= self._input.size[0] and size[1] <= self._input.size[1]
        return within and size != self._input.size


def _varied(pixels: Pixels, generator: np.random.Generator, *, shift: bool) -> Pixels:
    """Mirror, and move if asked for, each image at random; `(batch, height, width, 3)`."""
    mirrored = generator.random(len(pixels)) < 0.5
    varied = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
    return _moved(varied, generator) if shift else varied


def _moved(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Move each image; what comes in at a border is the image reflected there."""
    _, height, width, _ = pixels.shape
    down, across = -(-height // _SHIFT), -(-width // _SHIFT)  # rounded up
    padded = np.pad(pixels, ((0, 0), (down, down), (across, across), (0, 0)), mode="symmetric")
    tops = generator.integers(0, 2 * down + 1, size=len(pixels))
    lefts = generator.integers(0, 2 * across + 1, size=len(pixels))
    return np.stack(
        [
            image[top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )


def own_size(config: Any) -> tuple[int, int] | None:
    """Give the height and width a model was made for; None where any will do."""
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    if isinstance(size, int):
        return (size, size)
    return (int(size[0]), int(size[1])) if size else None
