"""Images → pixels: what Pillow and image processors make of them, damaged ones named."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedpeft_app.data.images import Geometry, Picture, in_threads, pixels_of, size_of
from fedpeft_app.errors import DataError


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def packed(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_pixels_come_back_as_they_were(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for content in (tmp_path / "a.png", packed(Image.fromarray(pixels)), pixels):
        picture = Picture(name="a", content=content)
        assert np.array_equal(pixels_of(picture), pixels)
        assert size_of(picture) == (5, 7)


def test_shades_of_grey_become_three_equal_colours() -> None:
    grey = noise(4, 4)[:, :, 0]
    found = pixels_of(Picture(name="a", content=grey))
    assert np.array_equal(found, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_every_mode_of_8_bits_is_coloured(mode: str) -> None:
    image = Image.fromarray(noise(4, 6)).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert pixels_of(Picture(name="a", content=packed(image, form))).shape == (4, 6, 3)


def test_16_bits_are_refused_not_cut_off() -> None:
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(
        DataError, match=r"8 bits a colour, got mode 'I;16' of Pillow in x-ray\.png"
    ):
        pixels_of(Picture(name="x-ray.png", content=packed(deep)))


def test_a_photo_lies_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    picture = Picture(name="a", content=packed(Image.fromarray(noise(4, 6)), exif=exif))
    assert size_of(picture) == (6, 4)
    assert np.array_equal(pixels_of(picture), np.rot90(noise(4, 6), k=-1))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "no image format"), (b"text", "no image format"), (None, "")]
)
def test_a_damaged_image_is_named(content: bytes | None, reason: str) -> None:
    damaged = packed(Image.fromarray(noise(30, 30)))[:200] if content is None else content
    with pytest.raises(DataError, match=rf"Cannot read the image cat/7\.jpg: {reason}") as caught:
        pixels_of(Picture(name="cat/7.jpg", content=damaged))
    assert "0x" not in str(caught.value)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^Expected an image at a, found no file\. Check the path\.$"
    ):
        size_of(Picture(name="a", content=tmp_path / "none.png"))


@pytest.mark.parametrize(
    ("geometry", "size", "resized", "output"),
    [
        (Geometry(resize=(8, 6)), (20, 30), (8, 6), (8, 6)),
        (Geometry(resize=8), (20, 30), (8, 12), (8, 12)),
        (Geometry(resize=8), (30, 20), (12, 8), (12, 8)),
        (Geometry(resize=8, crop=(6, 6)), (30, 20), (12, 8), (6, 6)),
        (Geometry(resize=7), (10, 15), (7, 10), (7, 10)),  # 10.5 is cut off
    ],
)
def test_sizes_by_hand(
    geometry: Geometry, size: tuple[int, int], resized: tuple[int, int], output: tuple[int, int]
) -> None:
    assert geometry.resized(size) == resized
    assert geometry.output(size) == output
    assert pixels_of(Picture(name="a", content=noise(*size)), geometry).shape == (*output, 3)


def test_threads_keep_the_order_and_the_first_fault() -> None:
    pictures = [Picture(name=str(number), content=b"") for number in range(100)]
    names = list(in_threads(lambda picture: picture.name, pictures, threads=3))
    assert names == [str(number) for number in range(100)]
    with pytest.raises(DataError, match="image 40"):
        good = Picture(name="good", content=noise(2, 2))
        list(in_threads(pixels_of, [*itertools.repeat(good, 40), *pictures[40:]], threads=3))
