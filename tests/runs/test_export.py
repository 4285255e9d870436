"""Exports: stock PEFT and transformers compute what fedpeft measured, without fedpeft."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import LABELS, LocalGrid
from typer.testing import CliRunner

from fedpeft_app.cli.main import app
from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.data.encoded import example_set
from fedpeft_app.errors import RunFolderError
from fedpeft_app.restore import restore
from fedpeft_app.runs import export as export_module
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.training.evaluate import outputs

# Runs in a process of its own that cannot import fedpeft: for every folder, the code of its
# README as it stands, then the texts through what that code has loaded.
_STRANGER = """
import json, sys
sys.modules["fedpeft_app"] = None
import numpy
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer

job = json.load(open(sys.argv[1]))
found = {}
for name, (code, one_liner) in job["folders"].items():
    scope = {}
    exec(code, scope)
    model = eval(one_liner) if one_liner else scope["model"]
    inputs = scope["tokenizer"](
        job["texts"], truncation=True, max_length=16, padding=True, return_tensors="pt"
    )
    with scope["torch"].inference_mode():
        found[name] = model.eval()(**inputs).logits.numpy()
numpy.savez(sys.argv[2], **found)
"""


@dataclass(frozen=True)
class Exported:
    """A folder that `fedpeft export` wrote.

    Attributes:
        run: The run it is of.
        path: The folder.
        one_liner: What is promised to load it, besides the code of its README.
        library: The one that its README names.
    """

    run: RunFolder
    path: Path
    one_liner: str
    library: str

    @property
    def code(self) -> str:
        """The code in its README."""
        text = (self.path / "README.md").read_text(encoding="utf-8")
        return str(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1))  # type: ignore[union-attr]


_PEFT = "AutoPeftModelForSequenceClassification.from_pretrained({!r})"
_PLAIN = "AutoModelForSequenceClassification.from_pretrained({!r})"
_FORMS = {  # name → method, arguments of `fedpeft export`, one-liner, library
    "adapter": ("lora", [], "", "peft"),
    "self-contained": ("lora", ["--self-contained"], _PEFT, "peft"),
    "merged": ("lora", ["--merge"], _PLAIN, "transformers"),
    "head": ("head", [], "", "transformers"),
    "full": ("full", ["--self-contained"], _PLAIN, "transformers"),
}


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path
) -> dict[str, Exported]:
    """Three runs, and five exports of them."""
    home = tmp_path_factory.mktemp("home 'of' \"exports\"")  # quotes and blanks in the paths
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPEFT_HOME", str(home))
        runs = {method: _run(method, tiny_model, tiny_data) for method in ("lora", "head", "full")}
        for name, (method, options, one_liner, library) in _FORMS.items():
            path = home / name
            done = CliRunner().invoke(
                app, ["export", runs[method].path.name, *options, "--to", str(path)]
            )
            assert done.exit_code == 0, done.output
            found[name] = Exported(runs[method], path, one_liner.format(str(path)), library)
    return found


def _run(method: str, model: Path, data: Path) -> RunFolder:
    settings = {
        "rounds": 2,
        "model.name": str(model),
        "method.name": method,
        "method.rank": 2,
        "data.name": str(data),
        "data.max-length": 16,
        "data.partitioner": "iid",
        "train.learning-rate": 1e-2,
        "train.head-learning-rate": 5e-2,
        "train.precision": "fp32",
        "output.name": method,
    }
    return coordinate(LocalGrid(4, settings), parse(settings), run_id=1)


@pytest.fixture(scope="module")
def test_set(tiny_data: Path) -> tuple[list[str], np.ndarray]:
    """Texts and label numbers of the test set."""
    with (tiny_data / "test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([LABELS.index(row["label"]) for row in rows])
    return [row["text"] for row in rows], labels


@pytest.fixture(scope="module")
def computed(
    exported: dict[str, Exported],
    test_set: tuple[list[str], np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, np.ndarray]:
    """Logits of the test set, computed by a stranger: also after a folder was moved."""
    scratch = tmp_path_factory.mktemp("stranger")
    folders = {name: (found.code, found.one_liner) for name, found in exported.items()}
    folders["adapter as coded"] = folders["adapter"]
    for name in ("self-contained", "merged"):
        folders[f"{name} as coded"] = (exported[name].code, "")
    folders["moved"] = (_moved(exported["self-contained"], scratch / "moved"), "")
    job = {"folders": folders, "texts": test_set[0]}
    (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _STRANGER, "job.json", "found.npz"],
        cwd=scratch,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(scratch / "found.npz") as arrays:
        return dict(arrays)


def _moved(found: Exported, target: Path) -> str:
    """Copy a folder, and do what its README says to do then."""
    shutil.copytree(found.path, target)
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(found.path / "base")
    assert str(found.path / "base") in (target / "README.md").read_text(encoding="utf-8")
    config["base_model_name_or_path"] = str(target / "base")
    (target / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return re.sub(r'folder = ".*"\n', f"folder = {json.dumps(str(target))}\n", found.code)


@pytest.fixture(scope="module")
def own(
    exported: dict[str, Exported], test_set: tuple[list[str], np.ndarray]
) -> dict[str, np.ndarray]:
    """Logits of the test set, computed by fedpeft: method → logits."""
    found = {}
    for name in ("adapter", "head", "full"):
        run = exported[name].run
        config = parse(run.config())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FEDPEFT_HOME", str(run.path.parent.parent))
            restored = restore(run, config, run.events()[-1]["round"])
        ids = restored.processor(test_set[0], truncation=True, max_length=16)["input_ids"]
        from fedpeft_app.data_plan import make_task

        found[config.method.name] = outputs(
            restored.adapted, make_task(config), example_set(ids), batch_size=7
        )
    return found


_METHOD = {name: method for name, (method, *_) in _FORMS.items()}
_METHOD |= {f"{name} as coded": "lora" for name in ("adapter", "self-contained", "merged")}
_METHOD["moved"] = "lora"


@pytest.mark.parametrize("name", _METHOD)
def test_a_stock_library_computes_the_same(
    computed: dict[str, np.ndarray], own: dict[str, np.ndarray], name: str
) -> None:
    expected = own[_METHOD[name]]
    assert np.abs(expected).max() > 0.1  # not all alike
    np.testing.assert_allclose(computed[name], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", _FORMS)
def test_the_accuracy_is_the_one_in_the_journal(
    computed: dict[str, np.ndarray],
    exported: dict[str, Exported],
    test_set: tuple[list[str], np.ndarray],
    name: str,
) -> None:
    journalled = exported[name].run.events()[-1]["test"]["accuracy"]
    assert float((computed[name].argmax(axis=1) == test_set[1]).mean()) == journalled


@pytest.mark.parametrize("name", ["self-contained", "merged", "full"])
def test_labels_are_in_the_models_config(exported: dict[str, Exported], name: str) -> None:
    path = exported[name].path
    folder = path / "base" if name == "self-contained" else path
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "crude", "1": "grain", "2": "money"}
    assert config["label2id"] == {"crude": 0, "grain": 1, "money": 2}


@pytest.mark.parametrize("name", _FORMS)
def test_a_folder_has_labels_tokenizer_and_weights(
    exported: dict[str, Exported], name: str
) -> None:
    path = exported[name].path
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert {"README.md", "labels.json", "tokenizer.json", "tokenizer_config.json"} <= files
    weights = {file for file in files if file.endswith(".safetensors")}
    wanted = {"adapter_model.safetensors"} if name in ("adapter", "self-contained") else set()
    wanted |= {"base/model.safetensors"} if name == "self-contained" else set()
    wanted |= {"adapter.safetensors"} if name == "head" else set()
    assert weights == (wanted or {"model.safetensors"})
    assert json.loads((path / "labels.json").read_text(encoding="utf-8")) == list(LABELS)


@pytest.mark.parametrize("name", _FORMS)
def test_the_card_is_what_the_hub_reads(exported: dict[str, Exported], name: str) -> None:
    _, front, text = (
        (exported[name].path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    )
    assert yaml.safe_load(front) == {
        "library_name": exported[name].library,
        "pipeline_tag": "text-classification",
        "tags": ["federated-learning", "fedpeft"],
    }
    test = exported[name].run.events()[-1]["test"]
    assert f"| test accuracy | {round(test['accuracy'], 4)} |" in text
    assert "| labels | crude, grain, money |" in text
    assert "On another machine" in text


def test_the_card_says_where_the_base_model_is(
    exported: dict[str, Exported], tiny_model: Path
) -> None:
    text = (exported["adapter"].path / "README.md").read_text(encoding="utf-8")
    assert f"`base_model_name_or_path` in `adapter_config.json`: it is `{tiny_model}`" in text
    config = json.loads(
        (exported["adapter"].path / "adapter_config.json").read_text(encoding="utf-8")
    )
    assert config["base_model_name_or_path"] == str(tiny_model)


def test_a_run_exports_what_the_command_exports(exported: dict[str, Exported]) -> None:
    found = exported["adapter"]
    by_run = (found.run.adapter / "adapter_model.safetensors").read_bytes()
    assert (found.path / "adapter_model.safetensors").read_bytes() == by_run
    tables = [
        [
            line
            for line in (folder / "README.md").read_text(encoding="utf-8").splitlines()
            if line.startswith("| ")
        ]
        for folder in (found.path, found.run.adapter)
    ]
    assert tables[0] == tables[1]
    assert f"| run | {found.run.path.name} |" in tables[0]


@pytest.mark.parametrize("kind", ["file", "folder", "labels"])
def test_a_foreign_folder_is_refused(
    exported: dict[str, Exported], tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("mine", encoding="utf-8")
    else:
        target.mkdir()
        name = "labels.json" if kind == "labels" else "mine.txt"
        (target / name).write_text("mine", encoding="utf-8")
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]
    with pytest.raises(RunFolderError, match="precious exists and is no export of fedpeft"):
        _export_again(exported["adapter"], target)
    assert [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))] == before


def test_an_empty_folder_and_an_earlier_export_are_replaced(
    exported: dict[str, Exported], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    _export_again(exported["adapter"], target)
    (target / "stale.txt").touch()
    _export_again(exported["adapter"], target)
    assert (target / "adapter_model.safetensors").exists()
    assert not (target / "stale.txt").exists()
    assert os.listdir(tmp_path) == ["target"]


def test_a_failing_export_leaves_the_earlier_one_and_no_litter(
    exported: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    _export_again(exported["adapter"], target)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_bytes", fail)
    with pytest.raises(RunFolderError, match="Cannot export to .*No space left"):
        _export_again(exported["adapter"], target)
    assert (target / "README.md").exists()
    assert os.listdir(tmp_path) == ["target"]


def _export_again(found: Exported, target: Path) -> None:
    """Run `fedpeft export` once more, errors passing through."""
    arguments = ["export", str(found.run.path), "--to", str(target)]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
