"""Messages that are made before a run weigh what those of the run do."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid, read_events

from fedpeft_app.cli.plan.outlook import look_ahead
from fedpeft_app.config import defaults, parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.wire import scales

NODES = 4


def run(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Run for real, in this process; give what the journal says."""
    grid = LocalGrid(NODES, settings)
    folder = coordinate(grid, parse({**defaults(), **settings}), run_id=1)
    return read_events(folder.journal)


CASES: dict[str, dict[str, Any]] = {
    "as usual": {},
    "int8 both ways": {"wire.uplink": "int8", "wire.downlink": "int8"},
    "bfloat16 and int4": {"wire.uplink": "int4", "wire.downlink": "bfloat16"},
    "one factor at a time": {"strategy.name": "rolora", "rounds": 3},
    "with a control variate": {"strategy.name": "scaffold"},
    "nodes that judge": {"strategy.fraction-evaluate": 1.0},
    "some drop out": {"strategy.dropout": 0.5, "strategy.fraction-train": 1.0},
    "a few steps": {"train.max-steps": 1},
    "ranks of their own": {"strategy.name": "hetlora", "method.node-ranks": "1,2"},
    "a personal head": {
        "method.head": "personal",
        "evaluate.server": False,
        "strategy.fraction-evaluate": 1.0,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_every_round_carries_the_payload_that_was_foretold(
    name: str, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**tiny_settings, "output.dir": str(tmp_path / "runs"), **CASES[name]}
    traffic = look_ahead(parse(settings), NODES).traffic
    assert traffic is not None and traffic.rehearsal is not None
    rounds = {e["round"]: e for e in run(settings) if e["event"] == "round_finished"}
    for one in traffic.rehearsal.rounds:
        said: dict[str, int] = {}
        for message in (*one.trained, *one.judged):
            said[str(message.node)] = said.get(str(message.node), 0) + message.payload
        found = rounds[one.number]["bytes_by_node"]
        assert {node: row["payload"] for node, row in found.items()} == said


@pytest.fixture
def numbers_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scales have numbers as the grid of tests has them, where Flower's are random."""
    for name, value in {"_RUN": 1, "_NODE": 1_000, "_TASK": 1, "_MESSAGE_ID": "message-1"}.items():
        monkeypatch.setattr(scales, name, value)


@pytest.mark.usefixtures("numbers_of_the_grid")
@pytest.mark.parametrize(
    "name", [name for name in CASES if "fraction-evaluate" not in str(CASES[name])]
)
def test_a_run_sends_the_bytes_that_were_foretold(
    name: str, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**tiny_settings, "output.dir": str(tmp_path / "runs"), **CASES[name]}
    traffic = look_ahead(parse(settings), NODES).traffic
    assert traffic is not None and traffic.rehearsal is not None
    assert traffic.exact
    *_, last = run(settings)
    assert last["down"] == traffic.down
    longer = len(list(traffic.rehearsal.messages))  # "message-10" has a digit more
    assert 0 <= last["up"] - traffic.up <= longer


@pytest.mark.usefixtures("numbers_of_the_grid")
def test_the_ratio_is_that_of_the_journal(tiny_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**tiny_settings, "output.dir": str(tmp_path / "runs")}
    traffic = look_ahead(parse(settings), NODES).traffic
    assert traffic is not None
    *_, last = run(settings)
    assert traffic.times_fewer == pytest.approx(last["times_fewer"], rel=1e-3)
    assert traffic.full_message == last["full_bytes_per_message"]


def test_sizes_that_depend_on_values_are_said_to(tiny_settings: dict[str, Any]) -> None:
    def exact(**more: Any) -> bool:
        settings = {
            **tiny_settings,
            **{key.replace("__", "."): value for key, value in more.items()},
        }
        traffic = look_ahead(parse(settings), NODES).traffic
        assert traffic is not None
        return traffic.exact

    assert exact(wire__uplink="int4")
    assert not exact(wire__uplink="float32+zstd")


@pytest.mark.parametrize("mode", ["central", "local"])
def test_a_baseline_sends_nothing_worth_telling(mode: str, tiny_settings: dict[str, Any]) -> None:
    assert look_ahead(parse({**tiny_settings, "mode": mode}), NODES).traffic is None


def test_steps_of_a_round_are_those_that_nodes_say(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**tiny_settings, "output.dir": str(tmp_path / "runs"), "train.max-steps": 2}
    traffic = look_ahead(parse(settings), NODES).traffic
    assert traffic is not None and traffic.rehearsal is not None
    rounds = {e["round"]: e["nodes"] for e in run(settings) if e["event"] == "round_finished"}
    for one in traffic.rehearsal.rounds:
        for message in one.trained:
            told = rounds[one.number][str(message.node)]
            assert message.work is not None
            assert (message.work.examples, message.work.steps) == (
                told["examples-trained"],
                told["steps"],
            )
