"""Imports that the garbage collector does not look through, time and again."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(module: str) -> Iterator[None]:
    """Import what makes many objects that stay: torch, transformers and PEFT make a million.

    As they become more, the collector goes through all of them, over and over, and frees none:
    a fifth of the processor time of these imports (`docs/log.md`). Afterwards it leaves them
    alone for good.

    Args:
        module: What is imported within. If it has been before, nothing is done.
    """
    if module in sys.modules:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
