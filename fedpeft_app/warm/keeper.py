"""The daemon of a node: listens on a socket that only its owner can open, and hands work on."""

import contextlib
import json
import logging
import os
import secrets
import select
import shutil
import signal
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from fedpeft_app import __version__
from fedpeft_app.atomic import make_folder, write_bytes
from fedpeft_app.errors import LaunchError, WireError
from fedpeft_app.mirrors import home
from fedpeft_app.warm.door import ASK, FAILED, REFUSED, STATUS, STOP, address_file, folder
from fedpeft_app.warm.frames import receive, send
from fedpeft_app.warm.trainers import Limits, Machine, Trainers, start_ray

_TIDY_S = 1.0
_SCRATCH = "fedpeft-worker-"
_LONGEST_PATH = 100  # of a socket: the system takes 107 bytes
_BACKLOG = 64
_PEER = struct.Struct("3i")  # process, user, group
_log = logging.getLogger(__name__)


def keep(machine: Machine, limits: Limits) -> None:
    """Serve this node's processes until told to stop, by `Door` or a signal.

    Args:
        machine: What the worker may use.
        limits: What each of its processes may; what is 0 there is shared out.

    Raises:
        LaunchError: If a worker runs for this home already, there is no room for its processes,
            or Ray ends.
    """
    make_folder(folder())
    folder().chmod(0o700)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with _alone(), _scratch() as scratch, _mark() as mark:
        os.environ["FEDPEFT_HOME"] = str(home())
        os.chdir(scratch)  # where nothing lies that Ray's processes would import
        try:
            shared = limits.shared_out(start_ray(machine, scratch / "ray"))
            trainers = Trainers(limits=shared, mark=mark if machine.ray_address else None)
            path = folder() / "socket"
            if len(os.fsencode(path)) > _LONGEST_PATH:
                path = scratch / "socket"
            with _listening(path) as listener:
                _say_where(path)
                Keeper(trainers=trainers, over=over).serve(listener)
        finally:
            address_file().unlink(missing_ok=True)
            _end_ray()


@dataclass(slots=True, kw_only=True)
class Keeper:
    """Takes connections, one thread each.

    Attributes:
        trainers: Who does the work.
        over: Set when no more is to be done.
    """

    trainers: Trainers
    over: threading.Event = field(default_factory=threading.Event)
    _started: float = field(default_factory=time.monotonic)

    def serve(self, listener: socket.socket) -> None:
        """Take connections until it is over.

        Raises:
            LaunchError: If Ray ends before; whoever waits then does its work itself.
        """
        listener.settimeout(_TIDY_S)
        vital = _vital()
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                threading.Thread(target=self._served, args=(connection,), daemon=True).start()
            self.trainers.tidy()
            if dead := [name for name, process in vital.items() if not _alive(process)]:
                raise LaunchError(f"The worker ends, for Ray has ended: {', '.join(dead)}.")
        self.trainers.close()

    def _served(self, connection: socket.socket) -> None:
        """Answer what one connection asks."""
        with connection:
            connection.settimeout(None)
            if not _is_ours(connection):
                return
            try:
                header, body = receive(connection)
                if (reply := self._reply(header, body, connection)) is not None:
                    send(connection, *reply)
            except (OSError, WireError) as error:
                _log.warning("A connection broke off: %s", error)

    def _reply(
        self, header: Mapping[str, Any], body: bytes, connection: socket.socket
    ) -> tuple[dict[str, Any], bytes] | None:
        """Do what is asked."""
        what = header.get("do")
        if what == STATUS:
            return self._status(), b""
        if what == STOP:
            self.over.set()
            return self._status(), b""
        if what != ASK:
            return {"status": REFUSED, "reason": f"the worker cannot do '{what}'"}, b""
        try:
            return self.trainers.answer(header, body, lambda: not _hung_up(connection))
        except Exception as error:  # noqa: BLE001  # whatever it is, whoever asked must hear of it
            _log.exception("The worker failed")
            reason = f"This node's worker failed ({type(error).__name__}); its log says why."
            return {"status": FAILED, "reason": reason}, b""

    def _status(self) -> dict[str, Any]:
        """Say how things stand."""
        return {
            "pid": os.getpid(),
            "version": __version__,
            "seconds": time.monotonic() - self._started,
            "trainers": self.trainers.status(),
        }


def _vital() -> dict[str, psutil.Process]:
    """Find the processes of a Ray of our own without which nothing goes on."""
    children = psutil.Process().children()
    return {one.name(): one for one in children if one.name() in ("raylet", "gcs_server")}


def _alive(process: psutil.Process) -> bool:
    """Say whether a process runs."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_ours(connection: socket.socket) -> bool:
    """Say whether the other side runs as this user; the folder's mode sees to that already."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return bool(_PEER.unpack(told)[1] == os.getuid())


def _hung_up(connection: socket.socket) -> bool:
    """Say whether the other side is gone; it says nothing while it waits."""
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and not connection.recv(1, socket.MSG_PEEK)


def starts() -> bool:
    """Say whether a worker holds this home, be it that it is only about to start."""
    lock = FileLock(folder() / "lock")
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the place of the one worker of a home."""
    lock = FileLock(folder() / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise LaunchError(
            f"A worker runs for {folder().parent} already. Look at it: fedpeft worker status. "
            f"End it: fedpeft worker stop."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Give a folder for Ray, whose paths must be short, that is only ours."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):  # of workers that were killed
        pid = left.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _mark() -> Iterator[Path]:
    """Leave a mark in the home by which processes on other machines know it."""
    path = folder() / f"mark-{secrets.token_hex(8)}"
    for left in folder().glob("mark-*"):
        left.unlink(missing_ok=True)
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """Listen on a socket."""
    path.unlink(missing_ok=True)  # of a worker that was killed: nobody else has our lock
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _say_where(path: Path) -> None:
    """Write down where this node's processes find the worker."""
    told = {"socket": str(path), "pid": os.getpid(), "version": __version__}
    write_bytes(address_file(), json.dumps(told).encode(), private=True)


def _end_ray() -> None:
    """Leave Ray, with all that was started."""
    import ray

    ray.shutdown()
