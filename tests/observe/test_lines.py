"""Events in words."""

from typing import Any

import pytest

from fedpeft_app.observe.lines import describe, headline, human_bytes, hung, last_statement


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (9 * 1024 + 512, "9.5 KiB"),
        (325_632, "318 KiB"),
        (2**20 - 1, "1.0 MiB"),  # not 1024 KiB
        (87 * 2**20, "87 MiB"),
        (2**30 + 2**28, "1.2 GiB"),
        (3 * 2**50, "3072.0 TiB"),
    ],
)
def test_bytes_have_binary_units(count: int, words: str) -> None:
    assert human_bytes(count) == words


_ROUND = {
    "event": "round_finished",
    "round": 2,
    "rounds": 5,
    "ok": 3,
    "failed": 1,
    "train_loss": 0.12345,
    "down": 4096,
    "up": 2**21,
    "seconds": 1.25,
}
_FINISHED = {
    "event": "run_finished",
    "seconds": 61.04,
    "folder": "/runs/demo",
    "adapter": "/runs/demo/adapter",
    "round": 4,
    "chosen": "best on validation data",
    "test": {"accuracy": 0.94375, "macro-f1": 0.87654, "loss": 0.2},
    "bytes_per_message": 325_632,
    "full_bytes_per_message": 87 * 2**20,
    "times_fewer": 280.16,
    "backbone_bytes": 87 * 2**20,
}

_SAID: list[tuple[dict[str, Any], str | None]] = [
    (
        {
            "event": "run_started",
            "run": "demo",
            "mode": "federated",
            "method": "lora",
            "model": "org/base",
            "trainable": 76_808,
            "parameters": 22_716_296,
        },
        "run demo: federated, lora on org/base, 76,808 of 22,716,296 parameters travel",
    ),
    (
        {"event": "roll_call", "examples": {"0": 1200, "1": 34}, "refused": {}},
        "2 nodes hold 1,234 training examples (34 to 1,200)",
    ),
    (
        {"event": "roll_call", "examples": {"0": 5}, "refused": {"77": "other torch"}},
        "1 node holds 5 training examples (5 to 5)\n  refused 77: other torch",
    ),
    (
        {"event": "reply", "round": 3, "node": 7, "problem": "out of memory"},
        "round 3: node 7 failed: out of memory",
    ),
    (  # which is no failure
        {"event": "reply", "round": 3, "node": 7, "problem": "sits out: Round 3 would …"},
        "round 3: node 7 sits out: Round 3 would …",
    ),
    ({"event": "reply", "round": 3, "node": 7, "problem": ""}, None),
    (
        {
            **{key: _ROUND[key] for key in ("event", "round", "rounds", "ok")},
            "failed": 3,
            "rejected": {"1": "sits out: Round 2 would …", "2": "lost", "5": "sits out: Round 2 …"},
        },
        "round 2/5 | clients 3 ok, 2 sit out, 1 failed",
    ),
    (
        _ROUND,
        "round 2/5 | clients 3 ok, 1 failed | train loss 0.123 | 4.0 KiB down, 2.0 MiB up | 1.2 s",
    ),
    (  # who was drawn, and all that follows from it, may be secret
        {
            **{key: _ROUND[key] for key in ("event", "round", "rounds")},
            "epsilon": 1.234,
            "test": {"accuracy": 0.5},
            "expected": {"clients": 2.5, "down": 4096, "up": 2**21},
        },
        (
            "round 2/5 | epsilon 1.24 | test accuracy 0.5000 | expected: 2.5 clients, "
            "4.0 KiB down, 2.0 MiB up"
        ),
    ),
    (  # what is missing is not said
        {key: _ROUND[key] for key in ("event", "round", "rounds")},
        "round 2/5",
    ),
    (
        {
            **_ROUND,
            "test": {"accuracy": 0.5},
            "clients": {
                "mean": 0.75,
                "worst": 0.25,
                "worst_decile": 0.25,
                "nodes": {"0": 1, "1": 2},
            },
        },
        (
            "round 2/5 | clients 3 ok, 1 failed | train loss 0.123 | test accuracy 0.5000 | "
            "client accuracy 0.7500 (worst 0.2500) | 4.0 KiB down, 2.0 MiB up | 1.2 s"
        ),
    ),
    (  # a task may go by another metric, and measure the test set only once
        {**_ROUND, "metric": "loss", "validation": {"loss": 1.5, "accuracy": 0.5}},
        (
            "round 2/5 | clients 3 ok, 1 failed | train loss 0.123 | validation loss 1.5000 | "
            "4.0 KiB down, 2.0 MiB up | 1.2 s"
        ),
    ),
    (  # AUROC is undefined where a label is missing
        {**_ROUND, "metric": "auroc", "test": {"loss": 1.5, "accuracy": 0.5}},
        (
            "round 2/5 | clients 3 ok, 1 failed | train loss 0.123 | test accuracy 0.5000 | "
            "4.0 KiB down, 2.0 MiB up | 1.2 s"
        ),
    ),
    (
        {"event": "node_finished", "node": 3, "test": {"accuracy": 0.5}},
        "node 3 alone: test accuracy 0.5000",
    ),
    (
        _FINISHED,
        (
            "run finished in 61.0 s: /runs/demo\n"
            "test accuracy 0.9437, macro-F1 0.8765 (round 4, best on validation data)\n"
            "318 KiB per client, round and direction: 280 times fewer bytes than full fine-tuning "
            "(87 MiB); the model itself, once per node: 87 MiB\n"
            "adapter: /runs/demo/adapter (its README.md shows how to load it)"
        ),
    ),
    (  # the loss is what a language model is judged by
        {
            **_FINISHED,
            "metric": "loss",
            "test": {"loss": 1.5, "perplexity": 4.4817, "accuracy": 0.5},
            "bytes_per_message": 0,
            "adapter": "",
        },
        (
            "run finished in 61.0 s: /runs/demo\n"
            "test loss 1.5000, perplexity 4.4817, accuracy 0.5000 (round 4, best on validation "
            "data)"
        ),
    ),
    (  # what nodes report on comes before what chose the round
        {
            **_FINISHED,
            "test": {},
            "clients": {"metric": "loss", "mean": 9.0, "worst": 9, "worst_decile": 9, "nodes": {}},
            "clients_test": {
                "metric": "loss",
                "mean": 1.5,
                "worst": 3.0,
                "worst_decile": 2.5,
                "nodes": {"0": 0.0, "1": 3.0},
            },
            "bytes_per_message": 0,
            "adapter": "",
        },
        (
            "run finished in 61.0 s: /runs/demo\n"
            "loss on what 2 nodes hold out to report on: mean 1.5000, worst decile 2.5000, worst "
            "3.0000 (round 4, best on validation data)"
        ),
    ),
    (
        {**_FINISHED, "test": {"accuracy": 0.5}, "bytes_per_message": 0, "adapter": ""},
        (
            "run finished in 61.0 s: /runs/demo\ntest accuracy 0.5000 (round 4, best on validation "
            "data)"
        ),
    ),
    (
        {
            **_FINISHED,
            "test": {},
            "nodes": {"mean": 0.5, "worst": 0.25, "best": 0.75},
            "bytes_per_message": 0,
        },
        (
            "run finished in 61.0 s: /runs/demo\n"
            "test accuracy over nodes: mean 0.5000, worst 0.2500, best 0.7500\n"
            "adapter: /runs/demo/adapter (its README.md shows how to load it)"
        ),
    ),
    ({"event": "run_failed", "problem": "too few replies"}, "run failed: too few replies"),
    ({"event": "round_started", "round": 1}, None),
    ({"event": "an event of a later version"}, None),
]


@pytest.mark.parametrize(("event", "words"), _SAID, ids=lambda value: str(value)[:40])
def test_an_event_reads_like_this(event: dict[str, Any], words: str | None) -> None:
    assert describe(event) == words


@pytest.mark.parametrize(
    ("event", "figure"),
    [
        ({"test": {"accuracy": 0.5, "loss": 1.0}}, ("accuracy", 0.5)),
        ({"metric": "loss", "test": {"accuracy": 0.5, "loss": 1.0}}, ("loss", 1.0)),
        ({"metric": "auroc", "test": {"accuracy": 0.5, "loss": 1.0}}, ("accuracy", 0.5)),
        (
            {"test": {}, "clients": {"mean": 0.75}, "clients_test": {"mean": 0.25}},
            ("accuracy (nodes)", 0.25),  # journals of earlier versions do not name the metric
        ),
        ({"test": {}, "clients": {"metric": "loss", "mean": 2.0}}, ("loss (nodes)", 2.0)),
        (
            {"test": {}, "clients_accuracy": {"metric": "accuracy", "mean": 0.5}},
            ("accuracy (nodes)", 0.5),
        ),
        ({"test": {}}, None),
        ({}, None),
    ],
)
def test_one_figure_sums_a_run_up(event: dict[str, Any], figure: tuple[str, float] | None) -> None:
    assert headline(event) == figure


def test_long_lines_hang_below_their_beginning() -> None:
    text = "statement\n  privacy: " + "ten digits " * 5
    assert hung(text, 40).splitlines() == [
        "statement",
        "  privacy: ten digits ten digits ten",
        "    digits ten digits ten digits",
    ]
    assert hung(text, 3) == hung(text, 40)
    assert hung(text, 200) == text.rstrip()


_ASKED = {"event": "round_started"}
_CALLED = {"event": "roll_call"}
_FAILED = {"event": "run_failed"}


def _rows(text: str, *, final: bool = False) -> dict[str, Any]:
    return {"event": "privacy_statement", "rows": {"privacy": text}, "final": final}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], ""),  # nobody was there to ask
        ([_CALLED, _ASKED], "not known: no round has ended"),
        ([_CALLED, _ASKED, _rows("(1, δ)")], "(1, δ)"),
        ([_CALLED, _ASKED, _rows("(1, δ)"), _ASKED], "(1, δ)"),
        ([_CALLED, _ASKED, _rows("(1, δ)"), _rows("(1, δ)", final=True)], ""),  # shown already
        ([_CALLED, _ASKED, _rows("(1, δ)", final=True), _ASKED], "(1, δ)"),  # it went on
        ([_CALLED, _FAILED], ""),  # before anybody was asked
    ],
)
def test_a_run_that_is_stopped_says_what_it_guarantees(
    events: list[dict[str, Any]], said: str
) -> None:
    rows = last_statement(events).splitlines()[1:]
    since = "  since then: one round more may have been spent, which the books have"
    assert rows == ([f"  privacy: {said}", since] if said else [])


def test_a_resumed_run_says_from_where_with_what_and_what_was_found() -> None:
    event = {
        "event": "run_resumed",
        "round": 3,
        "rounds": 8,
        "changed": {"rounds": 8},
        "problems": ["The checkpoint of round 4 is damaged."],
    }
    assert describe(event) == (
        "run goes on after round 3/8, with rounds = 8\n  The checkpoint of round 4 is damaged."
    )
    assert describe({**event, "changed": {}, "problems": []}) == "run goes on after round 3/8"
    damaged = {"event": "checkpoint_damaged", "round": 2, "problem": "It is cut."}
    assert describe(damaged) == "round 2 may not be exported: It is cut."
    mind = {**event, "problems": [], "versions": {"torch": "2.6, now 2.7"}}
    assert describe(mind) == (
        "run goes on after round 3/8, with rounds = 8\n  mind: it was made with torch 2.6, now 2.7"
    )


def test_evaluations_that_fail_are_told_of() -> None:
    failed = {"event": "evaluation_failed", "round": 3, "node": 2, "problem": "disk on fire"}
    assert describe(failed) == "round 3: node 2 did not evaluate: disk on fire"
    nobody = {"event": "nobody_judged", "round": 3, "failed": {"2": "disk on fire"}}
    assert describe(nobody) == ("round 3: 1 node asked to evaluate, none did; it goes on unjudged")


def test_a_metric_that_is_no_number_is_said_to_be_none() -> None:
    measured = {"loss": None, "accuracy": 0.5}
    event = {"event": "round_finished", "round": 1, "rounds": 2, "metric": "loss"}
    assert describe({**event, "test": measured}) == "round 1/2 | test loss not finite"
