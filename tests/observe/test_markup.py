"""What is not HTML already is escaped, whatever it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported_runs import ATTACK, read_page

from fedpeft_app.observe.report.markup import element, embedded, join, text


@given(st.text())
def test_a_reader_sees_what_was_written(content: str) -> None:
    read = read_page(element("p", content))
    hidden = {*map(chr, range(32)), "\x7f"} - {"\t", "\n"}
    kept = "".join("\ufffd" if one in hidden else one for one in content)
    assert [tag for tag, _ in read.tags] == ["p"]
    assert "".join(read.texts) == kept.encode("utf-8", "replace").decode()


@given(st.text())
def test_an_attribute_holds_what_was_written_and_nothing_else(content: str) -> None:
    ((tag, attributes),) = read_page(element("p", title=content)).tags
    assert (tag, set(attributes)) == ("p", {"title"})


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists))
def test_embedded_data_is_read_back_and_cannot_end_its_element(value: object) -> None:
    written = embedded(value)
    assert "<" not in written[len('<script type="application/json">') : -len("</script>")]
    ((kind, data),) = read_page(written).scripts
    assert (kind, json.loads(data)) == ("application/json", value)


def test_html_is_not_escaped_twice() -> None:
    assert element("p", element("b", "a & b")) == "<p><b>a &amp; b</b></p>"
    assert join(text("<"), None, "<") == "&lt;&lt;"


@pytest.mark.parametrize("lone", ["\ud800", "\x00", "\x1b[31m"])
def test_what_no_file_can_hold_is_marked(lone: str) -> None:
    element("p", lone, title=lone).encode()
    assert lone not in element("p", lone)


def test_attributes_without_a_value_are_told_from_none() -> None:
    assert element("details", open=True, hidden=False, title=None) == "<details open></details>"
    assert element("p", class_="a", data_tab="b") == '<p class="a" data-tab="b"></p>'


def test_an_attack_is_text() -> None:
    assert [tag for tag, _ in read_page(element("p", ATTACK, title=ATTACK)).tags] == ["p"]
