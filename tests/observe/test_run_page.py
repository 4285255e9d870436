"""A run's page, from the journals of real runs: what it says, and what it does not."""

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import short_run
from reported_runs import ATTACK, KINDS, Read, page_of, read_page, reported

from fedpeft_app.config import defaults
from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.observe.report.run import RunStory
from fedpeft_app.observe.report.run_page import run_page
from fedpeft_app.runs.directory import RunFolder

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path
) -> Iterator[dict[str, RunFolder]]:
    """A run of every kind."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            patch.setenv("FEDPEFT_HOME", str(tmp_path_factory.mktemp(kind)))
            made[kind] = reported(kind, short_run(tiny_model, tiny_data))
    yield made


@pytest.fixture(scope="module")
def pages(runs: dict[str, RunFolder]) -> dict[str, Read]:
    return {kind: read_page(page_of(run)) for kind, run in runs.items()}


def story(events: list[dict[str, Any]], standing: str = "finished", **config: Any) -> RunStory:
    return RunStory(
        name="made-up",
        standing=standing,
        events=events,
        config={**defaults(), **config},
        defaults=defaults(),
    )


# ------------------------------------------------------------------ every kind of run


@every_kind
def test_every_kind_of_run_has_a_page_with_its_name_and_settings(
    kind: str, runs: dict[str, RunFolder], pages: dict[str, Read]
) -> None:
    read = pages[kind]
    assert runs[kind].path.name in read.text
    assert {"settings", "environment", "journal"} <= read.ids()
    assert str(runs[kind].config()["data.name"]) in read.text


@every_kind
def test_what_nodes_say_is_text_and_never_more(kind: str, pages: dict[str, Read]) -> None:
    read = pages[kind]
    assert {kind for kind, _ in read.scripts} == {"application/json", ""} or read.scripts
    assert [kind for kind, _ in read.scripts].count("") == 1
    assert "img" not in {tag for tag, _ in read.tags}
    assert not {name for _, one in read.tags for name in one if name.startswith("on")}


@every_kind
def test_a_page_leads_nowhere_but_to_itself(kind: str, pages: dict[str, Read]) -> None:
    read = pages[kind]
    leading = [one[name] for _, one in read.tags for name in ("href", "src") if name in one]
    assert {str(place) for place in leading if not str(place).startswith("#")} == {"data:,"}
    anchors = {str(place)[1:] for place in leading if str(place).startswith("#")}
    assert anchors <= read.ids()


@every_kind
def test_the_same_journal_makes_the_same_page(kind: str, runs: dict[str, RunFolder]) -> None:
    assert page_of(runs[kind]) == page_of(runs[kind])


@every_kind
def test_every_table_and_chart_can_be_heard(kind: str, pages: dict[str, Read]) -> None:
    for tag, one in pages[kind].tags:
        if tag == "th":
            assert one["scope"] in ("col", "row")
        if tag == "svg" and one.get("aria-hidden") != "true" and one.get("class") != "lines":
            assert one["role"] == "img"
            assert one["aria-label"]
        if one.get("role") == "region":
            assert one["aria-label"]
            assert one["tabindex"] == "0"


def test_the_policy_allows_the_pages_own_script_and_style_alone(
    runs: dict[str, RunFolder],
) -> None:
    page = page_of(runs["finished"])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    policy = policy.replace("&#x27;", "'")
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    for name, tag in (("style-src", "style"), ("script-src", "script")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert parts[name] == f"'sha256-{digest}'"
    assert parts["default-src"] == "'none'"
    assert "style=" not in re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)


# ------------------------------------------------------------------ what each says


def test_figures_are_those_of_the_journal(
    runs: dict[str, RunFolder], pages: dict[str, Read]
) -> None:
    finished, text = runs["finished"].events()[-1], pages["finished"].text
    assert f"test accuracy {finished['test']['accuracy']:.4f}" in text
    assert human_bytes(finished["bytes_per_message"]) in text
    assert f"down, server to nodes {human_bytes(finished['down'])}" in text
    assert f"up, nodes to server {human_bytes(finished['up'])}" in text
    for event in runs["finished"].events():
        if event["event"] == "round_finished":
            assert f"{event['train_loss']:.4f}" in text
            assert f"{event['validation']['accuracy']:.4f}" in text


def test_a_reason_is_given_word_for_word(pages: dict[str, Read]) -> None:
    assert ATTACK in pages["finished"].text
    assert f"{ATTACK} 2: 1–2 2" in pages["finished"].text  # node 2, rounds 1 and 2, two replies


def test_a_failed_run_says_why_and_shows_no_result(
    runs: dict[str, RunFolder], pages: dict[str, Read]
) -> None:
    read = pages["failed"]
    assert "It failed" in read.text
    assert "0 of 4 replies were good" in read.text
    assert f"fedpeft run --resume {runs['failed'].path.name}" in read.text
    assert not read.ids() & {"curves", "rounds"}
    assert "test accuracy" not in read.text


def test_a_killed_run_says_how_far_it_got(pages: dict[str, Read]) -> None:
    assert "ended before it was done" in pages["killed"].text
    assert "1 of 2 rounds had ended" in pages["killed"].text
    assert "asked; no answer is in the journal" in pages["killed"].text
    assert "test accuracy over" not in pages["killed"].text


def test_a_run_under_way_says_so(runs: dict[str, RunFolder]) -> None:
    read = read_page(run_page(story(runs["killed"].events(), "running")))
    assert "still under way" in read.text
    assert "This is how it stood at" in read.text
    assert "--resume" not in read.text


def test_a_run_of_which_nothing_is_known_has_a_page() -> None:
    read = read_page(run_page(story([], "unfinished")))
    assert "0 of 5 rounds had ended" in read.text
    assert not read.ids() & {"curves", "rounds", "bytes", "clients", "privacy", "journal"}


def test_a_resumed_run_says_where_it_went_on(pages: dict[str, Read]) -> None:
    assert "It went on after round 1." in pages["resumed"].text


@pytest.mark.parametrize("kind", ["sample", "user"])
def test_the_privacy_statement_is_given_row_by_row(
    kind: str, runs: dict[str, RunFolder], pages: dict[str, Read]
) -> None:
    stated = [e for e in runs[kind].events() if e["event"] == "privacy_statement"][-1]
    text = pages[kind].text
    for name, row in stated["rows"].items():
        assert f"{name} {' '.join(row.split())}" in text


@pytest.mark.parametrize("kind", ["finished", "failed", "local"])
def test_without_privacy_nothing_is_said_of_it(kind: str, pages: dict[str, Read]) -> None:
    assert "privacy" not in pages[kind].ids()
    assert "ε" not in pages[kind].text


def test_a_user_level_run_keeps_who_took_part_to_itself(
    runs: dict[str, RunFolder], pages: dict[str, Read]
) -> None:
    read = pages["user"]
    assert "secret" in read.text
    assert "this is what was expected before the run" in read.text
    assert "down, server to nodes expected: " in read.text
    marks = {"good", "failed", "waiting", "surplus"}
    assert not marks & {one.get("class") for tag, one in read.tags if tag in ("td", "span")}
    kept = runs["user"].secret.read_text(encoding="utf-8")
    runs["user"].secret.rename(runs["user"].secret.with_suffix(".away"))
    try:
        assert read_page(page_of(runs["user"])).text == read.text
    finally:
        runs["user"].secret.write_text(kept, encoding="utf-8")


def test_nodes_alone_are_listed_and_send_nothing(pages: dict[str, Read]) -> None:
    assert "alone" in pages["local"].ids()
    assert not pages["local"].ids() & {"curves", "bytes"}
    assert "mean test accuracy" in pages["local"].text


def test_pooled_data_send_nothing_either(pages: dict[str, Read]) -> None:
    assert "curves" in pages["central"].ids()
    assert "bytes" not in pages["central"].ids()
    assert "over bytes" not in pages["central"].text


def test_a_run_says_what_it_was_made_with(
    runs: dict[str, RunFolder], pages: dict[str, Read]
) -> None:
    started = next(e for e in runs["finished"].events() if e["event"] == "run_started")
    for name, version in started["environment"].items():
        assert f"{name} {version}" in pages["finished"].text


def test_an_older_journal_is_not_said_to_say_it(runs: dict[str, RunFolder]) -> None:
    events = [
        {key: value for key, value in event.items() if key != "environment"}
        for event in runs["finished"].events()
    ]
    assert "this journal does not say" in read_page(run_page(story(events))).text


def test_what_was_no_number_is_a_dash_and_breaks_the_line() -> None:
    def ended(number: int, accuracy: float | None) -> dict[str, Any]:
        measured = {"accuracy": accuracy, "loss": None}
        return {"event": "round_finished", "round": number, "rounds": 3, "validation": measured}

    events = [ended(1, 0.5), ended(2, None), ended(3, 0.625)]
    text = read_page(run_page(story(events, "unfinished", rounds=3))).text
    assert "round validation set 1 0.5000 2 – 3 0.6250" in text
    assert "nan" not in text.lower()


# ------------------------------------------------------------------ large runs


def large(nodes: int, rounds: int) -> list[dict[str, Any]]:
    """Make up the journal of a large run, about a tenth of whose nodes fail in every round."""
    everyone = [str(node) for node in range(nodes)]
    call = {"event": "roll_call", "examples": dict.fromkeys(everyone, 9), "refused": {}}
    events: list[dict[str, Any]] = [call]
    for number in range(1, rounds + 1):
        events.append({"event": "round_started", "round": number, "cohort": everyone})
        bad = {node: f"node {node} ran out of memory" for node in everyone[number % 10 :: 10]}
        for node in everyone:
            problem = bad.get(node, "")
            events.append({"event": "reply", "round": number, "node": node, "problem": problem})
        sent = {"down": 300_000, "up": 300_000, "payload": 590_000}
        judged = {"accuracy": 1 - 1 / (number + 1), "loss": 1 / number}
        events.append(
            {
                "event": "round_finished",
                "round": number,
                "rounds": rounds,
                "metric": "accuracy",
                "train_loss": 1 / number,
                "ok": nodes - len(bad),
                "failed": len(bad),
                "down": nodes * 300_000,
                "up": nodes * 300_000,
                "rejected": bad,
                "nodes": {node: {} for node in everyone if node not in bad},
                "bytes_by_node": dict.fromkeys(everyone, sent),
                "validation": judged,
                "test": judged,
            }
        )
    return events


def test_a_large_run_has_a_small_page() -> None:
    page = run_page(story(large(nodes=1000, rounds=50), "unfinished", rounds=50))
    assert len(page.encode()) < 1_000_000
    assert "900 more are left out" in page


def test_a_long_run_has_a_small_page_too() -> None:
    page = run_page(story(large(nodes=4, rounds=5000), "unfinished", rounds=5000))
    assert len(page.encode()) < 5_000_000
    assert "The last 500 of 5,000 rounds are listed." in page
