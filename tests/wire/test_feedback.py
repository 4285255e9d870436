"""Error feedback: nothing is lost for good."""

import numpy as np
import pytest

from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.feedback import encode_with_feedback


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_what_was_left_out_goes_into_the_next_message() -> None:
    codec, draws = parse_codec("topk(0.5)+float32"), np.random.default_rng(0)
    first, residual = encode_with_feedback(codec, vector(4, 3), vector(0, 0), draws)
    assert codec.decode(first, 2).tolist() == [4, 0]
    assert residual.tolist() == [0, 3]
    second, residual = encode_with_feedback(codec, vector(4, 3), residual, draws)
    assert codec.decode(second, 2).tolist() == [0, 6]
    assert residual.tolist() == [4, 0]


def test_a_codec_without_loss_leaves_nothing() -> None:
    draws = np.random.default_rng(0)
    delta = draws.normal(size=100).astype(np.float32)
    codec = parse_codec("float32")
    data, residual = encode_with_feedback(codec, delta, np.zeros_like(delta), draws)
    assert data == delta.astype("<f4").tobytes()
    assert not residual.any()


def test_neither_delta_nor_residual_is_changed() -> None:
    delta, residual = vector(4, 3), vector(1, 2)
    codec = parse_codec("topk(0.5)+int8")
    encode_with_feedback(codec, delta, residual, np.random.default_rng(0))
    assert (delta.tolist(), residual.tolist()) == ([4, 3], [1, 2])


def test_a_residual_of_another_adapter_is_refused() -> None:
    with pytest.raises(AdapterMismatchError, match="residual of 2 values.*got 1"):
        encode_with_feedback(parse_codec("int8"), vector(4, 3), vector(1), np.random.default_rng(0))
