"""An image processor's settings → what a model takes in, and stored pixels → that, by torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpeft_app.data.images import Geometry, Pixels, Size
from fedpeft_app.errors import DataError

if TYPE_CHECKING:
    import torch

_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's codes, and torch's names for the same
_FOREIGN = ("crop_pct", "do_pad", "do_flip_channel_order")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """What a model takes in.

    Attributes:
        geometry: How an image gets its size.
        size: That size: height and width.
        factor: What pixels are multiplied with.
        mean: Subtracted after that, one number a colour.
        deviation: Divided by after that, one number a colour.
    """

    geometry: Geometry
    size: Size
    factor: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)

    def tensor(self, pixels: Pixels) -> "torch.Tensor":
        """Turn stored images into a model's input, as the image processor would.

        Args:
            pixels: `(batch, height, width, 3)`; resized unless they have the input's size.

        Returns:
            `(batch, 3, height, width)`, float32.

        Guarantee:
            What was stored at the input's size becomes exactly what the processor gives;
            what is resized here differs by one of 255 levels here and there.
        """
        import torch
        from torch.nn.functional import interpolate

        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        before = (pixels.shape[1], pixels.shape[2])
        if before != self.size:
            # On bytes, torch computes what Pillow does, in fixed point, without a float copy.
            images = interpolate(
                images,
                size=self.geometry.resized(before),
                mode=_FILTERS[self.geometry.resample],
                antialias=True,
                align_corners=False,
            )
            rows, columns = self.geometry.window(before)
            images = images[:, :, rows, columns]
        mean, deviation = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.deviation)
        )
        return (images.float() * self.factor - mean) / deviation


def set_size(processor: Any, pixels: int) -> None:
    """Let an image processor give squares of another size, cropping the same share.

    Args:
        processor: What `AutoImageProcessor` gave; changed in place.
        pixels: Height and width, from 1.
    """
    geometry = _geometry(processor.to_dict(), type(processor).__name__)
    if geometry.crop is None:
        processor.size = {"height": pixels, "width": pixels}
        return
    whole = isinstance(geometry.resize, tuple)
    edge = min(geometry.resize) if isinstance(geometry.resize, tuple) else geometry.resize
    edge = round(edge * pixels / min(geometry.crop))
    processor.size = {"height": edge, "width": edge} if whole else {"shortest_edge": edge}
    processor.crop_size = {"height": pixels, "width": pixels}


def image_input(processor: Any) -> ImageInput:
    """Read an image processor's settings.

    Args:
        processor: What `AutoImageProcessor` gave.

    Raises:
        DataError: If it does more than resize, crop, rescale and normalise, or does not say
            which size comes out.
    """
    settings = processor.to_dict()
    kind = type(processor).__name__
    foreign = [name for name in _FOREIGN if settings.get(name)]
    if foreign or not settings.get("do_resize", True):
        raise DataError(
            f"Expected an image processor that resizes, crops, rescales and normalises, got "
            f"{', '.join(foreign) or 'do_resize = false'} of {kind}. Use another model, or edit "
            f"its preprocessor_config.json."
        )
    geometry = _geometry(settings, kind)
    square = geometry.crop or geometry.resize
    if not isinstance(square, tuple):
        raise DataError(
            f"The image processor {kind} resizes the shorter edge to {square} pixels and crops "
            f"nothing, so images come out in many sizes. Set data.image-size."
        )
    rescale, normalise = settings.get("do_rescale", True), settings.get("do_normalize", True)
    return ImageInput(
        geometry=geometry,
        size=square,
        factor=float(settings.get("rescale_factor", 1 / 255)) if rescale else 1.0,
        mean=_colours(settings.get("image_mean"), 0.0) if normalise else (0.0, 0.0, 0.0),
        deviation=_colours(settings.get("image_std"), 1.0) if normalise else (1.0, 1.0, 1.0),
    )


def _geometry(settings: dict[str, Any], kind: str) -> Geometry:
    """Read how an image gets its size."""
    resize = _size(settings.get("size"))
    crop = _size(settings.get("crop_size")) if settings.get("do_center_crop") else None
    resample = int(settings.get("resample", 2))
    if resize is None or (crop is not None and not isinstance(crop, tuple)):
        raise DataError(
            f"Expected an image processor with a height and a width, or a shortest edge, got "
            f"size = {settings.get('size')} and crop_size = {settings.get('crop_size')} of {kind}."
        )
    if resample not in _FILTERS:
        raise DataError(
            f"Expected an image processor that resizes bilinear (2) or bicubic (3), got "
            f"resample = {resample} of {kind}. Edit its preprocessor_config.json."
        )
    return Geometry(resize=resize, crop=crop, resample=resample)


def _size(value: Any) -> Size | int | None:
    """Read a size: height and width, or the length of the shorter edge."""
    if isinstance(value, int):
        return (value, value)
    sides = dict(value or {})
    if sides.get("height") and sides.get("width"):
        return (int(sides["height"]), int(sides["width"]))
    edge = sides.get("shortest_edge")
    return int(edge) if edge and not sides.get("longest_edge") else None


def _colours(value: Any, default: float) -> tuple[float, ...]:
    """Read one number a colour."""
    numbers = np.broadcast_to(np.asarray(default if value is None else value, dtype=float), 3)
    return tuple(numbers.tolist())
