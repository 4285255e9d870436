"""The text of a codec: one grammar, one spelling, and errors that list what exists."""

from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app import registry as registry_module
from fedpeft_app.errors import UnknownNameError
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.lossless import Zstd
from fedpeft_app.wire.quantize import int8
from fedpeft_app.wire.sparsify import Sparse, TopK


def test_a_chain_wraps_from_the_inside() -> None:
    sparse = Sparse(sparsifier=TopK(share=0.1), numbers=int8())
    assert parse_codec("topk(0.1)+int8+zstd") == Zstd(inner=sparse)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("topk(0.10)+float32", "topk(0.1)+float32"),
        ("topk(1)+int4", "topk(1.0)+int4"),
        ("topk(1e-5)+int8", "topk(1e-05)+int8"),
        ("threshold(1000000000)+int8", "threshold(1000000000.0)+int8"),
    ],
)
def test_every_spelling_has_one_name(text: str, name: str) -> None:
    assert parse_codec(text).name == name
    assert parse_codec(name).name == name


@given(share=st.floats(0, 1, exclude_min=True))
def test_a_name_that_was_printed_can_be_read(share: float) -> None:
    codec = Sparse(sparsifier=TopK(share=share), numbers=float32())
    assert parse_codec(codec.name) == codec


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("int9", "unknown codec stage 'int9'.*float32.*zstd.*Did you mean 'int8'"),
        ("top(0.1)+int8", "Did you mean 'topk'"),
        ("", "unknown codec stage ''"),
        ("int8+", "unknown codec stage ''"),
        ("int8 + zstd", "unknown codec stage 'int8 '"),
        ("INT8", "Did you mean 'int8'"),
        ("fedpeft_app.wire.quantize:int8", "unknown codec stage"),
        ("zstd+int8", "at most one lossless stage behind it"),
        ("int8+topk(0.1)", "at most one sparsifier before it"),
        ("int8+int4", "Expected one number format"),
        ("topk(0.1)", "Expected one number format.*float32, bfloat16, float16, int8, int4"),
        ("topk(0.1)+topk(0.1)+int8", "at most one sparsifier"),
        ("int8+zstd+zstd", "at most one lossless stage"),
        ("int8(4)", "Expected no parameter for 'int8', got 'int8\\(4\\)'"),
        ("int8+zstd(3)", "Expected no parameter for 'zstd'"),
        ("topk+int8", "Expected a parameter of 'topk' in \\(0, 1\\], got 'topk'"),
        ("topk()+int8", "Expected a parameter of 'topk'"),
        ("topk(0)+int8", "Expected a parameter of 'topk'"),
        ("topk(1.01)+int8", "Expected a parameter of 'topk'"),
        ("topk(-1)+int8", "Expected a parameter of 'topk'"),
        ("topk(nan)+int8", "Expected a parameter of 'topk'"),
        ("topk(1e-999)+int8", "Expected a parameter of 'topk'"),
        ("topk(0_1)+int8", "Expected a parameter of 'topk'"),
        ("topk( 1)+int8", "Expected a parameter of 'topk'"),
        ("threshold(2e9)+int8", "Expected a parameter of 'threshold' in \\(0, 1e\\+09\\]"),
        ("topk(0.1+int8", "unknown codec stage 'topk\\(0.1'"),
        ("int8" + 100 * " ", "Expected a codec in 100 characters, got 104"),
    ],
)
def test_anything_else_is_refused_with_what_exists(text: str, told: str) -> None:
    with pytest.raises(UnknownNameError, match=told):
        parse_codec(text)


@given(text=st.text(alphabet="topk(0.1)+int8zs e-", max_size=25))
def test_no_other_error_escapes(text: str) -> None:
    try:
        codec = parse_codec(text)
    except UnknownNameError:
        return
    assert parse_codec(codec.name) == codec


def test_a_package_can_add_a_number_format(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint(name="byte", value="fedpeft_app.wire.quantize:int8", group="fedpeft.codecs")
    monkeypatch.setattr(registry_module, "entry_points", lambda *, group: [entry])
    with monkeypatch.context():
        assert parse_codec("byte+zstd") == Zstd(inner=int8())
    parse_codec.cache_clear()


def test_a_text_is_understood_once() -> None:
    assert parse_codec("topk(0.25)+int8") is parse_codec("topk(0.25)+int8")
