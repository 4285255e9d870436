"""Values chosen by validation data, before a study's own runs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedpeft_app.errors import Fault
from fedpeft_app.studies.grid import Entry, combinations, describe, with_overrides
from fedpeft_app.studies.study import Search, Settings, Study, Tuning, usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate for the entries that are tuned together.

    Attributes:
        group: Tuning key → the value that these entries share.
        candidate: What is tried.
        settings: All that the trial's runs set, but for the seed.
    """

    group: Settings
    candidate: Settings
    settings: Settings

    @property
    def name(self) -> str:
        """Whom it is for, and what it tries."""
        return f"tuning {', '.join(map(str, self.group.values()))}: {describe(self.candidate)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen for the entries that are tuned together.

    Attributes:
        group: Tuning key → the value that these entries share.
        scores: Each candidate with its mean score over the tuning seeds; None where a run of
            it ended without one.
        lower_is_better: Whether the lowest score is the best.
    """

    group: Settings
    scores: tuple[tuple[Settings, float | None], ...]
    lower_is_better: bool = False

    @property
    def chosen(self) -> Settings | None:
        """The best candidate, the first of equals; None if none has a score."""
        scored = [(score, tried) for tried, score in self.scores if score is not None]
        best = min if self.lower_is_better else max
        return best(scored, key=lambda pair: pair[0])[1] if scored else None

    @property
    def at_edge(self) -> tuple[str, ...]:
        """Name the keys whose chosen number is the least or the greatest that was tried."""
        found = []
        for key, value in (self.chosen or {}).items():
            numbers = {tried[key] for tried, _ in self.scores}
            numeric = all(type(number) in (int, float) for number in numbers)
            if numeric and len(numbers) > 1 and value in (min(numbers), max(numbers)):
                found.append(key)
        return tuple(found)


def group_of(tuning: Tuning, entry: Entry) -> Settings:
    """Give the values that an entry shares with those that are tuned with it.

    Args:
        tuning: The study's tuning.
        entry: An entry.
    """
    full = {**usual(), **entry.settings}
    return {key: full[key] for key in tuning.per}


def trials(study: Study, entries: Sequence[Entry]) -> tuple[Trial, ...]:
    """List what must be tried for some entries, each candidate of a group once.

    Args:
        study: The study.
        entries: Entries of it.

    Returns:
        The trials. Each has the study's settings for its group, then the tuning's own, then
        the candidate.
    """
    return tuple(
        Trial(
            group=group,
            candidate=candidate,
            settings={**with_overrides(study, group), **tuning.settings, **candidate},
        )
        for tuning in ([study.tuning] if study.tuning else [])
        for group, searches in _groups(tuning, entries)
        for candidate in combinations(searches[0].values)
    )


def choose(
    scored: Iterable[tuple[Trial, float | None]], *, lower_is_better: bool = False
) -> tuple[Choice, ...]:
    """Choose for every group.

    Args:
        scored: Trials, each with its score; None if it has none.
        lower_is_better: Whether the lowest score is the best.
    """
    scores: dict[tuple[object, ...], list[tuple[Settings, float | None]]] = {}
    groups: dict[tuple[object, ...], Settings] = {}
    for trial, score in scored:
        key = tuple(trial.group.values())
        groups[key] = trial.group
        scores.setdefault(key, []).append((trial.candidate, score))
    return tuple(
        Choice(group=groups[key], scores=tuple(scores[key]), lower_is_better=lower_is_better)
        for key in groups
    )


def tuning_faults(study: Study, entries: Sequence[Entry]) -> Iterator[Fault]:
    """List entries that would be tuned together, but by different searches.

    Args:
        study: The study.
        entries: Its entries.
    """
    for tuning in [study.tuning] if study.tuning else []:
        for group, searches in _groups(tuning, entries):
            if len(searches) > 1:
                problem = (
                    f"cells with {describe(group) or 'anything'} are tuned together, but by "
                    f"{len(searches)} searches. Name more keys."
                )
                yield Fault(key="tune.per", value=list(tuning.per), problem=problem)


def _groups(tuning: Tuning, entries: Sequence[Entry]) -> list[tuple[Settings, list[Search]]]:
    """Collect the groups, in the order of their first entries, with their searches."""
    groups: dict[tuple[object, ...], tuple[Settings, list[Search]]] = {}
    for entry in entries:
        if entry.search is not None:
            group = group_of(tuning, entry)
            _, searches = groups.setdefault(tuple(group.values()), (group, []))
            if entry.search not in searches:
                searches.append(entry.search)
    return list(groups.values())
