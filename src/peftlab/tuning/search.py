"""From the records to the next trials: which values were drawn, which follow, and which arms are through."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from peftlab.planning.plan import Plan
from peftlab.planning.planner import Planner
from peftlab.planning.search import Key, Search, Values
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Study, Tune
from peftlab.tuning import choice, halving, sampling
from peftlab.tuning.announce import announced
from peftlab.tuning.choice import Choice, TrialRun
from peftlab.tuning.store import Entry, Store


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the tuning of a study is, by its records."""

    plan: Plan
    found: list[TrialRun]
    chosen: list[Choice]  #: for the arms whose trials have all ended

    def entries(self) -> list[tuple[Search, list[Entry]]]:
        """Every trial with its score, as the store takes them."""
        return [(search, self._entries(search)) for search in self.plan.searches]

    def _entries(self, search: Search) -> list[Entry]:
        entries: list[Entry] = []
        for number in range(search.trials):
            runs = _runs(search, self.found, number)
            if not runs or runs[0].status == "refused":
                break
            about = {"runs": [run.run_id for run in runs], "values": {str(run.seed): run.value for run in runs}}
            entries.append((runs[0].values, choice.score(runs, self.plan.higher_is_better), about))
        return entries


def follow(folder: ResultsFolder, study: Study, planner: Planner, *, tried: bool = False) -> Progress:
    """How far the tuning is, with the plan; a race of the evaluation runs is announced in it.

    Args:
        tried: whatever was to be run has been, so an arm that has no value yet will not get one.

    Raises:
        StudyError: there is nothing to race.
        MissingExtra, RecordError: see :func:`_follow`.
    """
    progress = _follow(folder, study, planner, tried)
    return dataclasses.replace(progress, plan=announced(study, progress.plan)) if study.search else progress


def _follow(folder: ResultsFolder, study: Study, planner: Planner, tried: bool) -> Progress:
    """The plan with every trial that can be drawn by now, and with the evaluation runs of the arms that are through.

    Reads, and writes nothing.

    Raises:
        MissingExtra: the sampler needs Optuna, which is not installed.
        RecordError: the store cannot be read; no run of an arm ended with a value.
    """
    tune = study.tune
    if tune is None:
        return Progress(plan=planner.plan(), found=[], chosen=[])
    plan = planner.plan()
    drawn: dict[Key, list[Values]] = {}
    if tune.sampler != "grid":
        store = None if tune.listed else Store(folder.path, study, plan.higher_is_better)
        drawn = {search.key: store.drawn(search)[: search.trials] if store else [] for search in plan.searches}
        plan = planner.plan(drawn)
        while _draw(tune, plan.searches, drawn, choice.outcomes(folder, study, plan), plan.higher_is_better):
            plan = planner.plan(drawn)
    found = choice.outcomes(folder, study, plan)
    assert len({search.trials for search in plan.searches}) <= 1, "every arm gets the same number of trials"
    through = [search for search in plan.searches if _through(search, found) and (tried or _has_value(search, found))]
    chosen = choice.choose(through, found, plan.higher_is_better)
    if chosen:
        plan = planner.plan(drawn, choice.as_mapping(chosen))
    return Progress(plan=plan, found=found, chosen=chosen)


def _draw(
    tune: Tune, searches: Sequence[Search], drawn: dict[Key, list[Values]], found: Sequence[TrialRun], higher_is_better: bool
) -> bool:
    """Add the rounds that are due to ``drawn``; whether there were any."""
    due = False
    for search in searches:
        values = drawn[search.key]
        if len(values) == search.trials:
            continue
        first, end = sampling.round_of(tune, len(values))
        scores = [choice.score(_runs(search, found, number), higher_is_better) for number in range(first)]
        if None in scores:
            continue
        due = True
        if tune.sampler == "halving":
            values += halving.next_rung(tune, search.space, list(values), scores, higher_is_better)
        while len(values) < end:  # of its own round a trial is told nothing, whatever has ended
            told = [*scores, *[None] * (len(values) - first)]
            values.append(sampling.draw(tune, search.space, list(zip(values, told, strict=True)), higher_is_better))
    return due


def _runs(search: Search, found: Sequence[TrialRun], number: int) -> list[TrialRun]:
    return [run for run in found if run.key == search.key and run.trial == number]


def _has_value(search: Search, found: Sequence[TrialRun]) -> bool:
    """Whether there is something to choose from; runs that failed may be tried again."""
    return any(run.usable and run.share == 1 for run in found if run.key == search.key)


def _through(search: Search, found: Sequence[TrialRun]) -> bool:
    """Whether all its trials have ended."""
    runs = [run for run in found if run.key == search.key]
    return len(runs) == search.trials * len(search.seeds) and all(run.status != "missing" for run in runs)
