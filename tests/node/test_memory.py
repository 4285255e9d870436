"""A node's memory: bits come back, the base outlives its successor, and damage is named."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.errors import NodeStateError
from fedpeft_app.node.memory import (
    BROADCAST,
    PERSONAL,
    PRIVACY,
    REPLY,
    RESIDUAL,
    SPENT,
    NodeMemory,
    erase,
    experiment_folder,
    forget,
    memory_of,
)
from fedpeft_app.node.shared_home import SHARED_MARK
from fedpeft_app.node_privacy import SampleLevel

FLOATS = st.floats(width=32, allow_nan=False)


@pytest.fixture
def memory(tmp_path: Path) -> NodeMemory:
    return NodeMemory(folder=tmp_path / "node")


def state_of(spec: AdapterSpec, value: float) -> AdapterState:
    """Make a state of one value throughout."""
    return AdapterState(spec=spec, vector=np.full(spec.size, value, dtype=np.float32))


def own_spec() -> AdapterSpec:
    """Describe parameters of a node's own: two of them."""
    tensor = TensorSpec(name="own", shape=(2,))
    return AdapterSpec(method="lora", backbone="x", tensors=(tensor,), ranks={})


def only_file(memory: NodeMemory) -> Path:
    (path,) = memory.folder.glob("round-*")
    return path


@given(vector=arrays(np.float32, 7, elements=FLOATS), version=st.integers(1, 10**7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_kept_comes_back_bit_for_bit(
    memory: NodeMemory, state: AdapterState, vector: np.ndarray, version: int
) -> None:
    memory.keep({PERSONAL: AdapterState(spec=state.spec, vector=vector)}, version, base=0)
    recalled = memory.recall(PERSONAL, state, version)
    assert recalled.vector.tobytes() == vector.tobytes()
    assert recalled.spec == state.spec
    assert version in memory.rounds()  # beside newer ones of other examples


def test_version_0_is_what_the_node_started_with(memory: NodeMemory, state: AdapterState) -> None:
    assert memory.recall(PERSONAL, state, 0) is state
    memory.keep({PERSONAL: state_of(state.spec, 1.0)}, 3, base=0)
    assert memory.recall(PERSONAL, state, 0) is state


def test_nothing_is_made_before_something_is_kept(memory: NodeMemory, state: AdapterState) -> None:
    assert memory.rounds() == []
    memory.recall(PERSONAL, state, 0)
    assert not memory.folder.exists()


def test_the_newest_its_base_and_the_base_of_that_stay_and_all_others_go(
    memory: NodeMemory, spec: AdapterSpec
) -> None:
    kept = []
    # The reply of round 4 is lost: the server lets round 6 start from 2 again.
    for version, base in ((1, 0), (2, 1), (4, 2), (6, 2), (7, 6)):
        memory.keep({PERSONAL: state_of(spec, version)}, version, base)
        kept.append(memory.rounds())
    assert kept == [[1], [1, 2], [1, 2, 4], [1, 2, 6], [2, 6, 7]]
    assert memory.recall(PERSONAL, state_of(spec, 0.0), 6).vector[0] == 6.0


def test_a_node_that_comes_late_takes_nothing_newer_away(
    memory: NodeMemory, spec: AdapterSpec
) -> None:
    kept = []
    # Round 5 ends after round 6, which the server counts on; the next version clears up.
    for version, base in ((3, 0), (6, 3), (5, 3), (8, 6), (7, 6), (9, 8)):
        memory.keep({PERSONAL: state_of(spec, version)}, version, base)
        kept.append(memory.rounds())
    assert kept == [[3], [3, 6], [3, 5, 6], [3, 6, 8], [3, 6, 7, 8], [6, 8, 9]]


def test_a_server_that_falls_back_by_a_round_finds_what_the_node_had(
    memory: NodeMemory, spec: AdapterSpec
) -> None:
    # Replies of rounds 4 and 5 do not count. In round 8 the checkpoint of 7 is damaged.
    for version, base in ((1, 0), (3, 1), (4, 3), (5, 3), (6, 3), (7, 6), (8, 7)):
        memory.keep({PERSONAL: state_of(spec, version)}, version, base)
    assert memory.recall(PERSONAL, state_of(spec, 0.0), 6).vector[0] == 6.0
    memory.keep({PERSONAL: state_of(spec, 7.5)}, 7, base=6)  # once more
    memory.keep({PERSONAL: state_of(spec, 8.5)}, 8, base=7)
    assert memory.rounds() == [6, 7, 8]


def test_a_base_that_does_not_say_its_own_is_kept_alone(
    memory: NodeMemory, spec: AdapterSpec
) -> None:
    from safetensors.numpy import save_file

    for version in (1, 2):
        memory.keep({PERSONAL: state_of(spec, version)}, version, base=version - 1)
    save_file({PERSONAL: np.zeros(7, np.float32)}, memory.folder / "round-000002.safetensors")
    memory.keep({PERSONAL: state_of(spec, 3.0)}, 3, base=2)
    assert memory.rounds() == [2, 3]


def test_what_a_node_keeps_only_its_owner_can_read(memory: NodeMemory, state: AdapterState) -> None:
    memory.keep({PERSONAL: state}, 1, base=0)
    assert only_file(memory).stat().st_mode & 0o777 == 0o600


def test_what_a_killed_node_left_goes_with_a_later_version(
    memory: NodeMemory, state: AdapterState
) -> None:
    memory.folder.mkdir()
    for version in (1, 2, 3):
        (memory.folder / f".round-00000{version}.safetensors.0123456789abcdef.tmp").touch()
    memory.keep({PERSONAL: state}, 2, base=0)  # others may be at work on 2 and 3
    left = {path.name[:13] for path in memory.folder.glob(".*")}
    assert left == {".round-000002", ".round-000003"}


def test_of_the_global_state_too_the_newest_stays(memory: NodeMemory, spec: AdapterSpec) -> None:
    for version in (4, 6, 5):
        memory.keep({BROADCAST: state_of(spec, version)}, version, base=version)
    assert memory.rounds() == [5, 6]
    memory.keep({BROADCAST: state_of(spec, 7)}, 7, base=7)
    assert memory.rounds() == [7]


def test_a_round_that_is_done_again_replaces_its_version(
    memory: NodeMemory, spec: AdapterSpec
) -> None:
    memory.keep({PERSONAL: state_of(spec, 1.0)}, 1, base=0)
    memory.keep({PERSONAL: state_of(spec, 2.0)}, 2, base=1)
    memory.keep({PERSONAL: state_of(spec, 3.0)}, 2, base=1)
    assert memory.rounds() == [1, 2]
    assert memory.recall(PERSONAL, state_of(spec, 0.0), 2).vector[0] == 3.0


def test_a_missing_version_is_named_with_those_that_are_kept(
    memory: NodeMemory, spec: AdapterSpec, state: AdapterState
) -> None:
    memory.keep({PERSONAL: state_of(spec, 3.0)}, 3, base=0)
    memory.keep({PERSONAL: state_of(spec, 5.0)}, 5, base=3)
    with pytest.raises(NodeStateError) as caught:
        memory.recall(PERSONAL, state, 4)
    assert f"round 4 (personal) in {memory.folder}, found versions: 3, 5" in str(caught.value)


def test_a_node_that_lost_everything_is_refused(memory: NodeMemory, state: AdapterState) -> None:
    with pytest.raises(NodeStateError, match="found versions: none"):
        memory.recall(PERSONAL, state, 1)


@pytest.mark.parametrize("end", [0, 20, -1])
def test_a_truncated_file_is_refused(memory: NodeMemory, state: AdapterState, end: int) -> None:
    memory.keep({PERSONAL: state}, 1, base=0)
    path = only_file(memory)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(NodeStateError, match=r"found versions: 1 \("):
        memory.recall(PERSONAL, state, 1)


def test_one_flipped_bit_is_refused(memory: NodeMemory, state: AdapterState) -> None:
    memory.keep({PERSONAL: state}, 1, base=0)
    path = only_file(memory)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the values stand at the end
    path.write_bytes(content)
    with pytest.raises(NodeStateError, match="do not have the digest in its header"):
        memory.recall(PERSONAL, state, 1)


def test_another_adapters_file_is_refused(memory: NodeMemory, state: AdapterState) -> None:
    memory.keep({PERSONAL: state}, 1, base=0)
    other = AdapterSpec(
        method="lora",
        backbone=state.spec.backbone,
        tensors=(TensorSpec(name="other", shape=(7,)),),
        ranks={},
    )
    with pytest.raises(NodeStateError, match="belongs to another adapter"):
        memory.recall(PERSONAL, state_of(other, 0.0), 1)


def test_a_file_of_another_format_is_refused(memory: NodeMemory, state: AdapterState) -> None:
    from safetensors.numpy import save_file

    memory.keep({PERSONAL: state}, 1, base=0)
    save_file({PERSONAL: state.vector}, only_file(memory))
    with pytest.raises(NodeStateError, match="expected format 'fedpeft-memory-1', got None"):
        memory.recall(PERSONAL, state, 1)


def test_what_cannot_be_written_says_what_to_do(tmp_path: Path, state: AdapterState) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NodeStateError, match="Cannot keep .* set FEDPEFT_HOME"):
        NodeMemory(folder=tmp_path / "file" / "node").keep({PERSONAL: state}, 1, base=0)


def test_a_failing_write_leaves_the_former_versions_and_no_litter(
    memory: NodeMemory, state: AdapterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.keep({PERSONAL: state}, 1, base=0)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(NodeStateError, match="No space left"):
        memory.keep({PERSONAL: state_of(state.spec, 9.0)}, 2, base=1)
    assert os.listdir(memory.folder) == ["round-000001.safetensors"]
    assert memory.recall(PERSONAL, state, 1).vector.tobytes() == state.vector.tobytes()


def test_what_a_node_keeps_together_comes_back_by_name(
    memory: NodeMemory, spec: AdapterSpec, state: AdapterState
) -> None:
    personal = AdapterState(spec=own_spec(), vector=np.full(2, 5.0, dtype=np.float32))
    memory.keep({PERSONAL: personal, RESIDUAL: state}, 1, base=0)
    assert memory.recall(PERSONAL, state_of(own_spec(), 0.0), 1).vector.tolist() == [5.0, 5.0]
    assert memory.recall(RESIDUAL, state_of(spec, 0.0), 1).vector.tolist() == list(range(7))
    assert memory.rounds() == [1]


def test_a_name_that_was_not_kept_is_refused(memory: NodeMemory, state: AdapterState) -> None:
    memory.keep({PERSONAL: state}, 1, base=0)
    with pytest.raises(NodeStateError, match=r"of round 1 \(residual\) in .*found versions: 1 \("):
        memory.recall(RESIDUAL, state, 1)


def test_a_memory_apart_has_versions_of_its_own(spec: AdapterSpec, state: AdapterState) -> None:
    own, broadcast = memory_of("run-a", 0), memory_of("run-a", 0, BROADCAST)
    own.keep({PERSONAL: state}, 2, base=1)
    for version in (7, 8):
        broadcast.keep({BROADCAST: state_of(spec, version)}, version, version)
    assert (own.rounds(), broadcast.rounds()) == ([2], [8])
    assert broadcast.recall(BROADCAST, state, 8).vector[0] == 8.0


def test_nodes_and_experiments_do_not_share(state: AdapterState) -> None:
    memory_of("run-a", 0).keep({PERSONAL: state}, 1, base=0)
    assert memory_of("run-a", 0).rounds() == [1]
    assert memory_of("run-a", 1).rounds() == memory_of("run-b", 0).rounds() == []


def test_after_a_run_what_only_a_node_has_is_left(state: AdapterState) -> None:
    for run in ("run-a", "run-b"):
        for node in (0, 1):
            memory_of(run, node).keep({RESIDUAL: state}, 2, base=1)
            memory_of(run, node, BROADCAST).keep({BROADCAST: state}, 3, base=3)
    scratch = memory_of("run-a", 1).folder / ".round-000002.safetensors.0123456789abcdef.tmp"
    scratch.touch()
    forget("run-a")
    forget("run-of-another-machine")
    assert memory_of("run-a", 1).rounds() == [2]
    assert not memory_of("run-a", 1, BROADCAST).folder.exists()
    assert not scratch.exists()
    assert memory_of("run-b", 1, BROADCAST).rounds() == [3]


def test_of_nodes_that_only_followed_nothing_is_left(state: AdapterState) -> None:
    memory_of("run-a", 1, BROADCAST).keep({BROADCAST: state}, 3, base=3)
    forget("run-a")
    assert not experiment_folder("run-a").exists()


def test_what_was_spent_outlives_the_run_and_its_removal(
    state: AdapterState, own_home: Path
) -> None:
    kept = memory_of("run-a", 1, PRIVACY).folder
    kept.mkdir(parents=True)
    for name in (SPENT, REPLY):
        (kept / name).write_text(name)
    memory_of("run-a", 2).keep({PERSONAL: state}, 2, base=1)
    forget("run-a")
    assert {path.name for path in kept.iterdir()} == {SPENT, REPLY}
    erase("run-a")
    (left,) = [path for path in experiment_folder("run-a").rglob("*") if path.is_file()]
    assert (left, left.read_text()) == (kept / SPENT, SPENT)


def test_where_nothing_was_spent_nothing_is_left(state: AdapterState, own_home: Path) -> None:
    for version in (1, 2, 3):
        memory_of("run-a", 1).keep({PERSONAL: state, RESIDUAL: state}, version, base=version - 1)
    (memory_of("run-a", 1).folder / ".round-000003.safetensors.0123456789abcdef.tmp").touch()
    memory_of("run-a", 1, BROADCAST).keep({BROADCAST: state}, 2, base=1)
    erase("run-a")
    assert not experiment_folder("run-a").exists()


def test_memories_lie_in_the_home_folder(own_home: Path) -> None:
    assert memory_of("run-a", 12).folder == own_home / "nodes" / "run-a" / "node-0012"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../runs", "a/b", "/etc", ".hidden", "a\\b", "a\0", "a\n", "é", "x" * 129],
)
def test_what_is_no_plain_name_is_no_experiment(name: str) -> None:
    with pytest.raises(NodeStateError, match="Expected the name of an experiment, got"):
        experiment_folder(name)
    with pytest.raises(NodeStateError, match="Expected the name of an experiment, got"):
        memory_of(name, 0)
    with pytest.raises(NodeStateError, match="Expected the name of an experiment, got"):
        forget(name)


def test_a_machine_that_does_not_share_the_home_of_its_cluster_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "flower-1-2-3"
    monkeypatch.setenv(SHARED_MARK, str(mark))
    with pytest.raises(NodeStateError, match="all machines of the cluster share"):
        memory_of("run", 0)
    mark.mkdir()
    assert memory_of("run", 0).rounds() == []


def test_a_privacy_book_is_not_begun_anew_where_the_home_is_another(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED_MARK, str(tmp_path / "flower-1-2-3"))
    with pytest.raises(NodeStateError):
        SampleLevel(delta=1e-5, target=4.0).budget("run", 0)
    assert not own_home.exists()
