"""Runs that are killed go on where they were: the same bits, whatever they hold between rounds."""

from pathlib import Path
from typing import Any

import pytest
from conftest import read_events
from full_disk import no_room_beyond
from private_settings import SAMPLE, USER
from resumed_runs import (
    CASES,
    LOSSY,
    NODES,
    ROUNDS,
    SETTINGS,
    Dying,
    KilledError,
    bits,
    finished,
    killed,
    resumed,
    run,
)

from fedpeft_app.errors import ConfigError, RunFolderError
from fedpeft_app.node.book import Book
from fedpeft_app.node.memory import PRIVACY, memory_of
from fedpeft_app.runs.checkpoint import kept_rounds
from fedpeft_app.runs.directory import list_runs, runs_parent


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_killed_ends_with_the_same_bits(
    tiny_settings: dict[str, Any], name: str
) -> None:
    settings = {**tiny_settings, **SETTINGS, **CASES[name]}
    whole = run(settings)
    replies = [event for event in whole.events() if event["event"] == "reply"]
    messages = sum("dropped out" not in event["problem"] for event in replies)
    evaluations = NODES * ROUNDS if settings.get("strategy.fraction-evaluate") else 0
    sent = (1 if name == "central" else NODES) + messages + evaluations
    folder = killed(settings, sent - 2)
    if name == "lossy":  # more than once
        with pytest.raises(KilledError):
            again = {**settings, "resume": folder.path.name}
            run(again, Dying(NODES, again, NODES + 1))
    assert resumed(settings, folder).path == folder.path
    assert bits(folder) == bits(whole)
    assert [event["round"] for event in finished(folder)] == [1, 2, 3, 4]
    assert folder.events()[-1]["event"] == "run_finished"
    assert (folder.adapter / "adapter_config.json").is_file()


def test_the_journal_has_neither_gaps_nor_doubles_and_the_bytes_are_those_that_counted(
    tiny_settings: dict[str, Any],
) -> None:
    settings = {**tiny_settings, **SETTINGS}
    whole, folder = run(settings), killed(settings, NODES + 2 + 2 + 1)  # in round 3
    resumed(settings, folder)
    for ours, theirs in zip(finished(folder), finished(whole), strict=True):
        assert ours["bytes_by_node"].keys() == theirs["bytes_by_node"].keys()
        for node, bytes_of in ours["bytes_by_node"].items():  # timings have more digits or fewer
            assert bytes_of == pytest.approx(theirs["bytes_by_node"][node], abs=8)
        assert ours["validation"] == theirs["validation"]
    names = [event["event"] for event in folder.events()]
    assert names.count("run_started") == names.count("run_resumed") == 1
    assert names.count("round_started") == ROUNDS
    ends = [run.events()[-1] for run in (folder, whole)]
    roll_call = next(event["bytes"] for event in whole.events() if event["event"] == "roll_call")
    sums = [end["down"] + end["up"] for end in ends]
    assert sums[0] == pytest.approx(sums[1] + roll_call, abs=8 * ROUNDS * NODES)
    aside = (folder.path / "interrupted.jsonl").read_text(encoding="utf-8")
    assert '"event": "round_started"' in aside


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "lossy", "personal"])
def test_a_run_may_go_on_for_more_rounds(tiny_settings: dict[str, Any], name: str) -> None:
    settings = {**tiny_settings, **SETTINGS, **CASES[name], "train.lr-schedule": "constant"}
    longer = run({**settings, "rounds": 6})
    folder = run(settings)
    resumed(settings, folder, rounds=6)
    assert bits(folder, 6) == bits(longer, 6)
    assert folder.config()["rounds"] == 6
    (event,) = (event for event in folder.events() if event["event"] == "run_resumed")
    assert (event["round"], event["changed"]) == (4, {"rounds": 6})
    assert [event["round"] for event in finished(folder)] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_can_be_exported_again(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SETTINGS}
    folder = run(settings)
    before = folder.events()[-1]
    resumed(settings, folder)
    after = folder.events()[-1]
    assert (after["event"], after["round"], after["test"]) == (
        "run_finished",
        before["round"],
        before["test"],
    )


def test_another_experiment_is_refused_with_every_key(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SETTINGS}
    folder = killed(settings, NODES + 3)
    before = folder.journal.read_bytes()
    with pytest.raises(ConfigError) as refusal:
        resumed(settings, folder, **{"method.rank": 8, "seed": 5, "rounds": 9})
    assert {fault.key for fault in refusal.value.faults} == {"method.rank", "seed"}
    assert folder.journal.read_bytes() == before


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "lossy", "personal"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(
    tiny_settings: dict[str, Any], name: str
) -> None:
    settings = {**tiny_settings, **SETTINGS, **CASES[name], "strategy.fraction-train": 1.0}
    evaluations = NODES if settings.get("strategy.fraction-evaluate") else 0
    whole = run(settings)
    # In round 4, when all but one, at least, have kept what they have after it.
    folder = killed(settings, NODES + 3 * (NODES + evaluations) + NODES - 1)
    assert kept_rounds(folder)[-1] == 3
    path = folder.checkpoints / "round-000003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    resumed(settings, folder)
    (event,) = (event for event in folder.events() if event["event"] == "run_resumed")
    assert event["round"] == 2
    assert "round-000003" in event["problems"][0]
    assert path.with_name(f"{path.name}.damaged").is_file()
    assert bits(folder) == bits(whole)
    assert [event["round"] for event in finished(folder)] == [1, 2, 3, 4]


def test_a_damaged_journal_is_named(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SETTINGS}
    folder = killed(settings, NODES + 2 + 1)
    with folder.journal.open("ab") as file:
        file.write(b"\0\0\0\0\n")  # as a loss of power may leave it
    with pytest.raises(RunFolderError, match="journal is damaged"):
        resumed(settings, folder)


def test_no_round_stands_twice_in_what_is_secret(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SETTINGS, **USER}
    folder = run(settings)
    (folder.checkpoints / "round-000004.safetensors").unlink()
    resumed(settings, folder)
    events = read_events(folder.path / "secret.jsonl")
    rounds = [event["round"] for event in events if event["event"] == "round_finished"]
    assert rounds == [1, 2, 3, 4]
    aside = read_events(folder.path / "interrupted-secret.jsonl")
    assert {event["round"] for event in aside} == {4}
    for name in ("secret.jsonl", "interrupted-secret.jsonl"):
        assert (folder.path / name).stat().st_mode & 0o777 == 0o600


def test_what_nodes_keep_and_send_only_their_owner_can_read(
    tiny_settings: dict[str, Any], own_home: Path
) -> None:
    for case in (LOSSY, SAMPLE):
        run({**tiny_settings, **SETTINGS, **case})
    kept = [path for path in (own_home / "nodes").rglob("*") if path.is_file()]
    kept = [path for path in kept if path.suffix != ".lock"]  # in which there is nothing
    assert {path.name for path in kept} >= {"spent.jsonl", "reply.bin", "round-000004.safetensors"}
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "lossy", "personal"])
@pytest.mark.parametrize("messages", [0, NODES, NODES + 1])
def test_a_run_without_any_round_begins_again(
    tiny_settings: dict[str, Any], name: str, messages: int
) -> None:
    settings = {**tiny_settings, **SETTINGS, **CASES[name]}
    folder = killed(settings, messages)
    assert kept_rounds(folder) == []
    resumed(settings, folder)
    assert bits(folder) == bits(run(settings))
    assert [event["round"] for event in finished(folder)] == [1, 2, 3, 4]
    names = [event["event"] for event in folder.events()]
    assert names.count("run_started") == names.count("roll_call") == 1


def test_what_the_first_round_spent_is_not_forgotten(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SETTINGS, **SAMPLE, "strategy.fraction-train": 1.0}
    folder = killed(settings, NODES + NODES - 1)  # the last one was not asked
    with pytest.raises(KilledError):
        again = {**settings, "resume": folder.path.name}
        run(again, Dying(NODES, again, NODES + 1))
    resumed(settings, folder)
    whole = run({**settings, "output.name": "whole"})
    ends = [one.events()[-2] for one in (folder, whole)]
    assert {end["event"] for end in ends} == {"privacy_statement"}
    assert ends[0]["nodes"] == ends[1]["nodes"]  # replies were kept, and sent again


@pytest.mark.parametrize(
    ("room", "what"), [(5_000, "Cannot write the checkpoint"), (10_000, "Cannot write the journal")]
)
def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(
    tiny_settings: dict[str, Any], own_home: Path, room: int, what: str
) -> None:
    settings = {**tiny_settings, **SETTINGS, "rounds": 8}
    whole = run({**settings, "output.name": "whole"})
    with no_room_beyond(room), pytest.raises(RunFolderError, match=f"{what}.*Make room there"):
        run(settings)
    (folder,) = (one for one in list_runs(runs_parent()) if one.path != whole.path)
    assert not list(folder.path.rglob("*.tmp*"))
    resumed(settings, folder)
    assert bits(folder, 8) == bits(whole, 8)
    assert [event["round"] for event in finished(folder)] == list(range(1, 9))


@pytest.mark.parametrize("where", ["/proc/nowhere", "{file}/below"])
def test_a_folder_that_cannot_be_made_is_named(
    tiny_settings: dict[str, Any], tmp_path: Path, where: str
) -> None:
    (tmp_path / "file").touch()
    place = where.format(file=tmp_path / "file")
    with pytest.raises(RunFolderError, match=f"Cannot create a run folder in {place}"):
        run({**tiny_settings, "output.dir": place})


@pytest.mark.parametrize("lost", [False, True])
def test_epsilon_is_never_less_than_what_was_released(
    tiny_settings: dict[str, Any], *, lost: bool
) -> None:
    # Killed in round 3, when both nodes had replied: kept replies are sent again, at no cost; where
    # one is lost, its node has spent the round twice.
    settings = {**tiny_settings, **SETTINGS, **SAMPLE, "strategy.fraction-train": 1.0}
    folder = killed(settings, NODES + 3 * NODES)  # before round 4
    checkpoint = folder.checkpoints / "round-000003.safetensors"
    checkpoint.unlink()  # killed before it was written
    books = [
        Book(path=memory_of(folder.path.name, node, PRIVACY).folder / "spent.jsonl")
        for node in range(NODES)
    ]
    assert [len(book.rows()) for book in books] == [3] * NODES
    if lost:
        (memory_of(folder.path.name, 1, PRIVACY).folder / "reply.bin").unlink()
    resumed(settings, folder)
    assert [len(book.rows()) for book in books] == [4, 5 if lost else 4, 4, 4]
    rows = folder.events()[-2]["rows"]
    told = (part.split(": ") for part in rows["epsilon of each node"].split(", "))
    stated = {node: float(spent) for node, spent in told}
    assert (stated["1"] > stated["0"]) == lost
