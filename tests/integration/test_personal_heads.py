"""Heads that stay: whole federations in which every node keeps a head of its own."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from conftest import LABELS, LocalGrid, make_texts, read_events
from flwr.app import Message
from typer.testing import CliRunner, Result

from fedpeft_app.assembly import adapted_model, agreement, make_worker
from fedpeft_app.cli.main import app
from fedpeft_app.config import RunConfig, parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import NodeStateError, RunFolderError
from fedpeft_app.node.memory import PERSONAL, experiment_folder, memory_of
from fedpeft_app.restore import predict, restore, round_of
from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import RunFolder, find_run, runs_parent
from fedpeft_app.strategies.roll_call import Presence, make_roster

NODES, ROUNDS = 4, 3
LORA_BYTES = 4 * 2 * 2 * 2 * 2 * 32  # float32, two layers, query and value, A and B, rank 2
HEAD_BYTES = 4 * (3 * 32 + 3)


def personal(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run whose heads stay on the nodes."""
    return {
        **settings,
        "rounds": ROUNDS,
        "method.head": "personal",
        "evaluate.server": False,
        "strategy.fraction-train": 1.0,
        "strategy.fraction-evaluate": 1.0,
        "data.node-test-fraction": 0.0,
        "data.node-validation-fraction": 0.3,
        "output.keep": "all",
    }


def run(settings: dict[str, Any], grid: LocalGrid | None = None) -> RunFolder:
    return coordinate(grid or LocalGrid(NODES, settings), parse(settings), run_id=7)


def fedpeft(*arguments: str) -> Result:
    """Run a command; errors pass through."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def rounds_of(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in read_events(folder.journal) if event["event"] == "round_finished"]


def payloads(messages: list[Message], kind: str) -> set[int]:
    """Bytes of the values in messages of a kind, by the header of their payload."""
    found = set()
    for message in messages:
        if message.metadata.message_type == kind:
            (array,) = message.content["arrays"].values()
            end = 12 + int.from_bytes(array.data[8:12], "little")
            sections = json.loads(array.data[12:end])["sections"]
            assert 0 <= len(array.data) - end - sum(one["bytes"] for one in sections) < 8
            found.add(sum(one["bytes"] for one in sections))
    return found


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path
) -> Iterator[tuple[Path, LocalGrid]]:
    """A home with a run of personal heads, and the grid that it went over."""
    home = tmp_path_factory.mktemp("home")
    settings = personal(
        {
            "model.name": str(tiny_model),
            "method.rank": 2,
            "data.name": str(tiny_data),
            "data.max-length": 16,
            "data.partitioner": "iid",
            "train.learning-rate": 1e-2,
            "train.head-learning-rate": 5e-2,
            "train.batch-size": 8,
            "train.local-epochs": 4,
            "train.precision": "fp32",
        }
    )
    grid = LocalGrid(NODES, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPEFT_HOME", str(home))
        run(settings, grid)
        yield home, grid


@pytest.fixture
def folder(made: tuple[Path, LocalGrid], own_home: Path) -> RunFolder:
    """A copy of that run, and of what its nodes keep, alone in this test's home."""
    for name in ("runs", "nodes"):
        shutil.copytree(made[0] / name, own_home / name)
    return find_run(runs_parent(), "run")


@pytest.fixture
def config(folder: RunFolder) -> RunConfig:
    return parse(folder.config())


# ------------------------------------------------------------------ what travels


def test_the_head_is_never_on_the_wire(made: tuple[Path, LocalGrid], folder: RunFolder) -> None:
    grid = made[1]
    assert payloads(grid.sent, "train") == payloads(grid.sent, "evaluate") == {LORA_BYTES}
    assert payloads(grid.received, "train") == {LORA_BYTES}
    state = load_checkpoint(folder, ROUNDS).state
    assert 4 * state.spec.size == LORA_BYTES
    assert not [tensor.name for tensor in state.spec.tensors if tensor.head]


def test_nodes_are_told_which_version_counts(
    made: tuple[Path, LocalGrid], folder: RunFolder
) -> None:
    for kind, bases in (("train", {1: 0, 2: 1, 3: 2}), ("evaluate", {1: 1, 2: 2, 3: 3})):
        told = [
            message.content["config"]
            for message in made[1].sent
            if message.metadata.message_type == kind
        ]
        assert len(told) == NODES * ROUNDS
        assert {options["experiment"] for options in told} == {folder.path.name}
        assert {(options["round"], options["base"]) for options in told} == set(bases.items())


# ------------------------------------------------------------------ what stays


def test_every_node_has_a_head_of_its_own(folder: RunFolder, config: RunConfig) -> None:
    initial = adapted_model(config, LABELS).personal.initial
    heads = set()
    for node in range(NODES):
        memory = memory_of(folder.path.name, node)
        assert memory.rounds() == [1, ROUNDS - 1, ROUNDS]
        heads |= {
            memory.recall(PERSONAL, initial, version).vector.tobytes()
            for version in memory.rounds()
        }
    assert len(heads) == 3 * NODES
    assert initial.vector.tobytes() not in heads


def test_a_round_is_what_state_and_head_before_it_give(
    folder: RunFolder, config: RunConfig
) -> None:
    """Done again from what was kept, round 3 gives the head that it gave, to the bit."""
    start = load_checkpoint(folder, ROUNDS - 1).state
    for node in (0, 3):
        memory = memory_of(folder.path.name, node)
        worker = make_worker(config, {"partition-id": node, "num-partitions": NODES})
        initial = worker.adapted.personal.initial
        before, kept = (memory.recall(PERSONAL, initial, at) for at in (ROUNDS - 1, ROUNDS))
        again = worker.fit(start, ROUNDS, personal=before)
        assert again.personal.vector.tobytes() == kept.vector.tobytes()
        assert rounds_of(folder)[-1]["nodes"][str(node)]["loss"] == again.report.loss


def test_nodes_are_judged_with_their_own_heads(folder: RunFolder, config: RunConfig) -> None:
    state = load_checkpoint(folder, ROUNDS).state
    measured = {}
    for node in range(NODES):
        worker = make_worker(config, {"partition-id": node, "num-partitions": NODES})
        own = memory_of(folder.path.name, node).recall(
            PERSONAL, worker.adapted.personal.initial, ROUNDS
        )
        measured[str(node)] = worker.evaluate(state, ROUNDS, personal=own)["accuracy"]
    last = rounds_of(folder)[-1]["clients"]
    assert last["nodes"] == measured
    numbers = sorted(measured.values())
    assert last["mean"] == pytest.approx(sum(numbers) / NODES)
    assert (last["worst"], last["best"]) == (numbers[0], numbers[-1])
    assert last["deciles"] == pytest.approx(np.quantile(numbers, np.arange(0.1, 1.0, 0.1)))


def test_personal_heads_learn(folder: RunFolder) -> None:
    accuracy = [event["clients"]["mean"] for event in rounds_of(folder)]
    assert accuracy[-1] > 0.6  # of three labels that are equally frequent
    assert rounds_of(folder)[-1]["train_loss"] < rounds_of(folder)[0]["train_loss"]


@pytest.mark.parametrize("trouble", ["lost", "tampered"])
def test_a_node_whose_reply_did_not_count_trains_on(
    tiny_settings: dict[str, Any], trouble: str
) -> None:
    settings = {**personal(tiny_settings), "rounds": 3}
    grid = LocalGrid(NODES, settings)

    def spoil(order: Message, reply: Message) -> Message:
        if order.content["config"]["round"] == 1:
            if trouble == "lost":
                raise ConnectionError("the reply was lost")
            reply.content["config"]["round"] = 9
        return reply

    grid.tampered = {2: spoil}
    rounds = rounds_of(folder := run(settings, grid))
    assert [sorted(event["rejected"]) for event in rounds] == [["2"], [], []]
    bases = {
        message.content["config"]["round"]: message.content["config"]["base"]
        for message in grid.sent
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 1014
    }
    assert bases == {1: 0, 2: 0, 3: 2}
    assert memory_of(folder.path.name, 2).rounds() == [2, 3]


def test_what_a_node_lost_fails_its_rounds_by_name(tiny_settings: dict[str, Any]) -> None:
    settings = personal(tiny_settings)
    grid = LocalGrid(NODES, settings)

    def forget(order: Message, reply: Message) -> Message:
        shutil.rmtree(experiment_folder(str(order.content["config"]["experiment"])) / "node-0001")
        return reply

    grid.tampered = {1: forget}
    rejected = [event["rejected"] for event in rounds_of(run(settings, grid))]
    assert rejected[0] == {}
    for reasons in rejected[1:]:
        assert list(reasons) == ["1"]
        assert "kept of round 1 (personal)" in reasons["1"]
        assert "What only this node had is lost" in reasons["1"]


# ------------------------------------------------------------------ what is left of a run


def test_the_runs_own_export_says_that_its_head_is_untrained(folder: RunFolder) -> None:
    readme = (folder.adapter / "README.md").read_text(encoding="utf-8")
    assert "the head in this folder was never trained" in readme
    assert "`fedpeft export RUN --node K`" in readme


@pytest.mark.filterwarnings("ignore:.*is_gradient_check:FutureWarning")  # peft 0.21, stock
@pytest.mark.parametrize("node", [0, 3])
def test_an_exported_node_computes_what_it_computed(
    folder: RunFolder, config: RunConfig, tmp_path: Path, node: int
) -> None:
    out = tmp_path / "out"
    fedpeft("export", "latest", "--round", "last", "--node", str(node), "--to", str(out))
    assert "never trained" not in (out / "README.md").read_text(encoding="utf-8")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        config.model.name, num_labels=len(LABELS), attn_implementation="eager"
    )
    stock = peft.PeftModel.from_pretrained(base, str(out)).eval()
    restored = restore(folder, config, ROUNDS, node)
    texts, _ = make_texts(9, seed=5)
    inputs = restored.processor(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = restored.adapted.model.eval()(**inputs).logits
        assert torch.equal(stock(**inputs).logits, expected)
        nobodys = restore(folder, config, ROUNDS).adapted.model.eval()(**inputs).logits
        assert not torch.allclose(nobodys, expected, atol=1e-2)


def test_an_export_of_a_node_goes_beside_the_runs_own(folder: RunFolder) -> None:
    output = fedpeft("export", "latest", "--round", "last", "--node", "2").output
    path = Path(output.splitlines()[0].removeprefix("exported to "))
    assert path.parent == folder.path
    assert path.name.endswith("-node-2")


def test_predictions_are_those_of_a_node(folder: RunFolder, config: RunConfig) -> None:
    texts, _ = make_texts(6, seed=5)
    best = round_of(folder, "best")
    found = {}
    for node in (1, None):
        made = predict(restore(folder, config, best, node), config, texts)
        found[node] = [f"{one.answer}\t{one.probability:.3f}" for one in made]
    output = fedpeft("predict", "latest", "--node", "1", *texts).output
    assert [line.rpartition("\t")[0] for line in output.splitlines()] == found[1] != found[None]


@pytest.mark.parametrize("command", [["export", "latest"], ["predict", "latest", "wheat"]])
def test_a_node_that_kept_nothing_is_refused(folder: RunFolder, command: list[str]) -> None:
    with pytest.raises(NodeStateError, match=r"Node 9 has no parameters .*kept: none"):
        fedpeft(*command, "--node", "9")


def test_a_round_that_nodes_have_forgotten_is_refused(folder: RunFolder) -> None:
    kept = memory_of(folder.path.name, 0).folder / "round-000001.safetensors"
    forgotten = kept.rename(kept.with_suffix(".elsewhere"))  # as after one round more
    with pytest.raises(NodeStateError, match=r"parameters of round 1 or before .*kept: 2, 3"):
        fedpeft("export", "latest", "--round", "1", "--node", "0")
    forgotten.rename(kept)


def test_what_did_not_count_is_not_exported(tiny_settings: dict[str, Any], own_home: Path) -> None:
    settings = {**personal(tiny_settings), "rounds": 2}
    grid = LocalGrid(NODES, settings)

    def spoil(order: Message, reply: Message) -> Message:
        if order.content["config"]["round"] == 2:
            reply.content["config"]["round"] = 9
        return reply

    grid.tampered = {2: spoil}
    folder = run(settings, grid)
    config = parse(folder.config())
    memory = memory_of(folder.path.name, 2)
    assert memory.rounds() == [1, 2]
    restored = restore(folder, config, 2, node=2)
    expected = memory.recall(PERSONAL, restored.adapted.personal.initial, 1)
    assert restored.personal is not None
    assert restored.personal.vector.tobytes() == expected.vector.tobytes()


def test_nodes_that_keep_nothing_have_nothing_to_export(tiny_settings: dict[str, Any]) -> None:
    run({**tiny_settings, "rounds": 1})
    with pytest.raises(RunFolderError, match="keep nothing of their own.*Leave --node out"):
        fedpeft("export", "latest", "--node", "0")


def test_cleaning_a_run_removes_what_its_nodes_kept(folder: RunFolder) -> None:
    kept = experiment_folder(folder.path.name)
    other = kept.with_name("another-run")
    shutil.copytree(kept, other)
    fedpeft("runs", "clean", folder.path.name, "--yes")
    assert not kept.exists()
    assert other.exists()


# ------------------------------------------------------------------ frozen heads, steps for oneself


def test_a_frozen_head_makes_messages_smaller_by_itself(tiny_settings: dict[str, Any]) -> None:
    sizes = {}
    for head in ("train", "frozen"):
        settings = {**tiny_settings, "rounds": 1, "method.head": head, "output.name": head}
        run(settings, grid := LocalGrid(NODES, settings))
        (sizes[head],) = payloads(grid.sent, "train") | payloads(grid.received, "train")
    assert sizes == {"train": LORA_BYTES + HEAD_BYTES, "frozen": LORA_BYTES}


def test_a_node_with_another_frozen_head_is_refused(tiny_settings: dict[str, Any]) -> None:
    facts = []
    for seed in (0, 1):
        settings = {**tiny_settings, "method.head": "frozen", "seed": seed}
        config = parse(settings)
        facts.append(agreement(config, adapted_model(config, LABELS)))
    same, other = (
        Presence(partition=number, examples=9, labels=LABELS, agreed=fact)
        for number, fact in enumerate(facts)
    )
    roster = make_roster([(10, same), (11, other)], expected=facts[0], minimum=1, labels=LABELS)
    reason = f"frozen is {facts[1]['frozen']}, expected {facts[0]['frozen']}"
    assert roster.refused == {"node 1": reason}


def test_steps_for_oneself_change_the_judgement_and_nothing_else(
    tiny_settings: dict[str, Any],
) -> None:
    folders = {}
    for steps in (0, 5):
        settings = {
            **tiny_settings,
            "evaluate.personal-steps": steps,
            "strategy.fraction-evaluate": 1.0,
            "data.node-validation-fraction": 0.3,
            "output.name": f"steps-{steps}",
        }
        folders[steps] = run(settings)
    states = {load_checkpoint(folder, 2).state.vector.tobytes() for folder in folders.values()}
    assert len(states) == 1
    judged = [rounds_of(folder)[0]["clients"] for folder in folders.values()]
    assert judged[0] != judged[1]


def test_nothing_is_predicted_with_a_head_that_never_trained(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=f"Each node of {folder.path.name} kept a head"):
        fedpeft("predict", "latest", "some text")
    assert "its head was never trained" in fedpeft("export", "latest").output
