"""Image classification: stored small, resized as image processors do, varied in training only."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.images import Picture
from fedpeft_app.data.tasks.catalogue import TASKS
from fedpeft_app.data.tasks.image_classification import ImageClassification
from fedpeft_app.data.tasks.image_input import image_input, set_size
from fedpeft_app.errors import DataError

SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "vit": transformers.ViTImageProcessorPil(size=SQUARE),
    "deit": transformers.DeiTImageProcessorPil(size={"height": 40, "width": 40}, crop_size=SQUARE),
    "dinov2": transformers.BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE),
    "clip": transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE),
}
LEVEL = 1 / 255 / 0.22  # one of 255 levels, divided by the smallest deviation of these


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def picture(pixels: np.ndarray) -> Picture:
    return Picture(name="a", content=pixels)


def encoded(task: ImageClassification, images: list[np.ndarray]) -> list[np.ndarray]:
    return list(task.encode([picture(image) for image in images], threads=2))


def test_the_catalogue_knows_it() -> None:
    assert TASKS.get("image-classification") is ImageClassification


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("sizes", [[(50, 70), (70, 50)], [(32, 32)], [(45, 33), (32, 32)]])
def test_what_is_stored_becomes_what_the_processor_gives(
    name: str, sizes: list[tuple[int, int]]
) -> None:
    processor = PROCESSORS[name]
    images = [noise(*size) for size in sizes]
    task = ImageClassification().bind(processor)
    examples = example_set(encoded(task, images))
    assert examples.shape == (32, 32, 3)
    found = task.collate(examples, np.arange(len(images)))["pixel_values"]
    expected = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    torch.testing.assert_close(found, expected["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PROCESSORS)
def test_small_images_are_stored_as_they_are_and_resized_alike(name: str) -> None:
    processor = PROCESSORS[name]
    images = [noise(20, 28, seed=seed) for seed in range(3)]
    task = ImageClassification().bind(processor)
    rows = encoded(task, images)
    assert all(np.array_equal(row, image) for row, image in zip(rows, images, strict=True))
    found = task.collate(example_set(rows), np.array([2, 0]))["pixel_values"]
    expected = processor([Image.fromarray(images[at]) for at in (2, 0)], return_tensors="pt")
    difference = (found - expected["pixel_values"]).abs()
    assert difference.max() <= 2.1 * LEVEL  # rounded twice, as torch and Pillow differ
    assert (difference > 1e-5).float().mean() < 0.02


def test_small_images_of_two_sizes_are_stored_at_the_input_size() -> None:
    task = ImageClassification().bind(PROCESSORS["vit"])
    assert {row.shape for row in encoded(task, [noise(8, 8), noise(9, 8)])} == {(32, 32, 3)}


@pytest.mark.parametrize("name", PROCESSORS)
def test_another_size_crops_the_same_share(name: str) -> None:
    processor = type(PROCESSORS[name])(
        size=PROCESSORS[name].size, crop_size=getattr(PROCESSORS[name], "crop_size", None)
    )
    set_size(processor, 48)
    found = image_input(processor)
    assert found.size == (48, 48)
    image = noise(100, 100)
    task = ImageClassification().bind(processor)
    mine = task.collate(example_set(encoded(task, [image])), np.array([0]))["pixel_values"]
    theirs = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"size": {"shortest_edge": 224}}, r"images come out in many sizes. Set data.image-size"),
        ({"size": {"longest_edge": 224}}, "or a shortest edge, got size"),
        ({"size": SQUARE, "do_resize": False}, "got do_resize = false of SimpleNamespace"),
        ({"size": SQUARE, "crop_pct": 0.9}, "got crop_pct of SimpleNamespace"),
        ({"size": SQUARE, "resample": 1}, "bilinear .* or bicubic .*, got resample = 1"),
    ],
)
def test_what_cannot_be_done_alike_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        ImageClassification().bind(SimpleNamespace(to_dict=lambda: settings))


def batch(augment: str, seed: int | None) -> torch.Tensor:
    """Collate one image whose pixels all differ, at the input size."""
    task = ImageClassification(augment=augment).bind(PROCESSORS["vit"])
    pixels = np.arange(32 * 32, dtype=np.uint32).reshape(32, 32)
    image = np.stack([pixels % 256, pixels // 256, pixels * 0], axis=-1).astype(np.uint8)
    examples = example_set([image] * 8)
    generator = None if seed is None else np.random.default_rng(seed)
    return task.collate(examples, np.arange(8), generator)["pixel_values"]


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip"])
def test_evaluation_never_varies_images(augment: str) -> None:
    assert torch.equal(batch(augment, None), batch("none", None))


def test_nothing_is_varied_unless_asked_for() -> None:
    assert torch.equal(batch("none", 0), batch("none", None))


def test_a_flip_is_the_image_or_its_mirror_image() -> None:
    plain, found = batch("none", None), batch("flip", 0)
    mirrored = [torch.equal(one, plain[0].flip(-1)) for one in found]
    assert any(mirrored)
    assert not all(mirrored)
    for one, turned in zip(found, mirrored, strict=True):
        assert turned or torch.equal(one, plain[0])


def test_a_crop_moves_by_an_eighth_at_most() -> None:
    plain, moves = batch("none", None)[0], set()
    for one in batch("crop-flip", 1):
        # the middle row and column are there whatever the move, at their place plus the move
        upright = one if one[0, 16, 16] < one[0, 16, 17] else one.flip(-1)
        centre = upright[:, 16, 16]
        ((row,), (column,)) = torch.where((plain == centre[:, None, None]).all(dim=0))
        moves.add((int(row) - 16, int(column) - 16))
    assert len(moves) > 1
    assert all(abs(down) <= 4 and abs(across) <= 4 for down, across in moves)


def test_variation_is_a_function_of_the_generator() -> None:
    assert torch.equal(batch("crop-flip", 3), batch("crop-flip", 3))
    assert not torch.equal(batch("crop-flip", 3), batch("crop-flip", 4))


@pytest.mark.parametrize("kind", ["vit", "swin", "dinov2"])
def test_positions_are_interpolated_for_another_size(kind: str) -> None:
    shapes = {
        "vit": transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
            num_labels=3,
        ),
        "swin": transformers.SwinConfig(
            embed_dim=8,
            depths=[1],
            num_heads=[2],
            image_size=16,
            patch_size=4,
            window_size=2,
            num_labels=3,
        ),
        "dinov2": transformers.Dinov2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            num_labels=3,
        ),
    }
    model = transformers.AutoModelForImageClassification.from_config(shapes[kind]).eval()
    task = ImageClassification()
    for size in (16, 32):
        assert task.outputs(model, {"pixel_values": torch.zeros(2, 3, size, size)}).shape == (2, 3)


def test_a_model_that_takes_one_size_only_says_which() -> None:
    def model(pixel_values: torch.Tensor) -> Any:
        raise AssertionError

    model.config = SimpleNamespace(model_type="rigid", image_size=[16, 16])
    with pytest.raises(DataError, match=r"16 x 16 pixels and cannot take 8 x 8: .*image-size = 16"):
        ImageClassification().outputs(model, {"pixel_values": torch.zeros(1, 3, 8, 8)})


def test_predictions_are_labels_with_their_probability(tmp_path: Path) -> None:
    class Brightness(torch.nn.Linear):
        """Scores the mean of an image against its negative."""

        config = SimpleNamespace(image_size=32)

        def forward(self, pixel_values: torch.Tensor) -> Any:  # type: ignore[override]
            mean = pixel_values.mean(dim=(1, 2, 3))
            return SimpleNamespace(logits=torch.stack([-mean, mean], dim=1))

    for name, value in (("black", 0), ("white", 255)):
        Image.new("RGB", (40, 50), (value,) * 3).save(tmp_path / f"{name}.png")
    task = ImageClassification().bind(PROCESSORS["vit"], labels=("dark", "bright"))
    paths = [str(tmp_path / f"{name}.png") for name in ("white", "black", "white")]
    found = task.predict(Brightness(1, 1), paths, batch_size=2)
    assert [one.answer for one in found] == ["bright", "dark", "bright"]
    # logits of -1 and 1: 1 / (1 + exp(-2))
    assert [one.probability for one in found] == pytest.approx([0.8807970779778823] * 3)
    with pytest.raises(DataError, match=r"Expected an image at .*none\.png, found no file"):
        task.predict(Brightness(1, 1), [str(tmp_path / "none.png")], batch_size=2)


@pytest.mark.parametrize("options", [{"separator": ""}, {"class_weights": {"a": 0}}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ImageClassification(**options)
