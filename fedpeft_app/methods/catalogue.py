"""The methods that are built in."""

from fedpeft_app.registry import Registry

METHODS = Registry(
    kind="method",
    group="fedpeft.methods",
    builtin={
        "lora": "fedpeft_app.methods.lora:Lora",
        "head": "fedpeft_app.methods.by_name:Head",
        "full": "fedpeft_app.methods.by_name:Full",
    },
)
