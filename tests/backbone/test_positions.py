"""How long a text may be: as long as its tokens, and what stands before them, have positions."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedpeft_app.assembly import adapted_model
from fedpeft_app.backbone.positions import positions, require_positions, require_whole_patches
from fedpeft_app.config import parse
from fedpeft_app.errors import ConfigError

_SMALL = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 12,
}


def test_the_limit_of_a_padded_model_is_its_last_position() -> None:
    # Ids 2 … 11 of 12: the first token has the position after the padding token's.
    config = transformers.RobertaConfig(**_SMALL, pad_token_id=1)
    model = transformers.RobertaModel(config).eval()
    most = positions(config.to_dict())
    assert most == 10
    model(input_ids=torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError), match="out of (range|bounds)"):
        model(input_ids=torch.full((1, most + 1), 5))


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "mpnet", "max_position_embeddings": 514}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": None}, 512),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 99}}, 99),
        ({"model_type": "bloom"}, None),
        ({"model_type": "xlnet", "max_position_embeddings": -1}, None),
        (
            {
                "model_type": "deberta-v2",
                "max_position_embeddings": 512,
                "position_biased_input": False,
            },
            None,
        ),
    ],
)
def test_a_config_says_how_long_a_text_may_be(settings: dict[str, Any], most: int | None) -> None:
    assert positions(settings) == most


def test_a_prompt_takes_positions_of_the_text() -> None:
    settings = {"model_type": "bert", "max_position_embeddings": 32}
    require_positions(settings, 32)
    require_positions(settings, 22, prompt=10)
    with pytest.raises(ConfigError, match=r"data\.max-length = 23: .* set at most 22\."):
        require_positions(settings, 23, prompt=10)


def test_a_node_refuses_texts_that_its_model_cannot_take(
    tiny_settings: dict[str, Any], tiny_model: Path
) -> None:
    config = parse({**tiny_settings, "method.name": "p-tuning", "data.max-length": 71})
    with pytest.raises(ConfigError, match=r"data\.max-length = 71: .* 80 tokens, 10 of them"):
        adapted_model(config, ("a", "b"))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"patch_size": 16}, 384),
        ({"patch_size": 16}, 0),
        ({"vision_config": {"patch_size": 14}}, 224),
        ({"hidden_sizes": [8]}, 33),  # a convolutional model has no patches
    ],
)
def test_an_image_of_whole_patches_is_seen_whole(settings: dict[str, Any], size: int) -> None:
    require_whole_patches(settings, size)


@pytest.mark.parametrize(("size", "near"), [(40, "32 or 48"), (9, "16")])
def test_an_image_with_a_rest_is_refused(size: int, near: str) -> None:
    # A model of 2 x 2 patches computes the same whatever stands in columns 32 to 39.
    settings = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = transformers.ViTConfig(**settings, intermediate_size=8, image_size=32, patch_size=16)
    model = transformers.ViTModel(config).eval()
    image = torch.rand(1, 3, 40, 40)
    cut = image.clone()
    cut[..., 32:] = 0.0
    with torch.inference_mode():
        seen, without = (
            model(pixels, interpolate_pos_encoding=True).last_hidden_state
            for pixels in (image, cut)
        )
    assert torch.equal(seen, without)
    with pytest.raises(ConfigError, match=f"patches of 16 x 16 .* such as {near}\\."):
        require_whole_patches(config.to_dict(), size)
