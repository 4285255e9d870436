"""A run does not outlive its launcher."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from fedpeft_app.watchdog import follow_launcher

WAIT = textwrap.dedent(
    """
    import time
    from fedpeft_app import watchdog
    watchdog._POLL_S = 0.05
    watchdog.follow_launcher()
    print("following", flush=True)
    time.sleep(30)
    """
)


def test_the_process_ends_when_its_launcher_is_killed() -> None:
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    environment = {**os.environ, "FEDPEFT_LAUNCHER": str(launcher.pid)}
    follower = subprocess.Popen(
        [sys.executable, "-c", WAIT], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "following\n"
    assert follower.poll() is None
    launcher.kill()
    launcher.wait()
    assert follower.wait(timeout=10) == -signal.SIGTERM
    follower.stdout.close()


def test_without_a_launcher_nothing_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDPEFT_LAUNCHER", raising=False)
    follow_launcher()
