"""IDX files, the format of MNIST and its successors → a table.

A file is a magic number (two zero bytes, the type, the number of dimensions), each dimension
as a big-endian 32-bit integer, and the values.
"""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedpeft_app.data.images import Picture
from fedpeft_app.errors import DataError

_BYTES = b"\x00\x00\x08"  # magic number of unsigned bytes, less the number of dimensions
_IMAGES, _LABELS = 3, 1  # dimensions


def read_idx(images: Path, labels: Path, names: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read one split.

    Args:
        images: File of images, `(examples, height, width)`; may end in .gz.
        labels: File of their labels, `(examples,)`.
        names: Label names in the order of the numbers; empty = the numbers themselves.

    Returns:
        A table with the columns "image" and "label".

    Raises:
        DataError: If a file is damaged, they do not belong together, or a label has no name.
    """
    pixels, numbers = _read(images, _IMAGES), _read(labels, _LABELS)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{images} holds {len(pixels)} images, {labels} {len(numbers)} labels: they do not "
            f"belong together."
        )
    if names and len(numbers) and numbers.max() >= len(names):
        raise DataError(f"{labels} has label {numbers.max()}, expected 0 to {len(names) - 1}.")
    pictures = [
        Picture(name=f"{images}, row {row}", content=content)
        for row, content in enumerate(pixels, start=1)
    ]
    texts = [names[number] if names else str(number) for number in numbers]
    return pd.DataFrame({"image": pd.Series(pictures, dtype=object), "label": texts})


def _read(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read a file of unsigned bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:  # a damaged archive raises either
        raise DataError(f"Cannot read {path}: {error}") from error
    start = len(_BYTES) + 1 + 4 * dimensions
    if content[: len(_BYTES) + 1] != _BYTES + bytes([dimensions]) or len(content) < start:
        raise DataError(f"Expected an IDX file of bytes in {dimensions} dimensions in {path}.")
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=len(_BYTES) + 1)
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if len(values) != int(np.prod(shape, dtype=np.int64)):
        sizes = " x ".join(map(str, shape))
        raise DataError(f"Expected {sizes} values in {path}, got {len(values)}. It is damaged.")
    return values.reshape(shape.astype(np.int64))
