"""Payloads: bytes by hand, everything checked before anything is decoded, one kind of error."""

import json
import struct
import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpeft_app.adapters import AdapterSpec, TensorSpec
from fedpeft_app.errors import WireError
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.payload import Section, read, write

MOST = 1000  # values
CODECS = ["float32", "bfloat16", "int8", "int4", "topk(0.1)+int8", "threshold(0.5)+int8+zstd"]


def spec_of(*shapes: tuple[int, ...], method: str = "lora") -> AdapterSpec:
    tensors = tuple(TensorSpec(name=f"w{i}", shape=shape) for i, shape in enumerate(shapes))
    return AdapterSpec(method=method, backbone="b" * 16, tensors=tensors, ranks={"w": 4})


SPEC = spec_of((2, 3), (5,))
OTHER = spec_of((7,), method="control")
KNOWN = {SPEC.fingerprint: SPEC}


def section(
    name: str = "delta", spec: AdapterSpec = SPEC, codec: str = "float32", seed: int = 0
) -> Section:
    draws, chain = np.random.default_rng(seed), parse_codec(codec)
    vector = draws.standard_normal(spec.size).astype(np.float32)
    return Section(name=name, spec=spec, codec=chain, data=chain.encode(vector, draws))


def rows(*sections: Section) -> list[dict[str, Any]]:
    return [
        {
            "bytes": len(each.data),
            "codec": each.codec.name,
            "name": each.name,
            "spec": each.spec.fingerprint,
        }
        for each in sections
    ]


def spelt(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def forged(header: object, body: bytes = bytes(section().data) + bytes(4)) -> bytes:
    """Make a payload of any header: JSON text as it is, other values in the right spelling."""
    text = header if isinstance(header, str) else spelt(header)
    text += " " * (-(12 + len(text)) % 8)
    return b"fedpeft\x01" + struct.pack("<I", len(text)) + text.encode() + body


def changed(**fields: object) -> dict[str, Any]:
    """Give the header of a payload with one section, with other fields in its row."""
    return {"sections": [{**rows(section())[0], **fields}]}


def embedding(**fields: object) -> dict[str, Any]:
    """Give a header that embeds a spec with other fields, under what reads as its fingerprint."""
    value = {**json.loads(json.dumps(OTHER.to_json())), **fields}
    row = rows(section(spec=OTHER))[0]
    with suppress(
        TypeError, ValueError, AttributeError, OverflowError
    ):  # where it reads as nothing at all
        row["spec"] = AdapterSpec.from_json(value).fingerprint
    return {"sections": [row], "specs": [value]}


def tensor(**fields: object) -> list[dict[str, Any]]:
    return [{"name": "w0", "shape": [7], "head": False, "frozen": False, **fields}]


# ------------------------------------------------------------------ written and read


def test_the_bytes_are_magic_version_length_header_body() -> None:
    spec = spec_of((1,))
    one = Section(
        name="delta",
        spec=spec,
        codec=parse_codec("float32"),
        data=np.array([1.5], dtype="<f4").tobytes(),
    )
    row = f'{{"bytes":4,"codec":"float32","name":"delta","spec":"{spec.fingerprint}"}}'
    header = f'{{"sections":[{row}]}}' + 7 * " "  # 12 + 85 + 7 is a multiple of 8
    assert write([one], {spec.fingerprint}) == (
        b"fedpeft\x01\x5c\0\0\0" + header.encode() + b"\0\0\xc0\x3f" + bytes(4)
    )


def test_the_payload_of_one_section_costs_less_than_200_bytes() -> None:
    spec = spec_of((76_808,))
    one = section(spec=spec, codec="topk(0.1)+int8+zstd")
    assert len(write([one], {spec.fingerprint})) - len(one.data) < 200


@given(
    sections=st.dictionaries(
        st.from_regex("[a-z][a-z0-9-]{0,31}", fullmatch=True),
        st.tuples(st.sampled_from([SPEC, OTHER]), st.sampled_from(CODECS), st.integers(0, 9)),
        min_size=1,
        max_size=5,
    ),
    known=st.sampled_from([{}, KNOWN, {**KNOWN, OTHER.fingerprint: OTHER}]),
)
def test_sections_arrive_in_their_order_as_they_were(
    sections: dict[str, tuple[AdapterSpec, str, int]], known: Mapping[str, AdapterSpec]
) -> None:
    sent = [section(name, *rest) for name, rest in sections.items()]
    found = read(write(sent, known), known, MOST)
    assert [(s.name, s.spec, s.codec, bytes(s.data)) for s in found] == [
        (s.name, s.spec, s.codec, s.data) for s in sent
    ]
    for there, here in zip(found, sent, strict=True):
        assert there.decode().vector.tobytes() == here.decode().vector.tobytes()


def test_float32_values_are_viewed_in_place() -> None:
    sent = [section("first", codec="int8"), section("second")]
    payload = write(sent, KNOWN)
    second = read(payload, KNOWN, MOST)[1].decode().vector
    assert second.flags.aligned
    assert np.shares_memory(second, np.frombuffer(payload, dtype=np.uint8))


def test_a_spec_that_the_receiver_cannot_know_is_embedded_once() -> None:
    payload = write([section("a", OTHER), section("b", OTHER), section("c", SPEC)], KNOWN)
    assert payload.count(b'"control"') == 1
    assert [found.spec for found in read(payload, KNOWN, MOST)] == [OTHER, OTHER, SPEC]


def test_an_embedded_spec_that_the_receiver_has_is_no_harm() -> None:
    assert read(write([section()], {}), KNOWN, MOST)[0].spec is SPEC


def test_values_that_are_not_finite_arrive_for_the_guard_to_refuse() -> None:
    vector = np.full(SPEC.size, np.nan, dtype=np.float32)
    for codec in ("float32", "bfloat16", "topk(0.5)+float16"):
        chain = parse_codec(codec)
        data = chain.encode(vector, np.random.default_rng(0))
        sent = Section(name="delta", spec=SPEC, codec=chain, data=data)
        assert np.isnan(read(write([sent], KNOWN), KNOWN, MOST)[0].decode().vector).any()


def test_the_same_sections_give_the_same_bytes() -> None:
    assert write([section()], {}) == write([section()], {})


# ------------------------------------------------------------------ what cannot be written


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ([], "Expected sections with names of a letter"),
        ([section("Delta")], "Expected sections with names of a letter"),
        ([section("d" * 33)], "Expected sections with names of a letter"),
        ([section("a"), section("a")], "Expected different names of sections"),
    ],
)
def test_what_nobody_could_read_is_not_written(sections: list[Section], told: str) -> None:
    with pytest.raises(WireError, match=told):
        write(sections, KNOWN)


def test_a_header_beyond_a_mebibyte_is_not_written() -> None:
    tensor_spec = TensorSpec(name="w" * 2**20, shape=(1,))
    spec = AdapterSpec(method="lora", backbone="b", tensors=(tensor_spec,), ranks={})
    with pytest.raises(WireError, match=r"at most 1048576 bytes.*Embed fewer specs"):
        write([section(spec=spec)], {})


def test_a_spec_with_a_scaling_that_is_not_finite_is_not_written() -> None:
    spec = AdapterSpec(method="lora", backbone="b", tensors=(), ranks={}, scaling=float("nan"))
    with pytest.raises(WireError, match="Expected finite numbers"):
        write([section(spec=spec)], {})


# ------------------------------------------------------------------ what is refused


def test_what_is_forged_without_a_change_is_read() -> None:
    assert forged(changed()) == write([section()], KNOWN)
    assert read(forged(embedding(), bytes(28) + bytes(4)), KNOWN, MOST)[0].spec == OTHER


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"", "at least 12 bytes"),
        (b"fedpeft\x01\0\0\0", "at least 12 bytes"),
        (b"FEDPEFT\x01" + bytes(4), "starts with b'fedpeft' and version 1"),
        (b"fedpeft\x02" + bytes(4), "got b'fedpeft' and 2. Run the same fedpeft"),
        (b"fedpeft\x01" + struct.pack("<I", 2**20 + 1) + bytes(2**20 + 1), "at most 1048576"),
        (b"fedpeft\x01" + struct.pack("<I", 2**32 - 1), "got one of 4294967295"),
        (b"fedpeft\x01" + struct.pack("<I", 1), "within a payload of 12"),
    ],
)
def test_another_start_is_refused(start: bytes, told: str) -> None:
    with pytest.raises(WireError, match=told):
        read(start, KNOWN, MOST)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '"sections"',
        '{"sections":null}',
        '{"sections":7}',
        '{"sections":"abc"}',
        '{"sections":[]}',
        '{"sections":[7]}',
        '{"sections":[{}]}',
        "[" * 100_000,
        '{"sections":' * 100_000,
        spelt(changed()) + "x",
        "\n" + spelt(changed()),
        json.dumps(changed()),  # blanks
        spelt(changed()).replace('"bytes":44', '"bytes":44.0'),
        spelt(changed()).replace('"bytes":44', '"bytes":44,"bytes":44'),
        spelt(changed()).replace('"bytes":44', '"bytes":NaN'),
        spelt(changed()).replace('"bytes":44', '"bytes":' + "9" * 5000),
        spelt(changed()).replace('"delta"', '"\\u0064elta"'),
        changed() | {"specs": []},
        changed() | {"version": 1},
        changed(note="x"),
        changed(bytes="44"),
        changed(bytes=True),
        changed(bytes=-44),
        changed(bytes=10**4000),
        changed(codec=8),
        changed(name=None),
        changed(name=""),
        changed(name="d elta"),
        changed(name="../delta"),
        changed(name="délta"),
        changed(spec=["a"]),
        {"sections": rows(section(), section())},
    ],
    ids=lambda header: (header if isinstance(header, str) else spelt(header))[-60:],
)
def test_a_header_that_would_not_be_written_so_is_refused(header: object) -> None:
    with pytest.raises(WireError) as caught:
        read(forged(header), KNOWN, MOST)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"spec": "0" * 16}, "of an adapter that this side has, got '0000000000000000'"),
        ({"codec": "int9"}, "Section 'delta': unknown codec stage 'int9'"),
        ({"codec": "os:system"}, "unknown codec stage 'os:system'"),
        ({"codec": "x" * 10_000}, "a codec in 100 characters, got 10000"),
        ({"codec": "topk(1)+float32"}, r"of topk\(1.0\)\+float32, all of them"),
        ({"bytes": 45}, "in at most 44 bytes of float32"),
        ({"bytes": 2**62}, "in at most 44 bytes of float32"),
        ({"codec": "int8", "bytes": 44}, "in at most 13 bytes of int8"),
        ({"bytes": 32}, "Expected a body of 32 bytes, as its header says, got 48"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(WireError, match=told):
        read(forged(changed(**fields)), KNOWN, MOST)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "44 bytes of 'float32', 0 of them there"),
        (bytes(43), "43 of them there"),
        (bytes(44), "Expected a body of 48 bytes, as its header says, got 44"),
        (bytes(47), "Expected a body of 48 bytes, as its header says, got 47"),
        (bytes(49), "Expected a body of 48 bytes, as its header says, got 49"),
        (bytes(44) + b"\0\0\0\1", "Expected zeros behind section 'delta'"),
    ],
)
def test_a_body_that_does_not_add_up_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(WireError, match=told):
        read(forged(changed(), body), KNOWN, MOST)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": 7},
        {"backbone": None},
        {"scaling": 1},
        {"scaling": "1.0"},
        {"scaling": [1.0]},
        {"scaling": True},
        {"scaling": 10**400},
        {"ranks": []},
        {"ranks": {"w": 0}},
        {"ranks": {"w": 4.0}},
        {"ranks": {"w": True}},
        {"ranks": None},
        {"tensors": None},
        {"tensors": "abc"},
        {"tensors": [7]},
        {"tensors": tensor(name=7)},
        {"tensors": tensor(head=0)},
        {"tensors": tensor(shape=7)},
        {"tensors": tensor(shape="7")},
        {"tensors": tensor(shape=[7.0])},
        {"tensors": tensor(shape=[True])},
        {"tensors": tensor(shape=[-7])},
        {"tensors": tensor(shape=[MOST + 1])},
        {"tensors": tensor(shape=[10**4000])},
        {"tensors": tensor(shape=[1] * 9)},
        {"tensors": tensor(dtype="float32")},
        {"tensors": tensor() + tensor()},
        {"comment": "x"},
    ],
    ids=lambda fields: spelt(fields)[-40:],
)
def test_an_embedded_spec_that_is_not_one_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(WireError, match="Expected the header|Expected different names of tensors"):
        read(forged(embedding(**fields), bytes(32)), KNOWN, MOST)


def test_an_embedded_spec_belongs_to_a_section() -> None:
    header = embedding() | {"sections": rows(section())}
    with pytest.raises(WireError, match="Expected embedded specs of the sections' adapters"):
        read(forged(header), KNOWN, MOST)


def test_an_embedded_spec_occurs_once() -> None:
    header = embedding()
    header["specs"] *= 2
    with pytest.raises(WireError, match="Expected different embedded specs"):
        read(forged(header, bytes(32)), KNOWN, MOST)


def test_all_sections_together_stay_within_the_limit() -> None:
    payload = write([section("a"), section("b")], KNOWN)
    assert len(read(payload, KNOWN, 2 * SPEC.size)) == 2
    with pytest.raises(WireError, match="Expected at most 21 values in a payload, got 22"):
        read(payload, KNOWN, 2 * SPEC.size - 1)


def test_axes_that_multiply_beyond_the_limit_are_refused() -> None:
    spec = spec_of((MOST,) * 8)
    row = {**rows(section())[0], "spec": spec.fingerprint, "codec": "topk(1e-20)+int8", "bytes": 8}
    header = {"sections": [row], "specs": [json.loads(json.dumps(spec.to_json()))]}
    with pytest.raises(WireError, match="Expected at most 1000 values"):
        read(forged(header, bytes(8)), KNOWN, MOST)


# ------------------------------------------------------------------ whatever arrives

PAYLOAD = write(
    [
        section("delta", codec="int8"),
        section("control", OTHER),
        section("x", codec="topk(0.3)+int4"),
    ],
    KNOWN,
)


def read_and_decode(data: bytes) -> None:
    for found in read(data, KNOWN, MOST):
        assert found.decode().vector.shape == (found.spec.size,)


@pytest.mark.parametrize("length", range(len(PAYLOAD)))
def test_a_payload_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(WireError):
        read_and_decode(PAYLOAD[:length])


@settings(max_examples=500)
@given(
    bits=st.sets(st.integers(0, 8 * len(PAYLOAD) - 1), min_size=1, max_size=3),
    cut=st.integers(0, len(PAYLOAD)),
    turn=st.sampled_from([0, 1]),
)
def test_a_damaged_payload_is_read_or_refused(bits: set[int], cut: int, turn: int) -> None:
    data = bytearray(PAYLOAD)
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    cut *= turn  # half of them are not turned, so that the header's rules are met
    try:
        read_and_decode(bytes(data[cut:] + data[:cut]))
    except WireError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["sections", "specs", "bytes", "codec", "name", "tensors", "shape"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(
    header=JSON, fields=st.dictionaries(st.sampled_from(["bytes", "codec", "name", "spec"]), JSON)
)
def test_any_header_is_read_or_refused(header: object, fields: dict[str, object]) -> None:
    for value in (header, changed(**fields)):
        try:
            read_and_decode(forged(value))
        except WireError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        forged(changed(bytes=2**62)),
        forged(embedding(tensors=tensor(shape=[10**12]))),
        b"fedpeft\x01" + struct.pack("<I", 2**32 - 1) + bytes(100),
        forged('{"sections":' + "[" * 100_000),
    ],
    ids=["length", "shape", "header", "nesting"],
)
def test_memory_is_bounded_whatever_is_claimed(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(WireError):
        read_and_decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
