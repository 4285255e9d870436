"""Attention masks that are built whatever they hold."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def masks_always_built() -> Iterator[None]:
    """Have transformers build the mask of a padded batch also where nothing is padding.

    It leaves such masks out, for which it looks at their values; vmap knows no values. What
    a model computes stays the same.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as FUNCTIONS

    before = {name: FUNCTIONS[name] for name in ("eager", "sdpa")}
    for name, build in before.items():
        FUNCTIONS[name] = partial(_built, build)
    try:
        yield
    finally:
        for name, build in before.items():
            FUNCTIONS[name] = build


def _built(build: Callable[..., Any], *, attention_mask: Any = None, **arguments: Any) -> Any:
    """Build a mask; without padding there are no values to look at."""
    if attention_mask is not None:
        arguments |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return build(attention_mask=attention_mask, **arguments)
