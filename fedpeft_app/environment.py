"""What a run is made with: Python, libraries, the kind of machine; nobody is named."""

import os
import platform
from importlib.metadata import version

_TELLING = ("fedpeft", "flwr", "torch", "transformers", "peft", "numpy")


def versions() -> dict[str, str]:
    """Give "python" and each library that numbers depend on → its version."""
    return {"python": platform.python_version(), **{name: version(name) for name in _TELLING}}


def environment() -> dict[str, str]:
    """Give `versions`, and "system" and "processor cores" of this machine."""
    system = f"{platform.system()} {platform.machine()}"
    return {**versions(), "system": system, "processor cores": str(os.cpu_count() or "not known")}
