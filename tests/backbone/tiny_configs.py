"""Configs of tiny models of every make that the backbone room tells apart."""

from collections.abc import Callable
from typing import Any

import transformers

TEXT, IMAGE, CAUSAL = "sequence-classification", "image-classification", "causal-lm"
_SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
_WORDS: dict[str, Any] = {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_IMAGES: dict[str, Any] = {"image_size": 4, "patch_size": 2}

CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(**_SMALL, **_WORDS),
    "roberta": lambda: transformers.RobertaConfig(**_SMALL, **_WORDS),
    "distilbert": lambda: transformers.DistilBertConfig(
        dim=8, n_layers=1, n_heads=2, hidden_dim=12, vocab_size=9
    ),
    "gpt2": lambda: transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, **_WORDS),
    "llama": lambda: transformers.LlamaConfig(**_SMALL, **_WORDS),
    "t5": lambda: transformers.T5Config(
        d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2, vocab_size=9
    ),
    "vit": lambda: transformers.ViTConfig(**_SMALL, **_IMAGES),
    "deit": lambda: transformers.DeiTConfig(**_SMALL, **_IMAGES),
    "dinov2": lambda: transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, **_IMAGES
    ),
    "swin": lambda: transformers.SwinConfig(
        image_size=8, patch_size=2, embed_dim=4, depths=[1, 1], num_heads=[1, 2], window_size=2
    ),
    "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[4, 4, 4, 8], depths=[1, 1, 1, 1]),
    "clip": lambda: transformers.CLIPConfig(
        text_config={**_SMALL, **_WORDS}, vision_config={**_SMALL, **_IMAGES}
    ),
}
