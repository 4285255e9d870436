"""What reads a model's examples: a tokenizer for text, an image processor for images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image
from tiny_configs import CAUSAL, IMAGE, TEXT

from fedpeft_app.backbone.locate import locate
from fedpeft_app.backbone.processor import load_image_processor, load_processor
from fedpeft_app.errors import BackboneError


@pytest.fixture
def image_model(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder that has both a tokenizer and an image processor."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 4, "width": 6},
        "image_mean": [0.5, 0.25, 0.0],
        "image_std": [0.5, 0.5, 2.0],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", [TEXT, CAUSAL])
def test_text_is_read_by_a_tokenizer(image_model: Path, kind: str) -> None:
    processor = load_processor(locate(str(image_model)), kind)
    assert processor("wheat oil")["input_ids"] == [2, 5, 8, 3]


def test_images_are_read_by_an_image_processor(image_model: Path) -> None:
    processor = load_processor(locate(str(image_model)), IMAGE)
    assert isinstance(processor, transformers.BaseImageProcessor)
    pixels = np.array(processor(Image.new("RGB", (9, 9), (255, 0, 255)))["pixel_values"][0])
    assert pixels.shape == (3, 4, 6)
    # (1 − 0.5) / 0.5, (0 − 0.25) / 0.5, (1 − 0) / 2
    np.testing.assert_allclose(pixels[:, 0, 0], [1.0, -0.5, 0.5], atol=1e-6)


@pytest.mark.parametrize("content", [None, "{", '{"image_processor_type": "NoSuchProcessor"}'])
def test_a_folder_without_a_usable_image_processor_is_refused(
    image_model: Path, content: str | None
) -> None:
    file = image_model / "preprocessor_config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(BackboneError, match=r"No usable image processor \(preprocessor_config"):
        load_image_processor(locate(str(image_model)))
