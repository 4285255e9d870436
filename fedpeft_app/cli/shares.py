"""What a simulated client gets of this machine's GPUs, checked before the start."""

import os
import shutil
from pathlib import Path

from fedpeft_app.config import RunConfig
from fedpeft_app.config.readings import needed_precision
from fedpeft_app.errors import ConfigError, Fault

_GPUS = Path("/proc/driver/nvidia/gpus")  # one entry each; asking torch takes seconds
_DEV = Path("/dev")
_DEVICES = ("dxg", "nvidia*")  # in /dev: of WSL2, and of containers that hide /proc/driver
_OPTION = "--client-gpus"


def gpus_here() -> int:
    """Count the NVIDIA GPUs that this process may use; those of other makers are not seen."""
    if not _GPUS.is_dir():
        return _gpus_of_torch() if _hints() else 0
    found, visible = len(list(_GPUS.iterdir())), _visible()
    return found if visible is None else min(found, len(visible))


def names_of_gpus() -> list[str]:
    """Name those GPUs, or parts of them, as CUDA_VISIBLE_DEVICES does."""
    found, visible = gpus_here(), _visible()
    return [str(at) for at in range(found)] if visible is None or not found else visible


def _visible() -> list[str] | None:
    """Read which GPUs this process may use; None = all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    return [name for name in visible.split(",") if name not in ("", "-1")]


def client_share(config: RunConfig, client_cpus: int, client_gpus: float) -> tuple[int, float]:
    """Fill in what a client gets: the central baseline's only one all cores, and a GPU.

    Args:
        config: A checked configuration.
        client_cpus: Cores of a client; 0 = as the mode decides.
        client_gpus: GPUs of a client; 0 = as the mode decides.
    """
    central = config.mode == "central"
    cpus = client_cpus or ((os.cpu_count() or 1) if central else 1)
    return cpus, client_gpus or (min(1, gpus_here()) if central else 0.0)


def _hints() -> bool:
    """Say whether anything speaks for a GPU that /proc does not list, as in WSL2."""
    devices = (path for pattern in _DEVICES for path in _DEV.glob(pattern))
    return any(devices) or shutil.which("nvidia-smi") is not None


def _gpus_of_torch() -> int:
    """Count the GPUs that torch can use, which leaves out those that are not visible."""
    import torch

    return torch.cuda.device_count()


def require_share(config: RunConfig, share: float, *, here: bool) -> None:
    """Refuse a share of a GPU that a client cannot get, or could not do without.

    Args:
        config: A checked configuration.
        share: GPUs of a client.
        here: Whether clients run on this machine, not on a cluster.

    Raises:
        ConfigError: If it is refused.
    """
    problem = ""
    if share > 1:
        problem = "a client trains on one GPU; give it 1 at most, and the run more nodes."
    elif share and here and not gpus_here():
        problem = "this machine has no NVIDIA GPU that may be used. Leave it out."
    elif not share and (key := _needs_gpu(config)):
        problem = f"{key} needs a GPU, and clients get none. Give them 1, or a fraction of one."
    if problem:
        raise ConfigError([Fault(key=_OPTION, value=share, problem=problem)])


def share_caution(share: float) -> list[str]:
    """Say that GPUs of this machine would stand idle."""
    if share or not gpus_here():
        return []
    return [f"clients train on CPU cores though there is a GPU here; {_OPTION} 0.5 lets two share"]


def _needs_gpu(config: RunConfig) -> str:
    """Name the key that only a GPU can do; empty if there is none."""
    if config.model.quantization != "none":
        return f"model.quantization = '{config.model.quantization}'"
    if "fp16" in (config.train.precision, needed_precision(config.model.dtype)):
        return "fp16 (train.precision, or model.dtype)"
    return ""
