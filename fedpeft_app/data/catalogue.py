"""The partitioners that are built in; flwr-datasets does the work."""

from fedpeft_app.registry import Registry

_MODULE = "fedpeft_app.data.partitioners"

PARTITIONERS = Registry(
    kind="partitioner",
    group="fedpeft.partitioners",
    builtin={
        "iid": f"{_MODULE}:iid",
        "dirichlet": f"{_MODULE}:dirichlet",
        "dirichlet-balanced": f"{_MODULE}:dirichlet_balanced",
        "pathological": f"{_MODULE}:pathological",
        "shard": f"{_MODULE}:shard",
        "natural": f"{_MODULE}:natural",
        "size-linear": f"{_MODULE}:size_linear",
        "size-square": f"{_MODULE}:size_square",
        "size-exponential": f"{_MODULE}:size_exponential",
    },
)
