"""Images from files and memory → pixels, once, before training. Pillow stays in here."""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from fedpeft_app.errors import DataError

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]  # height, width
_Result = TypeVar("_Result")

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_DEEP = ("I", "F")  # modes of 16 bits a pixel and more; converting them would cut values off
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # an Exif tag whose values 5 to 8 mean a quarter turn
_AT_ONCE = 32  # images in flight per thread: enough to keep it busy, few enough for memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image that is not decoded yet.

    Attributes:
        name: Where it is, for messages: a path, or a row of a file.
        content: A file, an encoded image, or pixels `(height, width)` or
            `(height, width, 3)`.
    """

    name: str
    content: Path | bytes | Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How an image gets its size, as image processors describe it.

    Attributes:
        resize: The size it is resized to, or the length of its shorter edge.
        crop: The size cut out of the middle after that; None = no crop.
        resample: Pillow's code of the filter.
    """

    resize: Size | int
    crop: Size | None = None
    resample: int = Image.Resampling.BILINEAR

    def resized(self, size: Size) -> Size:
        """Give the size of an image after it is resized and before it is cropped."""
        if isinstance(self.resize, tuple):
            return self.resize
        long = int(self.resize * max(size) / min(size))  # cut off, as image processors do
        return (self.resize, long) if size[0] <= size[1] else (long, self.resize)

    def window(self, size: Size) -> tuple[slice, slice]:
        """Give the rows and columns of an image of a size that are kept after resizing."""
        height, width = self.resized(size)
        rows, columns = self.crop or (height, width)
        top, left = (height - rows) // 2, (width - columns) // 2
        return slice(top, top + rows), slice(left, left + columns)

    def output(self, size: Size) -> Size:
        """Give the final size of an image."""
        return self.crop or self.resized(size)


def size_of(picture: Picture) -> Size:
    """Read the size of an image, without decoding it.

    Args:
        picture: The image.

    Returns:
        Height and width as they will be decoded.

    Raises:
        DataError: If it cannot be read.
    """
    if isinstance(picture.content, np.ndarray):
        return picture.content.shape[0], picture.content.shape[1]
    with _opened(picture) as image:
        turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
        return image.size if turned else (image.height, image.width)


def pixels_of(picture: Picture, geometry: Geometry | None = None) -> Pixels:
    """Decode an image.

    Args:
        picture: The image; one in shades of grey or with a palette becomes coloured.
        geometry: How to resize and crop; None = not at all.

    Returns:
        Its pixels, `(height, width, 3)`, from 0 to 255.

    Raises:
        DataError: If it cannot be read, or has more than 8 bits a colour.
    """
    with _opened(picture) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    if geometry is None:
        return np.asarray(upright)
    size = (upright.height, upright.width)
    height, width = geometry.resized(size)
    rows, columns = geometry.window(size)
    return np.asarray(upright.resize((width, height), geometry.resample))[rows, columns]


def in_threads(
    read: Callable[[Picture], _Result], pictures: Sequence[Picture], threads: int
) -> Iterator[_Result]:
    """Read images in several threads; Pillow lets others work while it decodes.

    Args:
        read: Reads one image.
        pictures: What to read.
        threads: From 1.

    Yields:
        What `read` gave, in the order of the pictures; of all that failed the first raises.
    """
    with ThreadPoolExecutor(threads) as pool:
        step = _AT_ONCE * threads
        for start in range(0, len(pictures), step):
            yield from pool.map(read, pictures[start : start + step])


@contextmanager
def _opened(picture: Picture) -> Iterator[Image.Image]:
    """Open an image, refusing what 8 bits cannot hold, and naming it if it is damaged."""
    content = picture.content
    try:
        if isinstance(content, np.ndarray):
            image = Image.fromarray(content)
        else:
            image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)
        with image:
            _require_bytes(image, picture)
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like on damaged files
        raise _unreadable(picture, error) from error


def _require_bytes(image: Image.Image, picture: Picture) -> None:
    """Refuse an image of more than 8 bits a colour."""
    if image.mode.startswith(_DEEP):
        raise DataError(
            f"Expected an image of 8 bits a colour, got mode '{image.mode}' of Pillow in "
            f"{picture.name}. Convert it first."
        )


def _unreadable(picture: Picture, error: Exception) -> DataError:
    """Word that an image is missing, or cannot be read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"Expected an image at {picture.name}, found no file. Check the path.")
    unknown = isinstance(error, UnidentifiedImageError)  # its own text shows a memory address
    reason = "no image format that Pillow knows" if unknown else str(error).rstrip(".")
    return DataError(f"Cannot read the image {picture.name}: {reason}. Repair or remove it.")
