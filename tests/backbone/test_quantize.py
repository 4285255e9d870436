"""Quantised weights: refused without a GPU or the library; tests/methods trains on them."""

import importlib.util

import pytest
import torch

from fedpeft_app.backbone import quantize
from fedpeft_app.backbone.quantize import quantized
from fedpeft_app.errors import BackboneError


def test_nothing_is_said_of_weights_as_they_are() -> None:
    assert quantized("none") == {}


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_machine_without_a_gpu_refuses(
    quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError, match=f"'{quantization}' needs a GPU: .*use 'none'"):
        quantized(quantization)


def test_a_missing_library_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"pip install 'fedpeft\[quantization\]'"):
        quantized("nf4")


@pytest.mark.gpu
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_gpu_is_told_what_to_load(quantization: str) -> None:
    assert importlib.util.find_spec("bitsandbytes")
    arguments = quantized(quantization, torch.bfloat16)
    config = arguments["quantization_config"]
    assert (config.load_in_8bit, config.load_in_4bit) == (
        quantization == "int8",
        quantization == "nf4",
    )
