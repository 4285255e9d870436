"""What "auto" means on which device, and what is refused."""

import pytest
import torch

from fedpeft_app.errors import TrainingError
from fedpeft_app.training.precision import autocast, device, has_fast_bf16, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16"), (True, True, "bf16")],
)
def test_auto_on_a_cpu_asks_for_its_instructions(
    monkeypatch: pytest.MonkeyPatch, *, avx512: bool, amx: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu_wants_bf16_in_hardware(
    monkeypatch: pytest.MonkeyPatch, *, supported: bool, expected: str
) -> None:
    def asked(*, including_emulation: bool) -> bool:
        return supported or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", asked)
    assert has_fast_bf16(GPU) == supported
    assert resolve_precision("auto", GPU) == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_named_is_taken(precision: str) -> None:
    assert resolve_precision(precision, CPU) == precision
    assert resolve_precision(precision, GPU) == precision


def test_fp16_needs_a_gpu() -> None:
    assert resolve_precision("fp16", GPU) == "fp16"
    with pytest.raises(TrainingError, match="'fp16' needs a GPU"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_used_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, *, available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert device().type == expected


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_matrices_multiply_in_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    matrix = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (matrix @ matrix).dtype == dtype
