"""Which metrics the runs of a study can give, known before any of them is started."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from fedpeft_app.config import RunConfig
from fedpeft_app.data_plan import make_task
from fedpeft_app.errors import Fault
from fedpeft_app.registry import near_miss
from fedpeft_app.studies.study import Study

CLIENT_METRICS: Mapping[str, str] = {  # metric → its key among the figures of nodes
    "clients.mean": "mean",
    "clients.worst-decile": "worst_decile",
    "clients.worst": "worst",
}
_USUAL, _USUAL_OF_NODES = "accuracy", "clients.mean"
_REMEDIES = {  # whether it is a metric of nodes → what it takes
    False: "set evaluate.server and evaluate.every, or show one of nodes, such as clients.mean.",
    True: "set strategy.fraction-evaluate above 0; with mode = 'local' there is none.",
}
_BY_NODES = ("accuracy",)  # of what nodes measure on their own data, journals keep this alone


def with_metric(study: Study, configs: Sequence[RunConfig]) -> Study:
    """Settle the metric of a table that names none.

    Args:
        study: The study.
        configs: The configuration of each entry, at least one.

    Returns:
        The study. Its table has the accuracy on the server's test set, or, where not all
        entries have one but nodes evaluate in all, the mean over nodes: never both at once.
    """
    if study.layout.metric:
        return study
    by_nodes = not all(map(_judged_by_server, configs)) and all(map(_judged_by_nodes, configs))
    metric = _USUAL_OF_NODES if by_nodes else _USUAL
    return replace(study, layout=replace(study.layout, metric=metric))


def table_faults(study: Study, configs: Sequence[RunConfig]) -> Iterator[Fault]:
    """Refuse a table of what no run measures.

    Args:
        study: The study, as its file has it.
        configs: The configuration of each entry, at least one.
    """
    metric = with_metric(study, configs).layout.metric
    known = [*_names(configs), *CLIENT_METRICS]
    giving = [metric in _reported(config) for config in configs]
    problem = ""
    if metric not in known:
        problem = f"unknown metric. Known: {', '.join(known)}.{near_miss(metric, known)}"
    elif not any(giving):
        problem = f"no run measures it: {_REMEDIES[metric in CLIENT_METRICS]}"
    elif not study.layout.metric and not all(giving):
        problem = (
            "not every run measures it, and nothing else that all would: say which one the "
            f"table shows, one of: {', '.join(known)}."
        )
    if problem:
        yield Fault(key="table.metric", value=metric, problem=problem)


def choice_faults(study: Study, configs: Iterable[RunConfig]) -> Iterator[Fault]:
    """Refuse to tune by what the tuning runs do not measure on validation data.

    Args:
        study: The study.
        configs: The configurations of its tuning runs.
    """
    metric = study.tuning.metric if study.tuning else ""
    lacking = {names for config in configs if metric not in (names := _validated(config))}
    for names in sorted(lacking):
        known = f"only: {', '.join(names)}.{near_miss(metric, names)}" if names else "nor any other"
        problem = f"tuning runs do not measure it on validation data, {known}"
        if names in (_BY_NODES, ()):
            problem += (
                " Without evaluate.server, and evaluate.every above 0, it is nodes who judge, "
                "by accuracy alone, and only with strategy.fraction-evaluate above 0."
            )
        yield Fault(key="tune.metric", value=metric, problem=problem)


def _judged_by_server(config: RunConfig) -> bool:
    """Say whether the server measures its test set in the end."""
    return config.evaluate.server and (config.mode == "local" or config.evaluate.every > 0)


def _judged_by_nodes(config: RunConfig) -> bool:
    """Say whether nodes measure the states on what they hold out."""
    return config.mode != "local" and config.strategy.fraction_evaluate > 0


def _reported(config: RunConfig) -> tuple[str, ...]:
    """Name what a run reports."""
    of_server = make_task(config).metric_names if _judged_by_server(config) else ()
    return (*of_server, *(CLIENT_METRICS if _judged_by_nodes(config) else ()))


def _validated(config: RunConfig) -> tuple[str, ...]:
    """Name what a run measures on validation data.

    Whether a server that carves out none is given some by its source shows in the run alone.
    """
    if _judged_by_server(config):
        return make_task(config).metric_names
    return _BY_NODES if _judged_by_nodes(config) else ()


def _names(configs: Iterable[RunConfig]) -> list[str]:
    """List what the tasks measure."""
    return list(
        dict.fromkeys(name for config in configs for name in make_task(config).metric_names)
    )
