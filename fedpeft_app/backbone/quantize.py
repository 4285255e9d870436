"""Frozen weights in 8 or 4 bits, through bitsandbytes (Dettmers et al. 2023, arXiv 2305.14314).

Needs a GPU, so no test on a CPU runs it; those marked `gpu` do.
"""

from importlib.util import find_spec
from typing import Any

import torch
import transformers

from fedpeft_app.errors import BackboneError


def quantized(quantization: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Give the arguments of `from_pretrained` that load weights quantised.

    Args:
        quantization: "none", "int8" or "nf4".
        dtype: Type that 4-bit weights are multiplied in.

    Returns:
        Keyword arguments; none for "none".

    Raises:
        BackboneError: If this machine has no GPU or no bitsandbytes.
    """
    if quantization == "none":
        return {}
    if not torch.cuda.is_available():
        raise BackboneError(
            f"model.quantization = '{quantization}' needs a GPU: bitsandbytes is made for those. "
            f"On a CPU use 'none', with model.dtype = 'bfloat16' to halve the memory."
        )
    if find_spec("bitsandbytes") is None:
        raise BackboneError(
            f"model.quantization = '{quantization}' needs bitsandbytes: "
            f"pip install 'fedpeft[quantization]'."
        )
    config = transformers.BitsAndBytesConfig(
        load_in_8bit=quantization == "int8",
        load_in_4bit=quantization == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": 0}}
