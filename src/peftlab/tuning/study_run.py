"""A whole study, executed: tuning runs, the choice, evaluation runs."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from peftlab.analysis.tuned import chosen_sentences, not_given
from peftlab.execution.engine import Engine
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.progress import Listener
from peftlab.execution.protocol import WorkerOptions
from peftlab.planning.plan import Plan
from peftlab.planning.planner import Planner
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Study
from peftlab.tuning import choice, racing
from peftlab.tuning.search import Progress, follow
from peftlab.tuning.store import Store

_SUPERSEDED = (
    "another process has changed the study of this folder; this one still does the runs it was asked for, which lose and change "
    "nothing, but plan.json, tuning.json and the report are of the changed study"
)


@dataclasses.dataclass(slots=True, kw_only=True)
class StudyRun:
    """Executes a study: its tuning runs round by round, then its evaluation runs with what was chosen."""

    folder: ResultsFolder
    study: Study
    planner: Planner
    progress: Progress  #: how far the tuning is, with the plan
    cache: Path
    engine: Engine
    retry_failed: bool
    checkpoint_every_s: float = 30.0
    listener: Callable[[str], Listener]  #: is given what the runs are that follow
    say: Callable[[str], None]  #: is given what the tuning chose, and what an arm did not get, a sentence at a time
    said: list[str] = dataclasses.field(default_factory=list)
    raced: list[str] = dataclasses.field(default_factory=list)  #: which arms left the race, and why
    _superseded_said: bool = dataclasses.field(default=False, init=False)

    def run(self) -> Outcome:
        """Everything that is not done yet.

        Returns:
            the outcome of the evaluation runs, and of tuning runs that failed or for want of which an arm has none (of all tuning
            runs where those were interrupted).
        """
        self._write_plan()
        tuning: list[Ending] = []
        if self.study.tune is not None:
            asked: set[str] = set()
            rounds = itertools.count(1)
            while new := [config for config in choice.configs(self.plan) if config.run_id not in asked]:
                self._keep_trials()
                outcome = self._execute(new, "tuning" if (number := next(rounds)) == 1 else f"tuning, round {number}")
                if outcome.interrupted:
                    return outcome
                tuning += outcome.endings
                asked |= {config.run_id for config in new}
                self.progress = follow(self.folder, self.study, self.planner, tried=True)
                self._write_plan()
            self._keep_trials()
            self._conclude()
        if self.study.search is not None:
            outcome = self._race()
        else:
            what = "study" if self.study.tune is None else "evaluation"
            outcome = self._execute([run.config for run in self.plan.runs if run.config is not None], what)
        return dataclasses.replace(outcome, endings=(*self._without_value(tuning), *outcome.endings))

    def _without_value(self, tuning: list[Ending]) -> list[Ending]:
        """Tuning runs that failed, and those that nobody has done: refused for memory, or another runner has them."""
        failed = Outcome(tuple(tuning)).failed
        return [one for one in tuning if one in failed or self.folder.run(one.config).status() not in ("finished", "failed")]

    def _race(self) -> Outcome:
        """Round by round: what the next look at each race needs, until nothing is left to run."""
        asked: set[str] = set()
        told: set[str] = set()
        endings: list[Ending] = []
        while True:
            heats = racing.follow_race(self.folder, self.study, self.plan)
            content = racing.save(self.folder, self.study, heats)
            for text in [text for heat in content["heats"] for text in heat["sentences"] if text not in told]:
                told.add(text)
                self.raced.append(text)
                self.say(f"racing, {text}")
            new = [c for heat in heats for c in (*(heat.needed if not asked else ()), *heat.due) if c.run_id not in asked]
            if not new:
                return Outcome(tuple(endings))
            outcome = self._execute(new, "race")
            endings += outcome.endings
            if outcome.interrupted:
                return Outcome(tuple(endings), outcome.stop_signal)
            asked |= {config.run_id for config in new}

    @property
    def plan(self) -> Plan:
        return self.progress.plan

    def _keep_trials(self) -> None:
        """In Optuna's form; of a grid, which needs no Optuna, only where it is installed. Rungs of halving have no form there."""
        tune = self.study.tune
        if tune is None or tune.sampler == "halving" or (tune.sampler == "grid" and find_spec("optuna") is None):
            return
        if self.folder.superseded:
            return
        Store(self.folder.path, self.study, self.plan.higher_is_better).write(self.progress.entries())

    def _conclude(self) -> None:
        """Record what the tuning chose, and say it."""
        content = choice.save(self.folder, self.study, self.plan.searches, self.progress.found, self.progress.chosen)
        self.said = [*chosen_sentences(content), *not_given(content)]
        for sentence in self.said:
            self.say(sentence)

    def _write_plan(self) -> None:
        self.folder.write_state("plan.json", json.dumps(self.plan.as_dict(), indent=1, sort_keys=True) + "\n")

    def _execute(self, configs: list[RunConfig], what: str) -> Outcome:
        self._say_if_superseded()
        options = WorkerOptions(
            cache=self.cache,
            checkpoint_every_s=self.checkpoint_every_s,
            trackers=tuple(self.study.trackers),
            probes=self.study.probes,
            fused=self.planner.options.fused,
            prefix_cache_mb=self.planner.options.prefix_cache_mb,
        )
        outcome = self.engine.execute(
            self.folder, configs, self.plan, options, self.listener(what), retry_failed=self.retry_failed
        )
        self._say_if_superseded()
        return outcome

    def _say_if_superseded(self) -> None:
        if not self._superseded_said and self.folder.superseded:
            self._superseded_said = True
            self.say(_SUPERSEDED)
