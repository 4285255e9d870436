"""Which metrics the runs of a study can give, known before any of them is started."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from fedpeft_app.config import RunConfig
from fedpeft_app.data_plan import chosen_metric, make_task
from fedpeft_app.errors import Fault
from fedpeft_app.registry import near_miss
from fedpeft_app.studies.study import Study

CLIENT_METRICS: Mapping[str, str] = {  # metric → its key among the figures of nodes
    "clients.mean": "mean",
    "clients.worst-decile": "worst_decile",
    "clients.worst": "worst",
}
_USUAL_OF_NODES = "clients.mean"
_ACCURACY = "accuracy"  # what every task measures, and journals always keep
_REMEDIES = {  # whether it is a metric of nodes → what it takes
    False: "set evaluate.server and evaluate.every, or show one of nodes, such as clients.mean.",
    True: "set strategy.fraction-evaluate above 0; with mode = 'local' there is none.",
}


def with_metrics(
    study: Study, configs: Sequence[RunConfig], tuning_configs: Sequence[RunConfig]
) -> Study:
    """Settle the metrics that a study does not name, and what its nodes are judged by.

    Args:
        study: The study.
        configs: The configuration of each entry, at least one.
        tuning_configs: The configurations of its tuning runs.

    Returns:
        The study. Its table has the task's headline on the server's test set, or, where not
        all entries have one but nodes evaluate in all, the mean over nodes: never both at
        once. Its tuning goes by what chooses the best round of the tuning runs.
    """
    metric = study.layout.metric or _usual(configs)
    judge = _common(_criterion, filter(_judged_by_nodes, configs))
    shown = judge if metric in CLIENT_METRICS else metric
    less = any(shown in make_task(config).lower_is_better for config in configs)
    layout = replace(study.layout, metric=metric, node_metric=judge, lower_is_better=less)
    study = replace(study, layout=layout)
    if study.tuning is None:
        return study
    by = study.tuning.metric or _common(_criterion, tuning_configs)
    lower = any(by in make_task(config).lower_is_better for config in tuning_configs)
    return replace(study, tuning=replace(study.tuning, metric=by, lower_is_better=lower))


def table_faults(study: Study, configs: Sequence[RunConfig]) -> Iterator[Fault]:
    """Refuse a table of what no run measures.

    Args:
        study: The study, as its file has it.
        configs: The configuration of each entry, at least one.
    """
    metric = study.layout.metric or _usual(configs)
    judges = {_criterion(config) for config in configs if _judged_by_nodes(config)}
    known = [*_names(configs), *CLIENT_METRICS]
    giving = [metric in _reported(config) for config in configs]
    problem = ""
    if metric not in known:
        problem = f"unknown metric. Known: {', '.join(known)}.{near_miss(metric, known)}"
    elif not any(giving):
        problem = f"no run measures it: {_REMEDIES[metric in CLIENT_METRICS]}"
    elif metric in CLIENT_METRICS and len(judges) > 1:
        problem = (
            f"nodes are judged by their run's metric, and not all runs have the same: "
            f"{', '.join(sorted(judges))}. Set evaluate.select-by alike."
        )
    elif not study.layout.metric and not all(giving):
        problem = (
            "not every run measures it, and nothing else that all would: say which one the "
            f"table shows, one of: {', '.join(known)}."
        )
    if problem:
        yield Fault(key="table.metric", value=metric, problem=problem)


def choice_faults(study: Study, configs: Sequence[RunConfig]) -> Iterator[Fault]:
    """Refuse to tune by what the tuning runs do not measure on validation data.

    Args:
        study: The study.
        configs: The configurations of its tuning runs.
    """
    if study.tuning is None:
        return
    metric = study.tuning.metric or _common(_criterion, configs)
    lacking = {names for config in configs if metric not in (names := _validated(config))}
    for names in sorted(lacking):
        known = f"only: {', '.join(names)}.{near_miss(metric, names)}" if names else "nor any other"
        problem = f"tuning runs do not measure it on validation data, {known}"
        if not all(map(_judged_by_server, configs)):
            problem += (
                " Without evaluate.server, and evaluate.every above 0, it is nodes who judge, by "
                "evaluate.select-by and accuracy, with strategy.fraction-evaluate above 0."
            )
        yield Fault(key="tune.metric", value=metric, problem=problem)


def _usual(configs: Sequence[RunConfig]) -> str:
    """Choose what a table shows that names nothing."""
    if not all(map(_judged_by_server, configs)) and all(map(_judged_by_nodes, configs)):
        return _USUAL_OF_NODES
    return _common(lambda config: make_task(config).headline, configs)


def _common(name: Callable[[RunConfig], str], configs: Iterable[RunConfig]) -> str:
    """Give the metric that configurations share; accuracy where they do not."""
    names = {name(config) for config in configs}
    return names.pop() if len(names) == 1 else _ACCURACY


def _criterion(config: RunConfig) -> str:
    """Name what chooses the best round of a run, and what its nodes are judged by."""
    return chosen_metric(config, make_task(config))


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
    of_nodes = dict.fromkeys((_criterion(config), _ACCURACY))
    return tuple(of_nodes) if _judged_by_nodes(config) else ()


def _names(configs: Iterable[RunConfig]) -> list[str]:
    """List what the tasks measure."""
    return list(
        dict.fromkeys(name for config in configs for name in make_task(config).metric_names)
    )
