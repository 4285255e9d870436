"""MLflow and W&B, as they are: what is logged is read back with their own libraries."""

import json
import struct
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from fedpeft_app.errors import ConfigError
from fedpeft_app.observe.observers import extra
from fedpeft_app.observe.observers.mlflow import MLflow
from fedpeft_app.observe.observers.observer import Observer, Outcome, Watched
from fedpeft_app.observe.observers.wandb import WeightsAndBiases

_CONFIG = {"rounds": 3, "strategy.name": "fedavg", "resume": ""}
_END = {"event": "run_finished", "round": 3, "test": {"accuracy": 0.5}, "seconds": 9.0}


def follow(
    observer: Observer, folder: Path, rounds: range, since: int = 0, outcome: Outcome = "finished"
) -> None:
    """Let an observer watch rounds go by."""
    observer.begin(Watched(folder=folder, config=_CONFIG, round_number=since))
    for number in rounds:
        validation = {"accuracy": number / 8}
        observer.tell({"event": "round_finished", "round": number, "validation": validation})
        observer.tell({"event": "reply", "round": number, "node": 1, "problem": ""})
    if outcome == "finished":
        observer.tell(_END)
    observer.end(outcome)


@pytest.mark.filterwarnings("default")  # theirs are not ours to heed
def test_mlflow_has_one_run_with_all_rounds(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    follow(MLflow(tracking_uri=uri, experiment="trials"), tmp_path, range(1, 3), outcome="failed")
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("trials")
    (failed,) = client.search_runs([experiment.experiment_id])
    assert failed.info.status == "FAILED"
    follow(MLflow(tracking_uri=uri, experiment="trials"), tmp_path, range(3, 4), since=2)
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    assert run.data.params == {"rounds": "3", "strategy.name": "fedavg"}
    history = client.get_metric_history(run.info.run_id, "validation/accuracy")
    assert [(one.step, one.value) for one in history] == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert run.data.metrics["run/test-accuracy"] == 0.5


@pytest.mark.filterwarnings("default")
def test_mlflow_that_cannot_be_reached_raises(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    observer = MLflow(tracking_uri="sqlite:////proc/nowhere/mlflow.db")
    with pytest.raises(Exception, match="mlflow|unable|proc"):
        follow(observer, tmp_path, range(1, 2))


@pytest.mark.filterwarnings("default")
def test_wandb_has_all_rounds_and_nothing_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    follow(WeightsAndBiases(mode="offline"), tmp_path, range(1, 3), outcome="failed")
    follow(WeightsAndBiases(mode="offline"), tmp_path, range(3, 4), since=2)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2  # `wandb sync` makes one run of them: they have one id
    name = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert all(file.name == f"run-{name}.wandb" for file in files)
    logged, kinds = [], set()
    for file in files:
        for record in records_of(file):
            kinds.add(record.WhichOneof("record_type"))
            if record.HasField("history"):
                row = {"/".join(one.nested_key) or one.key: one for one in record.history.item}
                logged.append(
                    tuple(
                        json.loads(row[key].value_json) for key in ("round", "validation/accuracy")
                    )
                )
    assert logged == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert not kinds & {"stats", "output", "output_raw", "artifact", "alert"}


def records_of(file: Path) -> list[Any]:
    """Read W&B's own log of a run: LevelDB's format, behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, found, parts = file.read_bytes(), 7, [], b""
    while at + 7 <= len(content):
        if 0 < (room := -at % 32768) < 7:  # nothing begins in the last six bytes of a block
            at += room
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


@pytest.mark.parametrize(("name", "observer"), [("mlflow", MLflow), ("wandb", WeightsAndBiases)])
@pytest.mark.parametrize("found", [None, ModuleSpec("any", None)])  # or a folder of that name
def test_a_missing_library_is_refused_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch, name: str, observer: type, found: ModuleSpec | None
) -> None:
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(extra, "find_spec", lambda wanted: found)
    with pytest.raises(
        ConfigError, match=rf"observe.to = '{name}'.*pip install 'fedpeft\[{name}\]'"
    ):
        observer()


def test_options_that_cannot_be_right_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: ModuleSpec(name, None, origin="there"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="expected a tracking_uri, or MLFLOW_TRACKING_URI"):
        MLflow()
    with pytest.raises(ValueError, match="'online' or 'offline', got 'of'"):
        WeightsAndBiases(mode="of")
