"""Options → arguments: checked where an annotation says what is wanted, else left alone."""

from collections.abc import Mapping
from typing import Any, Literal

import pytest

from fedpeft_app.config.arguments import typed


class Own:
    """A class that JSON has no form of."""


class Plugin:
    """What options are for."""

    def __init__(
        self,
        *,
        rate: float = 1.0,
        steps: int = 1,
        often: bool = False,
        kind: Literal["a", "b"] = "a",
        weights: Mapping[str, float] | None = None,
        sizes: tuple[int, ...] = (),
        own: Own | None = None,
        bare=None,
        **more: Any,
    ) -> None:
        pass


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rate": 3}, {"rate": 3.0}),
        ({"sizes": [1, 2]}, {"sizes": (1, 2)}),
        ({"weights": {"a": 1}}, {"weights": {"a": 1.0}}),
        ({"weights": None}, {"weights": None}),
        ({"own": 3, "bare": "x", "unheard": [1]}, {"own": 3, "bare": "x", "unheard": [1]}),
    ],
)
def test_a_value_is_what_its_annotation_says(given: Any, expected: Any) -> None:
    found = typed(Plugin, given)
    assert found == expected
    assert all(type(found[name]) is type(value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"often": "false"}, "often must be a valid boolean, got 'false'"),
        ({"steps": True}, "steps must be a valid integer, got True"),
        ({"steps": 1.0}, "steps must be a valid integer, got 1.0"),
        ({"rate": "1"}, "rate must be a valid number, got '1'"),
        ({"kind": "c"}, "kind must be 'a' or 'b', got 'c'"),
        ({"weights": {"x": {"y": "1"}}}, "weights.x must be a valid number, got {'y': '1'}"),
    ],
)
def test_a_value_of_another_type_is_named(given: Any, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        typed(Plugin, given)
    assert str(caught.value) == complaint


def test_names_for_type_checkers_only_check_nothing() -> None:
    def plugin(steps: "Nowhere") -> None:  # noqa: F821
        pass

    assert typed(plugin, {"steps": "many"}) == {"steps": "many"}
