"""What chooses one state among several."""

from collections.abc import Mapping

import pytest

from fedpeft_app.criterion import UNRATED, Criterion

NAN = float("nan")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"accuracy": 0.6, "loss": 9.0}, {"accuracy": 0.5, "loss": 1.0}),
        ({"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.5, "loss": 9.0}),  # among equals the loss
        ({"accuracy": 0.5}, {"accuracy": NAN, "loss": 0.0}),
        ({"accuracy": 0.0, "loss": 9.0}, {"loss": 0.0}),
    ],
)
def test_more_is_better(better: Mapping[str, float], worse: Mapping[str, float]) -> None:
    rate = Criterion(metric="accuracy").rate
    assert rate(better) > rate(worse)


def test_less_is_better_of_what_the_task_says() -> None:
    rate = Criterion(metric="perplexity", lower_is_better=True).rate
    assert rate({"perplexity": 3.0}) > rate({"perplexity": 4.0}) > rate({"perplexity": NAN})


@pytest.mark.parametrize("metrics", [{}, {"loss": 0.0}, {"auroc": NAN, "loss": 0.0}])
def test_without_a_value_there_is_no_rating(metrics: Mapping[str, float]) -> None:
    assert Criterion(metric="auroc").rate(metrics) == UNRATED
