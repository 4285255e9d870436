"""Other frameworks, each in a virtual environment of its own, made the first time it is needed.

They lie under benchmarks/.peers, which git ignores, and stay there. What cannot be installed is
left out, and the reason said.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOME, APPS = HERE / ".peers", HERE / "peer_apps"
_INSTALL_S, _RUN_S = 900, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A framework.

    Attributes:
        name: What a table calls it.
        requirement: What pip installs, pinned.
        script: A file of `peer_apps`; prints a JSON object as its last line.
    """

    name: str
    requirement: str
    script: str


NVFLARE = Peer(name="nvflare", requirement="nvflare==2.9.0", script="nvflare_rounds.py")
PFL = Peer(name="pfl", requirement="pfl==0.6.0", script="pfl_rounds.py")


class PeerError(Exception):
    """A peer could not be installed, or did not run; says why in one line."""


def run_peer(peer: Peer, *arguments: str) -> dict[str, Any]:
    """Run a peer's script.

    Args:
        peer: Which.
        arguments: Of its script.

    Returns:
        What it printed last.

    Raises:
        PeerError: If it cannot be had, or fails.
    """
    python = installed(peer)
    said = _done([str(python), str(APPS / peer.script), *arguments], _RUN_S, peer.name)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def installed(peer: Peer) -> Path:
    """Give the Python of a peer's environment, which is made where it is missing.

    Raises:
        PeerError: If it cannot be installed.
    """
    folder = HOME / peer.requirement.replace("==", "-")
    python, made = folder / "bin" / "python", folder / ".installed"
    if not made.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _done([sys.executable, "-m", "venv", str(folder)], _INSTALL_S, peer.name)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _done([*pip, peer.requirement], _INSTALL_S, peer.name)
        made.touch()
    return python


def _done(command: list[str], limit_s: float, name: str) -> str:
    """Run a command to its end; give what it printed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit_s, cwd=HERE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{name}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise PeerError(f"{name}: {last}")
    return done.stdout
