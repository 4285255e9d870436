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


_PADDING: dict[str, dict[str, Any]] = {  # the hierarchical models, as small as they come
    "Swin": {"embed_dim": 4, "depths": [1], "num_heads": [1], "window_size": 2},
    "Swinv2": {"embed_dim": 4, "depths": [1], "num_heads": [1], "window_size": 2},
    "FocalNet": {"embed_dim": 4, "depths": [1], "focal_levels": [1], "focal_windows": [3]},
    "Hiera": {
        "embed_dim": 4,
        "depths": [1],
        "num_heads": [1],
        "num_query_pool": 0,
        "image_size": [64, 64],  # patches of 7 x 7 that overlap, four pixels apart
    },
    "MobileViT": {
        "neck_hidden_sizes": [4] * 7,
        "hidden_sizes": [4, 4, 4],
        "initializer_range": 1.0,
    },
    "PoolFormer": {"hidden_sizes": [4] * 4, "depths": [1] * 4},
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


@pytest.mark.parametrize(
    ("max_length", "prompt", "problem"),
    [
        (8, 600, r"method\.prompt-length = 600: .* 8 of them the text's .* set at most 24\."),
        (33, 600, r"method\.prompt-length = 600: .* for 32 tokens; set at most 32\."),
        (33, 10, r"data\.max-length = 33: .* 10 of them the prompt's .* set at most 22\."),
    ],
)
def test_the_longer_of_text_and_prompt_is_blamed(
    max_length: int, prompt: int, problem: str
) -> None:
    settings = {"model_type": "bert", "max_position_embeddings": 32}
    with pytest.raises(ConfigError, match=problem):
        require_positions(settings, max_length, prompt)


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
        ({"vision_config": {"patch_size": None}}, 33),
        ({"patch_size": [16, 12]}, 96),
        ({"model_type": "swin", "patch_size": 4}, 33),
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
    for patch in (16, [16, 16]):
        with pytest.raises(ConfigError, match=f"patches of 16 x 16 .* such as {near}\\."):
            require_whole_patches({**config.to_dict(), "patch_size": patch}, size)


def test_patches_need_not_be_square() -> None:
    with pytest.raises(ConfigError, match=r"patches of 16 x 12 .* such as 48 or 96\."):
        require_whole_patches({"patch_size": [16, 12]}, 64)


@pytest.mark.parametrize("name", ["Swin", "Swinv2", "FocalNet", "Hiera", "MobileViT", "PoolFormer"])
def test_a_model_that_pads_sees_the_last_pixels(name: str) -> None:
    config = getattr(transformers, f"{name}Config")(**_PADDING[name])
    model = getattr(transformers, f"{name}Model")(config).eval()
    size = _PADDING[name].get("image_size", [37, 37])
    image = torch.rand(1, 3, *size)
    cut = image.clone()
    cut[..., -1] = 0.0
    with torch.inference_mode():
        seen, without = (model(pixels).last_hidden_state for pixels in (image, cut))
    assert not torch.equal(seen, without)
    require_whole_patches(config.to_dict(), size[0])


def test_a_node_refuses_images_with_a_rest(
    tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDPEFT_HOME", str(tmp_path))
    images = {"task": "image-classification", "model.name": "scratch:vit-tiny-patch4-28"}
    config = parse({**tiny_settings, **images, "data.image-size": 30})
    with pytest.raises(ConfigError, match=r"data\.image-size = 30: .* patches of 4 x 4"):
        adapted_model(config, ("a", "b"))
