"""Which device and which arithmetic local training uses."""

import contextlib
from contextlib import AbstractContextManager

import torch

from fedpeft_app.data.tasks.task import Batch
from fedpeft_app.errors import TrainingError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device() -> torch.device:
    """Give the device this process may use: a GPU where Ray or the user gave one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bf16(where: torch.device) -> bool:
    """Say whether a device multiplies bfloat16 in hardware, faster than float32."""
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions CPUs emulate bfloat16, slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: str, where: torch.device) -> str:
    """Decide what "auto" means on a device.

    Args:
        precision: "auto", "fp32", "bf16" or "fp16".
        where: The device that trains.

    Returns:
        "fp32", "bf16" or "fp16".

    Raises:
        TrainingError: For fp16 on a CPU, which has no loss scaling there and no gain.
    """
    if precision == "auto":
        return "bf16" if has_fast_bf16(where) else "fp32"
    if precision == "fp16" and where.type == "cpu":
        raise TrainingError(
            "train.precision = 'fp16' needs a GPU. Use 'auto': it takes bf16 where the CPU has it."
        )
    return precision


def arithmetic(model: torch.nn.Module, precision: str) -> str:
    """Decide the autocast that a model needs: its own, if its frozen weights are not float32.

    Args:
        model: The model, whose first parameter has the dtype of the frozen weights.
        precision: What was asked for: "fp32", "bf16" or "fp16".

    Returns:
        "fp32", "bf16" or "fp16". Adapters are float32 on any base, so a half-precision base
        cannot run without autocast.
    """
    own = {dtype: name for name, dtype in _DTYPES.items()}
    return own.get(next(model.parameters()).dtype, precision)


def autocast(precision: str, where: torch.device) -> AbstractContextManager[object]:
    """Open the autocast context of a resolved precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(where.type, dtype=_DTYPES[precision])


def placed(batch: Batch, where: torch.device) -> Batch:
    """Move a batch to a device.

    Args:
        batch: What a task's `collate` gave.
        where: The device.
    """
    return {key: value.to(where, non_blocking=True) for key, value in batch.items()}
