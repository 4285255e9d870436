"""Whole private runs in one process: what is guaranteed, what is told, and what ends a run."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid, read_events
from private_settings import SAMPLE, USER

from fedpeft_app.cli.preflight import preflight_faults
from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import (
    BudgetSpentError,
    ConfigError,
    PrivacyError,
    QuorumError,
    RollCallError,
    TrainingError,
)
from fedpeft_app.mirrors import home
from fedpeft_app.node.book import Book
from fedpeft_app.node.memory import PRIVACY, memory_of
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.statement import shown
from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.strategies.strategy import Reply

SEEDED = {"privacy.unsafe-seed": 3}
EVERYONE = {"strategy.fraction-train": 1.0}


def run(settings: dict[str, Any], nodes: int = 4, grid: LocalGrid | None = None) -> Any:
    """Run a federation and give its folder."""
    return coordinate(grid or LocalGrid(nodes, settings), parse(settings), run_id=12345678901)


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


def node_epsilon(settings: dict[str, Any], examples: int, rounds: int) -> float:
    """ε of a node that trained in so many rounds, worked out from n, B and z alone."""
    batch = settings["train.batch-size"]
    steps = -(-examples // batch) * rounds
    event = Event(noise_multiplier=1.0, sampling=min(1.0, batch / examples), steps=steps)
    return epsilon([event], 1e-5)


# ------------------------------------------------------------------ sample level


def test_a_private_run_says_what_it_guarantees(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SAMPLE, **EVERYONE, "rounds": 3}
    folder = run(settings)
    events = read_events(folder.journal)
    told = [event["epsilon"] for event in named(events, "round_finished")]
    sizes = [len_of(settings, node) for node in range(4)]
    expected = [max(node_epsilon(settings, size, r) for size in sizes) for r in (1, 2, 3)]
    assert told == pytest.approx(expected)
    (final,) = [event for event in named(events, "privacy_statement") if event["final"]]
    card = (folder.adapter / "README.md").read_text()
    for text in final["rows"].values():
        assert text in card
    assert "against" in final["rows"]
    steps = 3 * -(-max(sizes) // settings["train.batch-size"])
    assert "noise of z = 1 times that on their sum; Poisson" in final["rows"]["mechanism"]
    assert f"{steps} steps on each node" in final["rows"]["mechanism"]
    assert final["epsilon"] == max(final["nodes"].values()) == told[-1]
    assert sorted(final["nodes"]) == ["0", "1", "2", "3"]


def len_of(settings: dict[str, Any], node: int) -> int:
    from fedpeft_app.assembly import make_worker

    place = {"partition-id": node, "num-partitions": 4}
    return len(make_worker(parse(settings), place).train)


def test_nothing_else_of_the_data_is_sent(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SAMPLE}
    grid = LocalGrid(4, settings)
    folder = run(settings, grid=grid)
    replies = [one for one in grid.received if one.metadata.message_type == "train"]
    assert replies
    for reply in replies:
        assert set(reply.content["metrics"]) == {
            *("num-examples", "epsilon", "epsilon-unamplified"),
            *("noise-multiplier", "sampling", "steps"),  # from which the two follow
        }
        assert reply.content["metrics"]["num-examples"] == 1
        assert set(reply.content["config"]) <= {
            *("spec", "round", "process", "backbone-loads", "threads")
        }
    (call,) = named(read_events(folder.journal), "roll_call")
    assert set(call["examples"].values()) == {1}
    assert not call["counted"]
    assert all(
        event["train_loss"] is None
        for event in named(read_events(folder.journal), "round_finished")
    )


def test_public_counts_weigh(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SAMPLE, "privacy.public-counts": True}
    grid = LocalGrid(4, settings)
    run(settings, grid=grid)
    replies = [one for one in grid.received if one.metadata.message_type == "train"]
    assert all(reply.content["metrics"]["num-examples"] > 1 for reply in replies)


def test_secure_runs_differ_and_seeded_ones_do_not(tiny_settings: dict[str, Any]) -> None:
    def bits(**more: Any) -> bytes:
        folder = run({**tiny_settings, **SAMPLE, **more})
        return load_checkpoint(folder, 2).state.vector.tobytes()

    assert bits() != bits()
    assert bits(**SEEDED) == bits(**SEEDED)


def test_a_seeded_run_says_that_it_is_unsafe(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, **SAMPLE, **SEEDED})
    assert "UNSAFE" in (folder.adapter / "README.md").read_text()


@pytest.mark.parametrize("mode", ["central", "local"])
def test_baselines_are_private_too(mode: str, tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SAMPLE, "mode": mode}
    events = read_events(run(settings).journal)
    (final,) = [event for event in named(events, "privacy_statement") if event["final"]]
    nodes = 1 if mode == "central" else 4
    assert final["rows"]["epsilon of each node"].count(":") == nodes


def test_with_little_noise_a_private_run_learns(tiny_settings: dict[str, Any]) -> None:
    little = {**SAMPLE, **SEEDED, "privacy.noise-multiplier": 0.01}
    folder = run({**tiny_settings, **little, **EVERYONE, "rounds": 8})
    assert read_events(folder.journal)[-1]["test"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    "strategy", ["fedadam", "median", "fedsvd", "rolora", "flexlora", "fedprox"]
)
def test_any_strategy_may_do_what_it_likes_with_noised_deltas(
    strategy: str, tiny_settings: dict[str, Any]
) -> None:
    settings = {**tiny_settings, **SAMPLE, **EVERYONE, "strategy.name": strategy}
    assert read_events(run(settings).journal)[-1]["event"] == "run_finished"


def test_lossy_codecs_come_after_the_noise(tiny_settings: dict[str, Any]) -> None:
    lossy = {"wire.uplink": "topk(0.1)+int8", "wire.downlink": "int8"}
    folder = run({**tiny_settings, **SAMPLE, **lossy, "rounds": 3})
    assert read_events(folder.journal)[-1]["event"] == "run_finished"


def test_a_run_whose_nodes_have_spent_their_budget_ends_and_exports(
    tiny_settings: dict[str, Any],
) -> None:
    settings = {**tiny_settings, **SAMPLE, **EVERYONE, "rounds": 5}
    target = max(node_epsilon(settings, len_of(settings, node), 2) for node in range(4))
    folder = run({**settings, "privacy.target-epsilon": target})
    events = read_events(folder.journal)
    assert [event["round"] for event in named(events, "round_finished")] == [1, 2]
    (spent,) = named(events, "privacy_spent")
    assert "Round 3: 4 nodes have no more privacy to spend" in spent["problem"]
    assert events[-1]["event"] == "run_finished"
    assert max(event["epsilon"] for event in named(events, "round_finished")) <= target


def test_a_budget_for_no_round_at_all_fails_the_run(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SAMPLE, "privacy.target-epsilon": 0.1}
    with pytest.raises(BudgetSpentError, match="would bring ε to"):
        run(settings)


def test_methods_without_sound_gradients_are_refused_at_the_roll_call(
    tiny_settings: dict[str, Any],
) -> None:
    settings = {**tiny_settings, **SAMPLE, "method.name": "peft:LOHA"}
    with pytest.raises(RollCallError, match="gradients of single examples"):
        run(settings)


def test_a_node_that_lost_its_book_is_refused(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SAMPLE, **EVERYONE, "rounds": 3}
    grid = LocalGrid(4, settings)
    lost: list[Path] = []

    def loses(message: Any, reply: Any) -> Any:
        if not lost:
            experiment = message.content["config"]["experiment"]
            lost.append(memory_of(experiment, 2, PRIVACY).folder / "spent.jsonl")
            lost[0].unlink()
        return reply

    grid.tampered = {2: loses}
    events = read_events(run(settings, grid=grid).journal)
    rejected = [event["rejected"] for event in named(events, "round_finished")]
    assert rejected[0] == {}
    assert all("spent in round 1" in each["2"] for each in rejected[1:])
    (final,) = [event for event in named(events, "privacy_statement") if event["final"]]
    assert "what node 2 spent" in final["rows"]["not known"]


def test_a_round_that_fails_is_stated_too(tiny_settings: dict[str, Any]) -> None:
    four = {"strategy.min-nodes": 4, "strategy.min-replies": 4}
    settings = {**tiny_settings, **SAMPLE, **EVERYONE, **four, "rounds": 3}
    grid = LocalGrid(4, settings)

    def loses(message: Any, reply: Any) -> Any:
        if message.content["config"]["round"] == 2:
            raise TrainingError("lost")
        return reply

    grid.tampered = {1: loses}
    with pytest.raises(QuorumError):
        run(settings, grid=grid)
    (folder,) = (home() / "runs").iterdir()
    (final,) = [
        event
        for event in named(read_events(folder / "journal.jsonl"), "privacy_statement")
        if event["final"]
    ]
    told = final["rows"]["epsilon of each node"].split(", ")
    for node in range(4):
        two = shown(node_epsilon(settings, len_of(settings, node), 2))
        one = shown(node_epsilon(settings, len_of(settings, node), 1))
        assert told[node] == (f"1: at least {one}" if node == 1 else f"{node}: {two}")
    assert "but for those of node 1: not known" in final["rows"]["privacy"]


def test_who_has_spent_its_budget_sits_out_and_the_others_go_on(
    tiny_settings: dict[str, Any],
) -> None:
    uneven = {"data.partitioner": "dirichlet", "data.dirichlet-alpha": 0.5, "seed": 3}
    settings = {**tiny_settings, **SAMPLE, **EVERYONE, **uneven, "rounds": 5}
    sizes = [len_of(settings, node) for node in range(4)]
    worst = max(node_epsilon(settings, size, 2) for size in sizes)
    settings |= {"privacy.target-epsilon": worst + 0.01, "strategy.min-replies": 1}
    rounds = [
        max(r for r in range(6) if r == 0 or node_epsilon(settings, size, r) <= worst + 0.01)
        for size in sizes
    ]
    assert min(rounds) == 2 < max(rounds)
    folder = run(settings)
    events = read_events(folder.journal)
    for event in named(events, "round_finished"):
        reasons = {int(node): why for node, why in event["rejected"].items()}
        assert set(reasons) == {node for node in range(4) if rounds[node] < event["round"]}
        assert all("would bring ε to" in why for why in reasons.values())
    (final,) = [event for event in named(events, "privacy_statement") if event["final"]]
    assert "not known" not in final["rows"]


def test_books_stay_when_the_run_is_over(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SAMPLE, **EVERYONE}
    folder = run(settings)
    for node in range(4):
        kept = memory_of(folder.path.name, node, PRIVACY).folder / "spent.jsonl"
        assert [row["round"] for row in Book(path=kept).rows()] == [1, 2]


# ------------------------------------------------------------------ user level


def test_the_server_accounts_for_users(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **USER, "rounds": 3}
    folder = run(settings)
    events = read_events(folder.journal)
    expected = [
        epsilon([Event(noise_multiplier=1.0, sampling=0.5, steps=r)], 1e-3) for r in (1, 2, 3)
    ]
    assert [event["epsilon"] for event in named(events, "round_finished")] == pytest.approx(
        expected
    )
    rows = Book(path=folder.path / "privacy.jsonl").rows()
    assert [row["round"] for row in rows] == [1, 2, 3]


_OF_THE_STATE = {"test", "validation"}  # what the server measures of the noised state
_OF_THE_CLOCK = {"at", "clock", "seconds"}
_OF_THE_FOLDER = {"run", "folder", "adapter", "snippet"}


def told(folder: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Give what a run's journal and card say, but for time, names, and what ε covers."""
    apart = _OF_THE_STATE | _OF_THE_CLOCK | _OF_THE_FOLDER
    events = [
        {key: value for key, value in event.items() if key not in apart}
        for event in read_events(folder.journal)
        if event["event"] != "evaluating"
    ]
    card = (folder.adapter / "README.md").read_text(encoding="utf-8").split("## Load it")[0]
    rows = [row for row in card.splitlines() if not row.startswith(("| test ", "| run "))]
    return events, rows


@pytest.mark.parametrize(
    "wire", [{}, {"wire.uplink": "threshold(0.02)+float32+zstd"}], ids=["fixed sizes", "sizes vary"]
)
def test_nothing_that_is_told_follows_from_who_was_drawn_or_what_they_sent(
    wire: dict[str, Any], tiny_settings: dict[str, Any]
) -> None:
    settings = {**tiny_settings, **USER, **wire, "rounds": 3, "evaluate.every": 0}
    quiet = run({**settings, "privacy.unsafe-seed": 3})
    grid = LocalGrid(4, settings)
    grid.broken = dict.fromkeys(range(4), TrainingError("… (training loss 3.21)"))
    other = run({**settings, "privacy.unsafe-seed": 4}, grid=grid)
    assert told(quiet) == told(other)
    assert secrets_of(quiet) != secrets_of(other)


def secrets_of(folder: Any) -> list[list[int]]:
    """Give the cohorts that only the server's operator may read."""
    events = read_events(folder.path / "secret.jsonl")
    return [event["cohort"] for event in named(events, "round_started")]


def test_the_log_does_not_say_who_failed(
    tiny_settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**tiny_settings, **USER, **EVERYONE}
    grid = LocalGrid(4, settings)
    grid.broken = {2: TrainingError("Node 2, round 1: … (training loss 3.21)")}
    with caplog.at_level("INFO"):
        folder = run(settings, grid=grid)
    assert "3.21" not in caplog.text
    assert "node 2" not in caplog.text.lower()
    failed = [event for event in read_events(folder.path / "secret.jsonl") if event.get("problem")]
    assert {event["node"] for event in failed} == {2}


def test_secrets_are_for_the_servers_operator_alone(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, **USER})
    secret = folder.path / "secret.jsonl"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert not list(folder.adapter.glob("**/secret*"))
    other = run({**tiny_settings, **SAMPLE})
    assert not (other.path / "secret.jsonl").exists()


def test_cohorts_are_drawn_node_by_node(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **USER, "rounds": 12, "strategy.fraction-train": 0.25}
    sizes = [len(cohort) for cohort in secrets_of(run(settings))]
    assert len(sizes) == 12
    assert len(set(sizes)) > 1  # a cohort of a fixed size is no Poisson sample


@pytest.mark.parametrize("name", ["median", "flwr.serverapp.strategy:Krum"])
def test_strategies_that_look_at_each_node_are_refused(
    name: str, tiny_settings: dict[str, Any]
) -> None:
    settings = {**tiny_settings, **USER, "strategy.name": name}
    with pytest.raises(ConfigError, match=r"looks at what each node sent.*Use one of: fedavg, "):
        run(settings)
    (fault,) = preflight_faults(parse(settings), 4)
    assert fault.key == "strategy.name"


def test_a_user_budget_ends_the_run(tiny_settings: dict[str, Any]) -> None:
    target = epsilon([Event(noise_multiplier=1.0, sampling=0.5, steps=2)], 1e-3) + 0.01
    settings = {**tiny_settings, **USER, "rounds": 5, "privacy.target-epsilon": target}
    events = read_events(run(settings).journal)
    assert [event["round"] for event in named(events, "round_finished")] == [1, 2]
    assert named(events, "privacy_spent")
    assert events[-1]["event"] == "run_finished"


def test_a_delta_that_allows_to_publish_a_node_is_refused(tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match="not below 1 over 4 nodes"):
        run({**tiny_settings, **USER, "privacy.delta": 0.25})


@pytest.mark.parametrize("strategy", ["fedadam", "fedavgm", "fedsvd", "rolora", "fedprox"])
def test_strategies_see_one_noised_mean(
    strategy: str, tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    delta = Reply.delta.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Reply, "delta", property(lambda self: seen.append(self.member.node_id) or delta(self))
    )
    settings = {**tiny_settings, **USER, "strategy.name": strategy}
    assert read_events(run(settings).journal)[-1]["event"] == "run_finished"
    assert set(seen) == {0}


def test_a_following_norm_is_noted(tiny_settings: dict[str, Any]) -> None:
    follows = {"privacy.clip-quantile": 0.5, "privacy.noise-multiplier": 0.15}
    settings = {**tiny_settings, **USER, **EVERYONE, **follows, "rounds": 3}
    events = read_events(run(settings).journal)
    norms = [event["notes"]["clipping-norm"] for event in named(events, "round_finished")]
    assert norms[0] == 1.0
    assert norms[1] != norms[0]
