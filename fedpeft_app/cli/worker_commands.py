"""The commands of `fedpeft worker`."""

import sys
from typing import Annotated

import typer
from rich.console import Console

worker_app = typer.Typer(
    help="The warm worker of this node: keeps the model in memory between messages.",
    no_args_is_help=True,
)


@worker_app.command("start")
def worker_start(
    trainers: Annotated[
        int, typer.Option(min=0, help="processes; 0 = one for each GPU, or one")
    ] = 0,
    cpus: Annotated[int, typer.Option(min=0, help="CPU cores for all of them; 0 = all")] = 0,
    gpus: Annotated[int, typer.Option(min=-1, help="GPUs for all of them; -1 = all")] = -1,
    memory: Annotated[
        float, typer.Option(min=0, help="GiB after which a process is ended; 0 = no limit")
    ] = 0.0,
    idle: Annotated[
        float, typer.Option(min=0, help="idle minutes after which one is ended; 0 = never")
    ] = 60.0,
    ray_address: Annotated[str, typer.Option(help="Ray cluster of this silo to join")] = "",
    foreground: Annotated[bool, typer.Option(help="stay, as systemd wants it")] = False,
) -> None:
    """Start it: SuperNodes with the same FEDPEFT_HOME find it by themselves."""
    from fedpeft_app.cli.worker import start_in_background

    if not foreground:
        start_in_background(sys.argv[sys.argv.index("start") + 1 :], Console())
        return
    from fedpeft_app.warm.keeper import keep
    from fedpeft_app.warm.trainers import Limits, Machine

    limits = Limits(slots=trainers, memory=round(memory * 2**30), idle_s=60 * idle)
    keep(Machine(cpus=cpus, gpus=gpus, ray_address=ray_address), limits)


@worker_app.command("status")
def worker_status() -> None:
    """Say what its processes do."""
    from fedpeft_app.cli.worker import print_status

    print_status(Console())


@worker_app.command("stop")
def worker_stop() -> None:
    """Stop it, and all its processes."""
    from fedpeft_app.cli.worker import stop

    stop(Console())
