"""Checkpoints: bit for bit what was saved, or an error."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.config import defaults
from fedpeft_app.errors import RunFolderError
from fedpeft_app.runs.checkpoint import (
    Checkpoint,
    examine_checkpoint,
    kept_rounds,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from fedpeft_app.runs.directory import RunFolder, create_run
from fedpeft_app.snapshot import Snapshot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An empty run."""
    return create_run(tmp_path_factory.mktemp("runs"), "demo", run_id=1, config=defaults())


@pytest.fixture
def saved(folder: RunFolder, state: AdapterState) -> Path:
    """The file of a checkpoint of round 7."""
    metrics = {"precision": "fp32", "test": {"accuracy": 1 / 3}}
    progress = Snapshot(values={"seen": [1, 2]}, arrays={"moments": np.arange(5.0)})
    checkpoint = Checkpoint(state=state, round_number=7, metrics=metrics, progress=progress)
    return save_checkpoint(folder, checkpoint)


def test_a_checkpoint_comes_back_whole(
    folder: RunFolder, saved: Path, state: AdapterState, spec: AdapterSpec
) -> None:
    loaded = load_checkpoint(folder, 7)
    assert loaded.state.spec == spec
    assert loaded.state.vector.tobytes() == state.vector.tobytes()
    assert loaded.round_number == 7
    assert loaded.metrics == {"precision": "fp32", "test": {"accuracy": 1 / 3}}


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=7, max_size=7))
def test_every_bit_pattern_survives(folder_of_bits: RunFolder, bits: list[int]) -> None:
    vector = np.array(bits, dtype=np.uint32).view(np.float32)  # NaNs, infinities, −0, subnormals
    state = AdapterState(spec=_SPEC, vector=vector)
    save_checkpoint(folder_of_bits, Checkpoint(state=state, round_number=1, metrics={}))
    loaded = load_checkpoint(folder_of_bits, 1).state.vector
    assert loaded.view(np.uint32).tolist() == bits


_SPEC = AdapterSpec.from_json(
    {
        "method": "lora",
        "backbone": "0" * 16,
        "tensors": [{"name": "a", "shape": [7], "head": False, "frozen": False}],
        "ranks": {},
        "scaling": 1.0,
    }
)


@pytest.fixture(scope="module")
def folder_of_bits(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Another empty run."""
    return create_run(tmp_path_factory.mktemp("bits"), "demo", run_id=1, config=defaults())


def test_a_cut_file_is_refused_wherever_it_is_cut(folder: RunFolder, saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        with pytest.raises(RunFolderError, match="is damaged"):
            load_checkpoint(folder, 7)


def test_a_flipped_bit_in_the_values_is_refused(folder: RunFolder, saved: Path) -> None:
    whole = saved.read_bytes()
    for position in range(len(whole) - 7 * 4, len(whole)):  # of arrays, at the end
        saved.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(RunFolderError, match="does not have the digest"):
            load_checkpoint(folder, 7)


def test_no_damage_goes_unnoticed(folder: RunFolder, saved: Path) -> None:
    # A thousand files, each cut or with some bits flipped, also in the header: they are refused,
    # by our own error, or hold what was saved (spaces after the header mean nothing).
    whole, generator = saved.read_bytes(), np.random.default_rng(0)
    right = load_checkpoint(folder, 7)
    for _ in range(1_000):
        content = bytearray(whole)
        for _ in range(generator.integers(1, 5)):
            content[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
        if generator.random() < 0.3:
            del content[generator.integers(len(content)) :]
        saved.write_bytes(bytes(content))
        try:
            found = load_checkpoint(folder, 7)
        except RunFolderError:
            continue
        assert found.state.vector.tobytes() == right.state.vector.tobytes()
        assert found.metrics == right.metrics
        assert found.progress is not None
        assert right.progress is not None
        assert found.progress.values == right.progress.values
        assert found.progress.arrays["moments"].tobytes() == np.arange(5.0).tobytes()


def test_progress_comes_back_whole(folder: RunFolder, state: AdapterState) -> None:
    arrays = {"server/moments": np.arange(3.0), "wire/left": np.array([1, 255], dtype=np.uint8)}
    values = {"server": {"steps": 3}, "wire": {"seen": {"0": 2}}}
    progress = Snapshot(values=values, arrays=arrays)
    save_checkpoint(folder, Checkpoint(state=state, round_number=8, progress=progress))
    loaded = load_checkpoint(folder, 8).progress
    assert loaded is not None
    assert loaded.values == values
    assert {name: array.dtype for name, array in loaded.arrays.items()} == {
        "server/moments": np.float64,
        "wire/left": np.uint8,
    }
    assert all(np.array_equal(loaded.arrays[name], arrays[name]) for name in arrays)


def test_a_file_of_the_first_format_is_a_state_that_nobody_can_go_on_from(
    folder: RunFolder, saved: Path, state: AdapterState
) -> None:
    meta = {
        "format": "fedpeft-adapter-1",
        "spec": json.dumps(state.spec.to_json()),
        "round": "7",
        "metrics": "{}",
        "sha256": hashlib.sha256(state.vector.tobytes()).hexdigest(),
    }
    save_file({"vector": state.vector}, saved, metadata=meta)
    loaded = load_checkpoint(folder, 7)
    assert loaded.state.vector.tobytes() == state.vector.tobytes()
    assert loaded.progress is None


def test_a_format_to_come_is_refused_by_name_and_not_called_damaged(
    folder: RunFolder, saved: Path
) -> None:
    meta = {"format": "fedpeft-checkpoint-3", "sha256": "0" * 64}
    save_file({"vector": np.zeros(7, np.float32)}, saved, metadata=meta)
    for read in (load_checkpoint, examine_checkpoint):
        with pytest.raises(RunFolderError, match="got fedpeft-checkpoint-3, in .*another version"):
            read(folder, 7)


def test_a_format_with_a_flipped_bit_is_damage(folder: RunFolder, saved: Path) -> None:
    content = saved.read_bytes()
    for wrong in (b"fedpeft-checkpoint-3", b"fedpeft-chebkpoint-2"):
        saved.write_bytes(content.replace(b"fedpeft-checkpoint-2", wrong))
        assert "is damaged: expected format" in str(examine_checkpoint(folder, 7))


def test_what_cannot_be_read_now_is_not_called_damaged(folder: RunFolder, saved: Path) -> None:
    saved.unlink()
    saved.mkdir()
    try:
        with pytest.raises(RunFolderError, match="Cannot read the checkpoint .*may be sound"):
            examine_checkpoint(folder, 7)
    finally:
        saved.rmdir()


def test_another_programs_file_is_refused(folder: RunFolder, saved: Path) -> None:
    save_file({"vector": np.zeros(7, np.float32)}, saved)
    with pytest.raises(RunFolderError, match="is damaged: 'format'"):
        load_checkpoint(folder, 7)


def test_pruning_keeps_what_is_to_be_kept(folder: RunFolder, state: AdapterState) -> None:
    for number in (1, 2, 10, 1_000_000):
        save_checkpoint(folder, Checkpoint(state=state, round_number=number, metrics={}))
    (folder.checkpoints / "round-notes.safetensors").touch()
    prune(folder, {2, 1_000_000, 5})
    assert kept_rounds(folder) == [2, 1_000_000]
    assert (folder.checkpoints / "round-notes.safetensors").exists()


def test_a_pruned_round_says_what_is_kept(folder: RunFolder, state: AdapterState) -> None:
    prune(folder, set())
    with pytest.raises(RunFolderError, match="No checkpoint of round 3 in .*; kept: none"):
        load_checkpoint(folder, 3)
    for number in (2, 4):
        save_checkpoint(folder, Checkpoint(state=state, round_number=number, metrics={}))
    with pytest.raises(RunFolderError, match=r"kept: 2, 4\. Run with output.keep = 'all'"):
        load_checkpoint(folder, 3)
