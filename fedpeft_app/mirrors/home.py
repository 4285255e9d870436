"""Where fedpeft keeps what it downloads and what it produces."""

import os
from pathlib import Path


def home() -> Path:
    """Give the folder of this user's runs and cache: $FEDPEFT_HOME or ~/.fedpeft."""
    return Path(os.environ.get("FEDPEFT_HOME") or Path.home() / ".fedpeft").expanduser().absolute()


def cache_dir() -> Path:
    """Give the folder of downloads and tokenised data, which may be deleted at any time."""
    return home() / "cache"
