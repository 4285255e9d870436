"""The methods by name: those that are built in, plug-ins, and PEFT's own."""

import re
from typing import TYPE_CHECKING

from fedpeft_app.registry import Registry

if TYPE_CHECKING:
    from fedpeft_app.methods.method import Method

_HERE = "fedpeft_app.methods"
_OF_PEFT = re.compile(r"peft:[A-Za-z0-9_]+")

METHODS = Registry(
    kind="method",
    group="fedpeft.methods",
    builtin={
        "full": f"{_HERE}.by_name:Full",
        "head": f"{_HERE}.by_name:Head",
        "bias": f"{_HERE}.by_name:Bias",
        "ln": f"{_HERE}.norms:LayerNorms",
        "lora": f"{_HERE}.lora:Lora",
        "rslora": f"{_HERE}.lora:rslora",
        "dora": f"{_HERE}.lora:dora",
        "pissa": f"{_HERE}.decomposed:pissa",
        "olora": f"{_HERE}.decomposed:olora",
        "lora-orthogonal": f"{_HERE}.lora:lora_orthogonal",
        "lora-fa": f"{_HERE}.lora:lora_fa",
        "lora-sa": f"{_HERE}.lora:lora_sa",
        "lora-sb": f"{_HERE}.cores:Cores",
        "lora-residual": f"{_HERE}.residual:Residual",
        "ia3": f"{_HERE}.ia3:Ia3",
        "vera": f"{_HERE}.vera:Vera",
        "adalora": f"{_HERE}.adalora:AdaLora",
        "bottleneck": f"{_HERE}.bottleneck:pfeiffer",
        "bottleneck-houlsby": f"{_HERE}.bottleneck:houlsby",
        "bottleneck-parallel": f"{_HERE}.bottleneck:parallel",
        "bottleneck-shared": f"{_HERE}.bottleneck:one_for_all",
        "prompt": f"{_HERE}.prompts:Prompt",
        "prompt-shallow": f"{_HERE}.prompts:PromptShallow",
        "prefix": f"{_HERE}.soft_prompts:Prefix",
        "p-tuning": f"{_HERE}.soft_prompts:PTuning",
    },
)


def is_of_peft(name: str) -> bool:
    """Say whether a name stands for a type of PEFT's, "peft:LOHA": that is no path."""
    return bool(_OF_PEFT.fullmatch(name))


def check_method(name: str) -> str:
    """Check a method's name without importing anything heavy.

    Args:
        name: A known name, "peft:" and the name of a PEFT type, or a path.

    Returns:
        What it leads to.

    Raises:
        UnknownNameError: If it cannot be a method's name. Whether PEFT has a type of that name
            shows when it is looked for.
    """
    if is_of_peft(name):
        return name
    return METHODS.target(name)


def find_method(name: str) -> "Method":
    """Make the method of a name.

    Args:
        name: As for `check_method`.

    Raises:
        UnknownNameError: If there is none.
    """
    if is_of_peft(name):
        from fedpeft_app.methods.any_peft import any_peft

        return any_peft(name)
    method: Method = METHODS.get(name)()
    return method
