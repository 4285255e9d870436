"""Who a node is: drawn once, kept, and never mistaken for another."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedpeft_app.errors import NodeStateError
from fedpeft_app.node import identity as node_identity
from fedpeft_app.node.identity import identity, node_name, node_number
from fedpeft_app.node.memory import forget, memory_of
from fedpeft_app.node.shared_home import SHARED_MARK


def test_a_node_stays_who_it_is() -> None:
    assert identity({}) == identity({"data-path": "/elsewhere"})
    assert len(identity({})) == 32


def test_nodes_that_share_a_home_are_told_apart_by_their_names() -> None:
    found = {identity({}), identity({"name": "ward-3"}), identity({"name": "ward-4"})}
    assert len(found) == 3


def test_machines_draw_identities_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = identity({})
    monkeypatch.setenv("FEDPEFT_HOME", str(tmp_path / "other"))
    assert identity({}) != here


def test_processes_that_ask_at_once_agree() -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(identity, [{}] * 64))) == 1


def test_a_node_that_was_given_a_number_has_that_and_no_identity(own_home: Path) -> None:
    assert (identity({"partition-id": 3}), node_number({"partition-id": 3})) == ("", 3)
    assert not own_home.exists()


def test_the_number_of_a_node_follows_from_its_identity() -> None:
    assert node_number({}) == int(identity({})[:15], 16) != node_number({"name": "ward-3"})


def test_only_its_owner_can_read_it(own_home: Path) -> None:
    identity({})
    assert (own_home / "identity" / "unnamed").stat().st_mode & 0o077 == 0


def test_a_damaged_identity_is_refused_not_drawn_anew(own_home: Path) -> None:
    identity({})
    (own_home / "identity" / "unnamed").write_text("", encoding="utf-8")
    with pytest.raises(NodeStateError, match="Bring the file back from a backup"):
        identity({})


@pytest.mark.parametrize("name", ["../x", "a b", "-x", "x" * 65, "näme"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(NodeStateError, match="for name in this node's --node-config"):
        node_name({"name": name})


def test_no_experiment_has_the_place_of_an_identity(own_home: Path) -> None:
    for node in ({}, {"name": "ward"}, {"name": "unnamed"}):
        before = identity(node)
        for name in ("identity", "identity-ward", "unnamed", "name-ward", "all-books.lock"):
            memory_of(name, 0).folder.mkdir(parents=True, exist_ok=True)
            forget(name)
        assert identity(node) == before
    assert len(os.listdir(own_home / "identity")) == 3


def test_a_file_system_without_hard_links_will_do(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    drawn = identity({})
    assert identity({}) == drawn
    assert [path.name for path in (own_home / "identity").iterdir()] == ["unnamed"]
    assert (own_home / "identity" / "unnamed").stat().st_mode & 0o077 == 0


def test_what_fails_leaves_nothing_behind(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(node_identity, "_create_plainly", refuse)
    with pytest.raises(NodeStateError, match="Cannot keep who this node is"):
        identity({})
    assert not list((own_home / "identity").iterdir())


def test_no_identity_is_drawn_where_the_home_of_a_cluster_is_another(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED_MARK, str(tmp_path / "flower-1-2-3"))
    with pytest.raises(NodeStateError, match="all machines of the cluster share"):
        identity({})
    assert not own_home.exists()
