"""Architectures that are known without a download: their shapes, not their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """The shape of a model.

    Attributes:
        kind: What it is for, a key of `backbone.load.AUTO_CLASSES`.
        config: Its config.json.
        processor: Its preprocessor_config.json; empty for models of text.
    """

    kind: str
    config: Mapping[str, Any]
    processor: Mapping[str, Any]


def _vit(hidden: int, layers: int, heads: int, image: int, patch: int) -> KnownModel:
    """Describe a vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929)."""
    return KnownModel(
        kind="image-classification",
        config={
            "model_type": "vit",
            "architectures": ["ViTForImageClassification"],
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * hidden,
            "image_size": image,
            "patch_size": patch,
        },
        processor={
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": image, "width": image},
        },
    )


KNOWN: Mapping[str, KnownModel] = {
    "vit-base-patch16-224-in21k": _vit(768, 12, 12, 224, 16),  # the FedPEFT paper's backbone
    "vit-tiny-patch4-28": _vit(192, 6, 3, 28, 4),  # small images, from scratch
    "vit-micro-patch7-28": _vit(64, 4, 4, 28, 7),  # the same in minutes on a CPU
    "llama-tiny-bytes": KnownModel(  # learns a few sentences by heart on a CPU
        kind="causal-lm",
        config={
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 260,  # 256 bytes, and what _byte_tokenizer in scratch.py adds
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "pad_token_id": 258,
        },
        processor={},
    ),
}
