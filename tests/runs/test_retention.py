"""Which checkpoints stay, by hand."""

import pytest

from fedpeft_app.runs.retention import Retention, retention

# Round 4 could not be judged.
RATINGS = {1: (0.5, 0.0), 2: (0.9, 0.0), 3: (0.9, 0.0), 5: (0.7, 0.0), 6: (0.1, 0.0)}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("last:1", {2, 6}),
        ("last:2", {2, 5, 6}),
        ("last:9", {1, 2, 3, 4, 5, 6}),
        ("last:1,best:1", {2, 6}),  # the first of equals
        ("last:1,best:3", {2, 3, 5, 6}),
        ("last:1,best:9", {1, 2, 3, 5, 6}),
        ("every:3", {2, 3, 6}),
        ("every:4", {2, 4, 6}),  # and the last and the best, always
        ("last:2, best:1, every:4", {2, 4, 5, 6}),
        ("last-best", {2, 5, 6}),
        ("all", {1, 2, 3, 4, 5, 6}),
    ],
)
def test_rules_by_hand(text: str, kept: set[int]) -> None:
    assert retention(text).kept(6, RATINGS) == kept


@pytest.mark.parametrize(
    "text", ["", "none", "last", "last:0", "last:-1", "best:x", "last:2;best:1", "every:1e3"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected 'last-best'"):
        retention(text)


def test_the_first_round_has_nothing_before_it() -> None:
    assert Retention(last=3, best=2, every=5).kept(1, {}) == {1}
