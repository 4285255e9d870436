"""The map of the house, held: layers downward, one library in one room, light apps."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fedpeft_app"
ROOT = "fedpeft_app"

# A room is a sub-package or a module of the package itself. Imports lead to lower layers.
LAYERS: dict[int, tuple[str, ...]] = {
    0: ("errors", "registry", "seeds", "atomic", "criterion", "snapshot", "uncollected"),
    1: ("config", "adapters", "portable", "mirrors"),  # backbone and data both fetch
    2: ("wire", "backbone", "methods", "data", "privacy", "node", "keys"),
    3: ("training", "strategies", "runs", "observe"),
    4: (  # each may import those before it
        "names",
        "admission",  # before all that a node does, and as light as names
        "environment",
        "facts",
        "costs",
        "traffic",
        "data_plan",
        "run_data",
        "node_privacy",
        "participation",
        "assembly",
        "answers",
        "warm",
        "privacy_report",
        "round_plan",  # of a run, and of its forecast
        "forecast",
        "examiner",
        "recorder",
        "resume",
        "observing",
        "session",
        "opening",
        "coordinator",
        "restore",
        "studies",
        "cli",
        "watchdog",
        "actors",
        "mailboxes",
        "server_app",
        "client_app",
    ),
}
WITHIN_A_LAYER = {  # the only imports among rooms of one layer below the top, and why
    ("registry", "errors"): "an unknown name is an error",
    ("methods", "backbone"): "an AdaptedModel holds the Backbone that it adapts",
}
LIBRARIES: dict[str, tuple[str, ...]] = {  # third-party library → rooms and modules that use it
    "flwr": (
        "client_app",
        "server_app",
        "wire",
        "strategies",
        "opening",
        "coordinator",
        "session",
        "actors",
        "mailboxes",
        "answers",
        "forecast.rehearsal",  # messages that are weighed, and not sent
        "forecast.probe",  # has in memory what a simulation's processes have
    ),
    "peft": ("methods", "runs"),
    "transformers": ("backbone", "data.tasks", "portable"),
    "torch": (
        "backbone",
        "methods",
        "portable",
        "data.tasks",
        "privacy.per_sample",
        "privacy.soundness",
        "privacy.dp_sgd",
        "training",
        "forecast.probe",  # its threads, and what it had of a GPU
        "cli.doctor",
        "cli.shares",  # counts GPUs where /proc does not list them
    ),
    "opacus": ("privacy.per_sample",),
    "dp_accounting": ("privacy.accountant",),
    "cryptography": ("privacy.randomness", "keys"),  # noise, and who may join a federation
    "ray": (
        "training.capacity",  # what Ray gave this process, which training has to keep to
        "actors",
        "cli.cluster_probe",  # in a process of its own, before a simulation joins a cluster
        "warm.trainers",
        "warm.keeper",
        "forecast.probe",  # never started: only to weigh what an actor weighs
    ),
    "datasets": ("data",),
    "flwr_datasets": ("data",),
    "pandas": ("data",),
    "PIL": ("data.images",),
    "pyarrow": ("wire.lossless",),
    "sklearn": ("data.tasks",),
    "tokenizers": ("backbone.scratch",),
    "safetensors": ("runs", "node"),
    "scipy": ("studies.intervals", "adapters.decomposition"),
    "matplotlib": ("studies.pictures",),
    "mlflow": ("observe.observers.mlflow",),
    "wandb": ("observe.observers.wandb",),
    "threadpoolctl": ("strategies.low_rank", "strategies.residual_lora"),
    "huggingface_hub": ("backbone.locate", "cli.doctor"),
    "pydantic": ("config",),
    "pydantic_core": ("config",),
    "filelock": (
        "mirrors",
        "backbone.scratch",
        "data",
        "keys.folder",
        "node.book",
        "runs.lock",
        "studies.record",
        "warm.keeper",
    ),
    "typer": ("cli",),
    "rich": ("cli", "observe"),
    "psutil": ("cli", "warm.trainer", "warm.keeper"),
    "httpx": ("cli.doctor",),  # doctor asks whether the hub answers
    "packaging": ("cli.doctor",),  # and whether the versions are the tested ones
    # Layers 0 and 1, wire, strategies and runs do their arithmetic in NumPy.
    "numpy": (
        "seeds",
        "snapshot",
        "adapters",
        "wire",
        "methods",
        "data",
        "privacy.randomness",
        "privacy.noisy_mean",
        "node",
        "training",
        "strategies",
        "runs",
        "data_plan",
        "run_data",
        "participation",
        "recorder",
        "costs",
        "forecast.rehearsal",
        "forecast.probe",
    ),
}
KNOWS_THE_CONFIG = {  # every other component takes ordinary arguments
    "config",
    "admission",
    "facts",
    "data_plan",
    "run_data",
    "assembly",
    "answers",
    "warm",  # a trainer parses what a message's run has
    "privacy_report",
    "round_plan",
    "forecast",
    "cli",
    "opening",
    "resume",
    "observing",
    "coordinator",
    "session",
    "restore",
    "studies",
    "server_app",
    "client_app",
}
DRAWERS = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
UNSAFE = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
MOST_LINES, MOST_FUNCTION_LINES = 400, 60


@dataclass(frozen=True)
class Import:
    """One import statement's target.

    Attributes:
        importer: Module that imports, without the package's name ("wire.record").
        target: What it imports, with the name behind `from … import` ("flwr.app.Array").
        lazy: Whether it stands inside a function.
    """

    importer: str
    target: str
    lazy: bool

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]

    @property
    def inner(self) -> str:
        """The target without the package's name; empty for other libraries."""
        return self.target.removeprefix(f"{ROOT}.") if self.library == ROOT else ""


def room_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def modules() -> dict[str, Path]:
    """Module name without the package's own → file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def walk(node: ast.AST, *, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Walk over nodes; the flag says whether a node stands inside a function."""
    for child in ast.iter_child_nodes(node):
        yield child, lazy
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(child, lazy=lazy or inside)


@cache
def imports() -> tuple[Import, ...]:
    """Every import in the package."""
    found = []
    for module in modules():
        for node, lazy in walk(tree_of(module)):
            if isinstance(node, ast.Import):
                found += [Import(module, alias.name, lazy) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                found += [
                    Import(module, f"{node.module}.{alias.name}", lazy) for alias in node.names
                ]
    return tuple(found)


def layer_of(room: str) -> int:
    found = [layer for layer, rooms in LAYERS.items() if room in rooms]
    return found[0] if found else max(LAYERS)  # test_every_room_has_its_layer names it


def inner_imports() -> set[tuple[str, str]]:
    """Every (room, room) of an import from one room into another."""
    rooms = {room_of(module) for module in modules()} - {""}
    pairs = {(room_of(found.importer), room_of(found.inner)) for found in imports() if found.inner}
    # `from fedpeft_app import __version__` leads to the package itself, which imports nothing
    return {(source, target) for source, target in pairs if target in rooms and source != target}


def uses(library: str) -> set[str]:
    return {found.importer for found in imports() if found.library == library}


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def calls(module: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call))


every_module = pytest.mark.parametrize("module", [name or "__init__" for name in modules()])


# ------------------------------------------------------------------ layers


def test_every_room_has_its_layer() -> None:
    drawn = [room for rooms in LAYERS.values() for room in rooms]
    assert sorted(drawn) == sorted({room_of(module) for module in modules()} - {""})


def test_the_package_itself_imports_nothing() -> None:
    assert not [found for found in imports() if found.importer == ""]


def test_imports_lead_downward() -> None:
    upward = [
        (source, target)
        for source, target in inner_imports()
        if layer_of(source) < layer_of(target)
    ]
    assert not upward


def test_rooms_of_a_layer_do_not_know_each_other() -> None:
    sideways = {
        (source, target)
        for source, target in inner_imports()
        if layer_of(source) == layer_of(target) != max(LAYERS)
    }
    assert sideways == set(WITHIN_A_LAYER)


def test_the_top_layer_is_a_ladder() -> None:
    ladder = LAYERS[max(LAYERS)]
    climbing = [
        (source, target)
        for source, target in inner_imports()
        if source in ladder and target in ladder and ladder.index(source) < ladder.index(target)
    ]
    assert not climbing


def test_no_module_imports_itself_by_a_detour() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for found in imports():
        module = found.inner
        while module and module not in graph:  # cut "wire.record.Order" down to "wire.record"
            module = module.rpartition(".")[0]
        if module and module != found.importer:
            graph[found.importer].add(module)
    while leaves := [module for module, targets in graph.items() if not targets]:
        for leaf in leaves:
            del graph[leaf]
        for targets in graph.values():
            targets.difference_update(leaves)
    assert not graph  # what remains imports itself, or something that does


def test_only_those_who_build_know_the_configuration() -> None:
    knowing = {room_of(found.importer) for found in imports() if "RunConfig" in found.target}
    assert knowing <= KNOWS_THE_CONFIG


def test_layers_below_the_top_do_not_know_the_config_room() -> None:
    assert not [
        (source, target)
        for source, target in inner_imports()
        if target == "config" and layer_of(source) != max(LAYERS)
    ]


# ------------------------------------------------------------------ libraries


def test_every_library_has_its_rooms() -> None:
    foreign = {found.library for found in imports()} - sys.stdlib_module_names - {ROOT}
    assert foreign == set(LIBRARIES)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    assert not {module for module in uses(library) if not within(module, LIBRARIES[library])}


@pytest.mark.parametrize("module", ["coordinator", "session"])
def test_the_middle_of_the_server_takes_flowers_grid_and_nothing_else(module: str) -> None:
    taken = {found.target for found in imports() if found.importer == module}
    assert {target for target in taken if target.startswith("flwr")} <= {"flwr.serverapp.Grid"}


@every_module
def test_no_library_that_runs_what_it_reads(module: str) -> None:
    name = module.replace("__init__", "")
    assert not {found.library for found in imports() if found.importer == name} & UNSAFE


@every_module
def test_no_call_that_runs_what_it_reads(module: str) -> None:
    name = module.replace("__init__", "")
    for call in calls(name):
        trusted = {
            keyword.arg
            for keyword in call.keywords
            if isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        }
        assert not trusted & {"allow_pickle", "trust_remote_code", "shell"}
        assert ast.unparse(call.func) not in {"eval", "exec", "torch.load"}


# ------------------------------------------------------------------ light where it must be


def heavy_after(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter and tell which slow libraries it pulled in."""
    heavy = (
        *("torch", "transformers", "peft", "datasets", "pandas", "sklearn", "ray", "opacus"),
        *("dp_accounting", "scipy"),
    )
    code = f"{statement}; import sys; print(*(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
        timeout=120,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["client_app", "server_app", "names", "admission", "cli.main"])
def test_importing_it_is_light(module: str) -> None:
    assert heavy_after(f"import {ROOT}.{module}") == set()


def test_a_run_is_started_without_what_trains() -> None:
    assert heavy_after(f"import {ROOT}.cli.launch") <= {"pandas"}  # reads tables to check them


def test_what_trains_reads_no_tables_and_accounts_for_no_privacy() -> None:
    assert not heavy_after(f"import {ROOT}.answers") & {"pandas", "datasets", "dp_accounting"}


@pytest.mark.parametrize("library", ["torch", "transformers", "peft"])
def test_the_client_app_names_no_heavy_library(library: str) -> None:
    eager = {
        found.library
        for found in imports()
        if found.importer in {"client_app", "server_app"} and not found.lazy
    }
    assert library not in eager


# ------------------------------------------------------------------ size and manners


@every_module
def test_files_are_short(module: str) -> None:
    text = modules()[module.replace("__init__", "")].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES


@every_module
def test_functions_are_short(module: str) -> None:
    long = {
        node.name: lines
        for node in ast.walk(tree_of(module.replace("__init__", "")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_FUNCTION_LINES
    }
    assert not long


@every_module
def test_files_are_named_after_what_they_hold(module: str) -> None:
    assert not set(module.split(".")) & DRAWERS
    assert not set(module.rpartition(".")[2].split("_")) & DRAWERS


@every_module
def test_no_assert_no_print_no_bare_except(module: str) -> None:
    name = module.replace("__init__", "")
    for node in ast.walk(tree_of(name)):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)
    printed = [call.lineno for call in calls(name) if ast.unparse(call.func) == "print"]
    assert not printed


@every_module
def test_no_logging_is_configured(module: str) -> None:
    called = {ast.unparse(call.func) for call in calls(module.replace("__init__", ""))}
    assert not called & {"logging.basicConfig", "logging.config.dictConfig"}
