"""A whole run in one process: real apps, real messages, a tiny model."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid, read_events

from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import QuorumError, RollCallError
from fedpeft_app.methods.catalogue import METHODS
from fedpeft_app.node.memory import BROADCAST, experiment_folder, memory_of
from fedpeft_app.runs.checkpoint import kept_rounds, load_checkpoint
from fedpeft_app.wire.catalogue import parse_codec

_NOT_FOR_TEXT = ("adalora", "prompt-shallow")  # refused, as docs/methods.md says
_JUDGED_BY_NODES = {"evaluate.server": False, "strategy.fraction-evaluate": 1.0}


def run(settings: dict[str, Any], nodes: int = 4, grid: LocalGrid | None = None) -> Any:
    """Run a federation and give its folder."""
    return coordinate(grid or LocalGrid(nodes, settings), parse(settings), run_id=12345678901)


def test_a_run_learns_and_exports(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, "rounds": 4})
    events = read_events(folder.journal)
    assert events[-1]["event"] == "run_finished"
    assert events[-1]["test"]["accuracy"] > 0.8
    assert (folder.adapter / "adapter_model.safetensors").exists()
    assert (folder.adapter / "labels.json").exists()


def test_same_seed_same_bits(tiny_settings: dict[str, Any]) -> None:
    first, second = run(tiny_settings), run({**tiny_settings, "output.name": "again"})
    states = [load_checkpoint(folder, 2).state for folder in (first, second)]
    assert states[0].vector.tobytes() == states[1].vector.tobytes()


def test_another_seed_other_bits(tiny_settings: dict[str, Any]) -> None:
    first, second = run(tiny_settings), run({**tiny_settings, "seed": 1, "output.name": "again"})
    states = [load_checkpoint(folder, 2).state for folder in (first, second)]
    assert states[0].vector.tobytes() != states[1].vector.tobytes()


def test_only_the_adapter_travels(tiny_settings: dict[str, Any]) -> None:
    grid = LocalGrid(4, tiny_settings)
    run(tiny_settings, grid=grid)
    low_rank = 2 * 2 * (2 * 32 + 32 * 2)  # query and value of two layers, A and B at rank 2
    values = 4 * (low_rank + 3 * 32 + 3)  # and the head: float32, nothing else
    for message in (*grid.sent, *grid.received):
        if message.metadata.message_type == "train":
            (array,) = message.content["arrays"].values()
            assert values < len(array.data) <= values + 123  # docs/wire-format.md


def test_last_and_best_checkpoints_stay(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, "rounds": 4})
    assert {3, 4} <= set(kept_rounds(folder))
    assert len(kept_rounds(folder)) <= 3  # the last two and the best


def test_all_checkpoints_stay_if_asked(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, "rounds": 3, "output.keep": "all"})
    assert kept_rounds(folder) == [1, 2, 3]


def test_failing_clients_are_named_and_the_run_goes_on(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, "strategy.fraction-train": 1.0}
    grid = LocalGrid(4, settings)
    grid.broken = {2: RuntimeError("disk on fire")}
    folder = run(settings, grid=grid)
    finished = [e for e in read_events(folder.journal) if e["event"] == "round_finished"]
    assert [event["rejected"] for event in finished] == [{"2": "disk on fire"}] * 2


def test_too_few_good_replies_fail_the_run(tiny_settings: dict[str, Any], own_home: Path) -> None:
    grid = LocalGrid(4, tiny_settings)
    grid.broken = {node: RuntimeError("out of memory") for node in range(4)}
    with pytest.raises(QuorumError, match="0 of 4 replies were good.*\n.*out of memory"):
        run(tiny_settings, grid=grid)
    journal = next((own_home / "runs").glob("*/journal.jsonl"))
    assert read_events(journal)[-1]["event"] == "run_failed"


def test_what_nobody_foresaw_is_journalled_with_where_it_was(
    tiny_settings: dict[str, Any], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_on_fire(*_: object, **__: object) -> None:
        raise ArithmeticError("on fire")

    monkeypatch.setattr("fedpeft_app.coordinator.run_rounds", disk_on_fire)
    with pytest.raises(ArithmeticError, match="on fire"):
        run(tiny_settings)
    journal = next((own_home / "runs").glob("*/journal.jsonl"))
    failed = read_events(journal)[-1]
    assert (
        failed["problem"] == "unexpected ArithmeticError('on fire'); the journal has its traceback"
    )
    assert "in disk_on_fire" in failed["traceback"]


def test_too_few_nodes_fail_the_roll_call(tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(RollCallError, match=r"2000 training examples for 4 nodes.* got 108\."):
        run({**tiny_settings, "data.min-examples": 500})


@pytest.mark.parametrize("method", [name for name in METHODS.names() if name not in _NOT_FOR_TEXT])
def test_every_method_for_texts_runs_at_its_own_rates(
    tiny_settings: dict[str, Any], method: str
) -> None:
    rates = {"train.learning-rate": 0.0, "train.head-learning-rate": 0.0}
    sizes = {"rounds": 1, "train.max-steps": 2}
    judged = _JUDGED_BY_NODES if method == "lora-sa" else {}
    folder = run({**tiny_settings, **rates, **sizes, **judged, "method.name": method})
    events = read_events(folder.journal)
    assert events[-1]["event"] == "run_finished"
    assert any(folder.adapter.glob("*.safetensors"))


def test_central_baseline_trains_on_everything(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, "mode": "central"})
    rounds = [e for e in read_events(folder.journal) if e["event"] == "round_finished"]
    assert [event["examples"] for event in rounds] == [108, 108]


def test_local_baseline_judges_every_node(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, "mode": "local"})
    finished = read_events(folder.journal)[-1]
    assert set(finished["nodes"]["nodes"]) == {"0", "1", "2", "3"}


def test_no_server_data_lets_the_nodes_decide(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, "evaluate.server": False, "strategy.fraction-evaluate": 1.0}
    events = read_events(run(settings).journal)
    rounds = [event for event in events if event["event"] == "round_finished"]
    assert all(len(event["clients"]["nodes"]) == 4 for event in rounds)
    assert events[-1]["test"] == {}
    assert events[-1]["chosen"] == "best on validation data"


def test_a_run_can_start_from_an_adapter(tiny_settings: dict[str, Any]) -> None:
    first = run({**tiny_settings, "rounds": 3})
    second = run(
        {
            **tiny_settings,
            "rounds": 1,
            "method.init-from": str(first.adapter),
            "output.name": "again",
        }
    )
    losses = [
        [e["train_loss"] for e in read_events(folder.journal) if e["event"] == "round_finished"]
        for folder in (first, second)
    ]
    assert losses[1][0] < losses[0][0]


def test_flowers_own_strategy_runs(tiny_settings: dict[str, Any]) -> None:
    settings = {
        **tiny_settings,
        "strategy.name": "flwr.serverapp.strategy:FedAdam",
        "strategy.options": '{"eta": 0.05, "tau": 0.01}',
    }
    assert read_events(run(settings).journal)[-1]["event"] == "run_finished"


def test_a_second_run_in_one_process_starts_afresh(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    vectors = []
    for _ in range(2):  # the same configuration, so the same kept model
        folder = run(tiny_settings)
        vectors.append(load_checkpoint(folder, 2).state.vector.tobytes())
        folder.path.rename(tmp_path / f"moved-{len(vectors)}")
    assert vectors[0] == vectors[1]


# ------------------------------------------------------------------ how messages travel

LOSSY = {"wire.uplink": "int8", "wire.downlink": "topk(0.2)+int8"}


def test_the_state_that_is_kept_is_the_one_that_nodes_hold(
    tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpeft_app.coordinator.forget", lambda *_, **__: None)
    folder = run({**tiny_settings, **LOSSY, "rounds": 5, "output.keep": "all"})
    started = [e for e in read_events(folder.journal) if e["event"] == "round_started"]
    for node in range(4):
        last = max(e["round"] for e in started if node in e["cohort"])
        memory = memory_of(folder.path.name, node, BROADCAST)
        if last == 1:  # what it trained from then is drawn, not kept
            assert memory.rounds() == []
            continue
        state = load_checkpoint(folder, last - 1).state
        held = memory.recall(BROADCAST, state, last - 1)
        assert held.vector.tobytes() == state.vector.tobytes()
    assert {node for event in started if event["round"] > 1 for node in event["cohort"]}


def test_messages_are_as_small_as_their_codecs_say(tiny_settings: dict[str, Any]) -> None:
    grid = LocalGrid(4, settings := {**tiny_settings, **LOSSY})
    run(settings, grid=grid)
    sizes: dict[tuple[str, int], set[int]] = {}
    for way, messages in (("down", grid.sent), ("up", grid.received)):
        for message in messages:
            if message.metadata.message_type == "train":
                content = message.content
                size = sum(len(array.data) for array in content["arrays"].values())
                sizes.setdefault((way, int(content["config"]["round"])), set()).add(size)
    assert sizes["down", 1] == {0}  # the first state is drawn
    (increment,) = sizes["down", 2]
    assert increment <= parse_codec(LOSSY["wire.downlink"]).most_bytes(611) + 123
    for number in (1, 2):
        (delta,) = sizes["up", number]
        assert 621 < delta <= 621 + 123  # 611 values in five blocks, each with a scale of 2 bytes


def test_lossy_runs_with_the_same_seed_have_the_same_bits(tiny_settings: dict[str, Any]) -> None:
    folders = [run({**tiny_settings, **LOSSY, "output.name": name}) for name in ("a", "b")]
    first, second = (load_checkpoint(folder, 2).state.vector.tobytes() for folder in folders)
    assert first == second


def test_with_another_start_than_is_drawn_it_is_sent(tiny_settings: dict[str, Any]) -> None:
    first = run(tiny_settings)
    again = {"method.init-from": str(first.adapter), "output.name": "again"}
    grid = LocalGrid(4, settings := {**tiny_settings, **LOSSY, **again})
    run(settings, grid=grid)
    orders = [m.content for m in grid.sent if m.metadata.message_type == "train"]
    assert {(o["config"]["round"], o["config"]["version"]) for o in orders} == {(1, 1), (2, 2)}
    assert all(list(o["arrays"]) == ["adapter"] for o in orders)


@pytest.mark.parametrize("mode", ["central", "local"])
def test_a_baseline_loses_nothing_on_a_wire(tiny_settings: dict[str, Any], mode: str) -> None:
    ends = []
    for wire in ({}, {**LOSSY, "budget.uplink-mib": 1e-6}):
        folder = run({**tiny_settings, **wire, "mode": mode, "output.name": f"wire-{len(ends)}"})
        ends.append(load_checkpoint(folder, kept_rounds(folder)[-1]).state.vector.tobytes())
    assert ends[0] == ends[1]


def test_a_spent_budget_ends_a_run_well(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, "rounds": 9, "budget.uplink-mib": 10 / 1024})
    events = read_events(folder.journal)
    rounds = [event for event in events if event["event"] == "round_finished"]
    spent = [event["up"] for event in rounds]
    assert sum(spent[:-1]) < 10 * 1024 <= sum(spent)
    assert 1 < len(rounds) < 9
    assert rounds[-1]["precision"] == "fp32"
    (noted,) = [event for event in events if event["event"] == "budget_spent"]
    assert (noted["round"], noted["rounds"], noted["up"]) == (len(rounds), 9, sum(spent))
    assert events[-1]["event"] == "run_finished"
    assert (folder.adapter / "adapter_model.safetensors").exists()


def test_a_run_that_gets_no_better_ends_well(tiny_settings: dict[str, Any]) -> None:
    still = {"train.learning-rate": 1e-12, "train.head-learning-rate": 1e-12}
    folder = run({**tiny_settings, **still, "rounds": 9, "budget.patience": 2})
    events = read_events(folder.journal)
    rounds = [event for event in events if event["event"] == "round_finished"]
    assert len(rounds) == 3
    (noted,) = [event for event in events if event["event"] == "budget_spent"]
    assert (noted["key"], noted["round"], noted["best"]) == ("budget.patience", 3, 1)
    assert events[-1]["event"] == "run_finished"
    assert events[-1]["round"] == 1


def test_a_run_ends_well_when_its_time_is_up(tiny_settings: dict[str, Any]) -> None:
    folder = run({**tiny_settings, "rounds": 9, "budget.minutes": 1e-6})
    events = read_events(folder.journal)
    assert sum(event["event"] == "round_finished" for event in events) == 1
    (noted,) = [event for event in events if event["event"] == "budget_spent"]
    assert noted["key"] == "budget.minutes"
    assert events[-1]["event"] == "run_finished"


def test_a_round_is_tried_again_with_those_who_failed(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, "strategy.fraction-train": 1.0, "strategy.min-replies": 4}
    settings["strategy.min-nodes"] = 4

    class Once(dict[int, Exception]):
        """What happens to a node, once."""

        def __getitem__(self, partition: int) -> Exception:
            return self.pop(partition)

    grid = LocalGrid(4, settings)
    grid.broken = Once({1: RuntimeError("disk on fire")})
    plain = run(settings, grid=LocalGrid(4, settings))
    mended = run({**settings, "output.name": "mended"}, grid=grid)
    events = read_events(mended.journal)
    assert [event["cohort"] for event in events if event["event"] == "asked_again"] == [[1]]
    states = [load_checkpoint(folder, 2).state.vector for folder in (plain, mended)]
    assert states[0].tobytes() == states[1].tobytes()


def test_who_drops_out_is_named_and_the_run_goes_on(tiny_settings: dict[str, Any]) -> None:
    changes = {"strategy.dropout": 0.4, "strategy.fraction-train": 1.0, "strategy.min-replies": 1}
    grid = LocalGrid(4, settings := {**tiny_settings, **changes, "rounds": 4})
    events = read_events(run(settings, grid=grid).journal)
    rounds = [event for event in events if event["event"] == "round_finished"]
    reasons = [reason for event in rounds for reason in event["rejected"].values()]
    assert reasons
    assert set(reasons) == {"dropped out (strategy.dropout)"}
    sent = [message for message in grid.sent if message.metadata.message_type == "train"]
    assert len(sent) + len(reasons) == 16


def test_nodes_forget_what_they_are_sent_anew_if_a_run_goes_on(
    tiny_settings: dict[str, Any],
) -> None:
    folder = run({**tiny_settings, **LOSSY})
    kept = [path.name for path in experiment_folder(folder.path.name).glob("node-*/*")]
    assert kept  # what codecs left out
    assert BROADCAST not in kept
