"""Updates that are kept come back bit for bit, or not at all."""

import pytest

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import WireError
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.kept import pack, unpack
from fedpeft_app.wire.record import CONTROL, DELTA, Update, section_of


@pytest.fixture
def update(spec: AdapterSpec, state: AdapterState) -> Update:
    sections = [
        section_of(DELTA, state, parse_codec("topk(0.5)+int8")),
        section_of(CONTROL, AdapterState.zeros(spec)),
    ]
    return Update(
        spec=spec,
        sections=sections,
        round_number=3,
        metrics={"num-examples": 1.0, "epsilon": 2.5},
        facts={"process": "abc", "threads": 2},
    )


def test_an_update_comes_back_as_it_was(update: Update) -> None:
    again = unpack(pack(update), update.spec)
    assert (again.round_number, again.metrics, again.facts) == (
        update.round_number,
        update.metrics,
        update.facts,
    )
    for mine, theirs in zip(update.sections, again.sections, strict=True):
        assert (mine.name, mine.codec.name) == (theirs.name, theirs.codec.name)
        assert bytes(mine.data) == bytes(theirs.data)


def test_other_bytes_are_no_update(update: Update) -> None:
    whole = pack(update)
    for wrong in (b"", whole[:3], whole[:40], whole[:-1], whole[4:], b"\0" * len(whole)):
        with pytest.raises(WireError):
            unpack(wrong, update.spec)
