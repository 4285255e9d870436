"""How a thin process finds the worker, and what it does without one."""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fedpeft_app.errors import LaunchError
from fedpeft_app.warm import door as door_module
from fedpeft_app.warm.door import Door, NodeError, address_file, door, find_door, require_door
from fedpeft_app.warm.frames import receive, send


@contextmanager
def answering(path: Path, *reply: Any) -> Iterator[Door]:
    """Stand for a worker that says one thing; nothing = it hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                receive(connection)
                if reply:
                    send(connection, *reply)

        serving = Thread(target=serve)
        serving.start()
        yield Door(path=path)
        serving.join()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the paths of sockets must be short
    return Path("socket")


def ask(found: Door) -> bytes | None:
    return found.ask("train", b"order", run_config={"rounds": 1}, node_config={})


def say_where(**told: Any) -> None:
    address_file().parent.mkdir(parents=True)
    address_file().write_text(json.dumps(told), encoding="utf-8")


def test_what_the_worker_answers_is_the_answer(path: Path) -> None:
    with answering(path, {"status": "done"}, b"update") as found:
        assert ask(found) == b"update"


def test_what_fails_there_fails_here_in_its_words(path: Path) -> None:
    reply = {"status": "failed", "reason": "no such data"}
    with answering(path, reply) as found, pytest.raises(NodeError, match="no such data"):
        ask(found)


@pytest.mark.parametrize("reply", [[{"status": "refused", "reason": "other code"}], []])
def test_a_worker_that_refuses_or_hangs_up_leaves_the_work_to_the_process(
    path: Path, reply: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with answering(path, *reply) as found:
        assert ask(found) is None
    assert "worker" in caplog.text


def test_a_worker_that_is_gone_leaves_the_work_to_the_process(path: Path) -> None:
    assert ask(Door(path=path)) is None


def test_a_worker_is_found_by_its_home(path: Path) -> None:
    assert door() is None
    say_where(socket=str(path))
    assert door() == Door(path=path)
    with answering(path, {"pid": 7}):
        assert require_door() == Door(path=path)


@pytest.mark.parametrize("told", [{}, {"socket": None}, {"socket": "gone"}])
def test_what_a_dead_worker_left_is_no_worker(told: dict[str, Any], path: Path) -> None:
    say_where(**told)
    with pytest.raises(LaunchError, match="fedpeft worker start"):
        require_door()


def test_a_process_that_is_warm_itself_needs_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    say_where(socket="/run/x")
    monkeypatch.setitem(sys.modules, "ray", door_module)
    assert find_door() is None
    monkeypatch.delitem(sys.modules, "ray")
    assert find_door() is not None
