"""Values chosen by validation data, before a study's own runs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedpeft_app.config import defaults
from fedpeft_app.errors import Fault
from fedpeft_app.studies.grid import Entry, combinations, describe, with_overrides
from fedpeft_app.studies.study import Search, Settings, Study, Tuning


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
        scores: Each candidate with its mean score over the tuning seeds, more is better;
            None where a run of it ended without one.
    """

    group: Settings
    scores: tuple[tuple[Settings, float | None], ...]

    @property
    def chosen(self) -> Settings | None:
        """The best candidate, the first of equals; None if none has a score."""
        scored = [(score, tried) for tried, score in self.scores if score is not None]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None


def group_of(tuning: Tuning, entry: Entry) -> Settings:
    """Give the values that an entry shares with those that are tuned with it.

    Args:
        tuning: The study's tuning.
        entry: An entry.
    """
    full = {**defaults(), **entry.settings}
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


def choose(scored: Iterable[tuple[Trial, float | None]]) -> tuple[Choice, ...]:
    """Choose for every group.

    Args:
        scored: Trials, each with its score: more is better, None if it has none.
    """
    scores: dict[tuple[object, ...], list[tuple[Settings, float | None]]] = {}
    groups: dict[tuple[object, ...], Settings] = {}
    for trial, score in scored:
        key = tuple(trial.group.values())
        groups[key] = trial.group
        scores.setdefault(key, []).append((trial.candidate, score))
    return tuple(Choice(group=groups[key], scores=tuple(scores[key])) for key in groups)


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
