"""Which methods were found to fit which models, kept between runs: trying one takes seconds.

Most of them go into importing PyTorch, transformers and PEFT, which the launcher needs for nothing
else. An empty file in `$FEDPEFT_HOME/cache/fits` stands for what was tried and fitted.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fedpeft_app
from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.environment import versions
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.registry import is_path

_DECIDING = ("task", "model.", "method.")  # what keys that decide it begin with
_DECIDING_TOO = ("data.max-length", "data.image-size", "train.gradient-checkpointing")


def fitted_before(config: RunConfig, model: Mapping[str, Any]) -> bool:
    """Say whether a run's method was tried on its model, with this code, and did fit.

    Args:
        config: A checked configuration.
        model: The model's config.json.
    """
    mark = _mark(config, model)
    return mark is not None and mark.exists()


def remember_fit(config: RunConfig, model: Mapping[str, Any]) -> None:
    """Keep that it fits; arguments as for `fitted_before`. A full disk only costs the time."""
    if mark := _mark(config, model):
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _mark(config: RunConfig, model: Mapping[str, Any]) -> Path | None:
    """Give the file that stands for what was tried; None where a user's own code takes part."""
    flat = {
        key: value
        for key, value in flatten(config).items()
        if key.startswith(_DECIDING) or key in _DECIDING_TOO
    }
    if any(is_path(str(value)) for value in flat.values()):
        return None
    files = sorted(Path(fedpeft_app.__file__).parent.rglob("*.py"))
    code = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    told = json.dumps([flat, model, versions(), code], sort_keys=True)
    return cache_dir() / "fits" / hashlib.sha256(told.encode()).hexdigest()
