"""The commands of `fedpeft`, and how their errors reach a person."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fedpeft_app import __version__
from fedpeft_app.cli.worker_commands import worker_app
from fedpeft_app.errors import ConfigError, Fault, FedPeftError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated parameter-efficient fine-tuning: only adapters travel.",
)
runs_app = typer.Typer(help="List runs, or remove them.", invoke_without_command=True)
app.add_typer(runs_app, name="runs")
app.add_typer(worker_app, name="worker")

_NODES = 10  # simulated ones, unless said otherwise
_UNKNOWN_NODES = "the run ended before its nodes were counted; say how many it has."
_INTERRUPTED = 130  # what shells report for Ctrl-C: 128 + SIGINT

Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="configuration overrides")
]
Recipe = Annotated[Path | None, typer.Option(help="TOML file of configuration keys")]
Reference = Annotated[str, typer.Argument(metavar="RUN", help="run folder, its name, or 'latest'")]

Round = Annotated[str, typer.Option("--round", help="a round's number, 'best' or 'last'")]
Node = Annotated[
    int | None,
    typer.Option(min=0, help="with this node's own parameters, where nodes of the run keep any"),
]
ClientCpus = Annotated[
    int,
    typer.Option(min=0, help="CPU cores of a simulated client; 0 = 1, or all in mode=central"),
]
ClientGpus = Annotated[float, typer.Option(min=0, help="GPUs of a simulated client")]
Actors = Annotated[
    int, typer.Option(min=0, help="clients trained at the same time; 0 = as many as fit")
]


def main() -> None:
    """Run the command line; exit status 1 for a known error, 2 for wrong usage, 130 for Ctrl-C."""
    sys.path.append(os.getcwd())  # plug-ins of one's own, behind everything installed
    try:
        app(prog_name="fedpeft")
    except (FedPeftError, OSError) as error:
        _complain(f"error: {error}", "red")
        sys.exit(1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer turns KeyboardInterrupt into this
            _complain("stopped", "yellow")
        raise


def _complain(text: str, style: str) -> None:
    """Print to stderr, never broken in the middle of a line."""
    console = Console(stderr=True)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@app.command()
def run(
    settings: Settings = None,
    recipe: Recipe = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="simulated nodes; 10, or as many as a run had")
    ] = None,
    resume: Annotated[
        str, typer.Option(metavar="RUN", help="go on with this run: folder, name, or 'latest'")
    ] = "",
    connection: Annotated[
        str, typer.Option(help="a SuperLink connection of Flower's config instead of simulation")
    ] = "",
    client_cpus: ClientCpus = 0,
    client_gpus: ClientGpus = 0.0,
    actors: Actors = 0,
    ray_address: Annotated[
        str, typer.Option(help="Ray cluster to simulate on: HOST:PORT, or auto for this machine's")
    ] = "",
) -> None:
    """Check the configuration, run it, and end with the truth as exit status."""
    from fedpeft_app.cli.launch import Simulation, run_on_connection, run_simulation
    from fedpeft_app.cli.settings import read_settings, said

    if ray_address and (connection or actors):
        raise typer.BadParameter(
            "--ray-address excludes --connection, where nothing is simulated, and --actors: on a "
            "cluster as many clients train at once as fit, so give each more --client-cpus"
        )
    runs = said(recipe, settings or [], "output.dir")
    began, had = _began(resume, connection, runs)
    config = read_settings(recipe, settings or [], began)
    console = Console()
    if connection:
        run_on_connection(config, connection, console)
        return
    if not (nodes or had):
        raise ConfigError([Fault(key="--nodes", value=0, problem=_UNKNOWN_NODES)])
    simulation = Simulation(
        nodes=nodes or had,
        client_cpus=client_cpus,
        client_gpus=client_gpus,
        actors=actors,
        ray_address=ray_address,
    )
    run_simulation(config, simulation, console)


def _began(resume: str, connection: str, runs: str = "") -> tuple[dict[str, Any], int]:
    """Give what a run begins with: nothing, or what the run that goes on began with; and nodes.

    A run is looked for by its name in the folder `runs`, as output.dir says.
    """
    if not resume:
        return {}, _NODES
    if connection:  # its folder is on the server, which looks at it
        return {"resume": resume}, _NODES
    from fedpeft_app.resume import began_with
    from fedpeft_app.runs.directory import find_run, runs_parent

    return began_with(find_run(runs_parent(runs), resume))


@app.command()
def plan(
    settings: Settings = None,
    recipe: Recipe = None,
    nodes: Annotated[int, typer.Option(min=1, help="simulated nodes")] = _NODES,
    calibrate: Annotated[
        bool, typer.Option(help="measure memory and time for some 20 seconds, too")
    ] = True,
    client_cpus: ClientCpus = 0,
    client_gpus: ClientGpus = 0.0,
    actors: Actors = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Say what a run would send, take and guarantee, without running it."""
    from fedpeft_app.cli.plan.outlook import resources_here
    from fedpeft_app.cli.plan.printed import print_plan
    from fedpeft_app.cli.settings import read_settings

    config = read_settings(recipe, settings or [])
    resources = None
    if calibrate:
        resources = resources_here(
            config, nodes, client_cpus=client_cpus, client_gpus=client_gpus, actors=actors
        )
    print_plan(config, nodes, Console(), resources=resources, as_json=as_json)


@app.command()
def study(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="study file, or the name of a shipped one")
    ],
    dry_run: Annotated[
        bool, typer.Option(help="check it, say what is left and what it costs, run nothing")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option(help="with --dry-run, measure how long it takes, too")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="run only cells with this setting")
    ] = None,
    seeds: Annotated[str, typer.Option(help="run only these seeds, such as 0,1")] = "",
    retry_failed: Annotated[
        bool, typer.Option(help="run cells again that failed; crashed ones always are")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(help="folder of results [default: results/NAME]")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at the same time")] = 1,
    client_cpus: ClientCpus = 0,
    client_gpus: ClientGpus = 0.0,
    actors: Actors = 0,
) -> None:
    """Run what is left of a grid of runs, then print its table."""
    from fedpeft_app.cli.cells import Share
    from fedpeft_app.cli.study import run_study

    run_study(
        file,
        Console(),
        to=to,
        only=only or [],
        seeds=seeds,
        dry_run=dry_run,
        retry_failed=retry_failed,
        calibrate=calibrate,
        share=Share(jobs=jobs, client_cpus=client_cpus, client_gpus=client_gpus, actors=actors),
    )


# What a personal head needs elsewhere in the configuration costs nothing and sends nothing.
_PERSONAL = ("evaluate.server=false", "strategy.fraction-evaluate=1.0")


@app.command()
def methods(
    settings: Settings = None,
    model: Annotated[
        str, typer.Option(help="known architecture, model folder or id [default: model.name]")
    ] = "",
    labels: Annotated[int, typer.Option(min=2, help="labels of a classifier")] = 2,
    method: Annotated[
        list[str] | None, typer.Option(help="only this method; may be repeated")
    ] = None,
) -> None:
    """Say what each PEFT method would train and send on a model."""
    from fedpeft_app.cli.methods import print_methods
    from fedpeft_app.cli.settings import read_settings

    chosen = [*_PERSONAL, *(settings or []), *([f"model.name={model}"] if model else [])]
    print_methods(read_settings(None, chosen), labels, method or [], Console())


@app.command("config")
def show_config(
    settings: Settings = None,
    recipe: Recipe = None,
    explain: Annotated[bool, typer.Option(help="print what each key means")] = False,
) -> None:
    """Check a configuration and print it in full."""
    from fedpeft_app.cli.settings import describe_settings, read_settings

    config = read_settings(recipe, settings or [])
    typer.echo(describe_settings(config, explain=explain))


@app.command()
def policy(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="policy to check; without, print one")
    ] = None,
    settings: Settings = None,
    recipe: Recipe = None,
) -> None:
    """Print a policy for a node's owner to start from, or say what one would tell a run."""
    from fedpeft_app.cli.policy import judge, template
    from fedpeft_app.cli.settings import read_settings

    if file is None:
        typer.echo(template())
    else:
        judge(file, read_settings(recipe, settings or []), Console())


@app.command("export")
def export_run(
    run: Reference,
    round_: Round = "best",
    merge: Annotated[bool, typer.Option(help="a plain model folder, adapter folded in")] = False,
    self_contained: Annotated[
        bool, typer.Option(help="a PEFT folder with the base model inside")
    ] = False,
    node: Node = None,
    to: Annotated[Path | None, typer.Option(help="folder to write")] = None,
) -> None:
    """Write a run's adapter as a folder that stock libraries load."""
    from fedpeft_app.cli.results import export_adapter

    if merge and self_contained:
        raise typer.BadParameter("--merge and --self-contained exclude each other")
    form = "merged" if merge else "self-contained" if self_contained else "adapter"
    export_adapter(run, round_, form, to, Console(), node=node)


@app.command()
def predict(
    run: Reference,
    texts: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="texts, instructions, or paths of images"),
    ],
    round_: Round = "best",
    node: Node = None,
) -> None:
    """Classify texts or images, or answer instructions, with a run's adapter."""
    from fedpeft_app.cli.results import predict_texts

    predict_texts(run, texts, Console(), round_=round_, node=node)


@app.command()
def report(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|STUDY", help="run folder, its name, or 'latest'; a study's results"
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="file to write [default: report.html in the folder]")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="study file that results were made by, where it is not kept")
    ] = None,
) -> None:
    """Write a run, or a study, as one HTML file that needs no network."""
    from fedpeft_app.cli.report import write_report

    write_report(what, output, Console(), study=study)


@runs_app.callback()
def runs(context: typer.Context) -> None:
    """List runs, newest first."""
    if context.invoked_subcommand is None:
        from fedpeft_app.cli.results import list_runs_table

        list_runs_table(Console())


@runs_app.command("clean")
def runs_clean(
    references: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="runs to remove")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="remove every run")] = False,
    unfinished: Annotated[bool, typer.Option(help="remove runs that failed or were ended")] = False,
    yes: Annotated[bool, typer.Option(help="do not ask")] = False,
) -> None:
    """Remove runs from the disk."""
    from fedpeft_app.cli.results import clean_runs

    clean_runs(references or [], everything=all_, unfinished=unfinished, ask=not yes)


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where to keep them")],
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME_OR_IP", help="how nodes reach the server; may be repeated"),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="a node; may be repeated")
    ] = None,
    renew: Annotated[bool, typer.Option(help="certify the server anew, its key kept")] = False,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="the SuperLink's, on the server's loopback")
    ] = 8000,
    node_port: Annotated[
        int, typer.Option(min=1, max=65535, help="nginx's before it, which nodes dial")
    ] = 8443,
    connection: Annotated[
        str, typer.Option(help="what to call the server in Flower's configuration")
    ] = "federation",
) -> None:
    """Make the keys of a federation on real machines, and print the commands that use them."""
    from fedpeft_app.cli.keys import print_keys

    print_keys(
        folder,
        host or [],
        node or [],
        Console(),
        renew=renew,
        port=port,
        node_port=node_port,
        connection=connection,
    )


@app.command()
def doctor() -> None:
    """Say what works on this machine, in plain words."""
    from fedpeft_app.cli.doctor import examine

    if not examine(Console()):
        raise typer.Exit(1)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(__version__)
