"""What a run is made with: Python, libraries, the kind of machine; nobody is named."""

import os
import platform
from importlib.metadata import version

from fedpeft_app import __version__

_TELLING = ("fedpeft", "flwr", "torch", "transformers", "peft", "numpy")
_AGREEING = ("torch", "transformers", "peft")  # their versions name and shape tensors


def versions() -> dict[str, str]:
    """Give "python" and each library that numbers depend on → its version."""
    return {"python": platform.python_version(), **{name: version(name) for name in _TELLING}}


def environment() -> dict[str, str]:
    """Give `versions`, and "system" and "processor cores" of this machine."""
    system = f"{platform.system()} {platform.machine()}"
    return {**versions(), "system": system, "processor cores": str(os.cpu_count() or "not known")}


def software() -> dict[str, str]:
    """Give the versions on which server and nodes must agree."""
    packages = {name: ".".join(version(name).split(".")[:2]) for name in _AGREEING}
    return {"fedpeft": __version__, **packages}
