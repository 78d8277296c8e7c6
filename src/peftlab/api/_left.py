"""How much of a plan is left to run: from what its results folder holds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from peftlab.analysis.raced import heat_of, read_race, spared
from peftlab.analysis.words import listed, plural
from peftlab.api.answers import duration
from peftlab.errors import PeftlabError
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Study

if TYPE_CHECKING:
    from peftlab.planning.plan import Plan, PlannedRun  # imports torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Runs of a plan, refused ones apart, by what `run` would do with them."""

    runs: int
    done: int  #: finished, so reused
    failed: int  #: tried again only when asked
    spared: int  #: the race was decided without them
    seconds: float  #: predicted, of all others

    @property
    def to_do(self) -> int:
        """Runs that `run` would begin, or go on with."""
        return self.runs - self.done - self.failed - self.spared

    def as_dict(self) -> dict[str, float]:
        """JSON-ready."""
        counts = {"runs_done": self.done, "runs_failed": self.failed, "runs_spared": self.spared, "runs_to_do": self.to_do}
        return {**counts, "predicted_left_s": self.seconds}

    def words(self) -> str:
        """``10 runs, of which 6 are done; 13.6 s on one core for the rest (predicted, not measured)``."""
        runs, time = plural(self.runs, "run"), f"{duration(self.seconds)} on one core"
        if self.to_do == self.runs:
            return f"{runs}, {time} (predicted, not measured)"
        if self.done == self.runs:
            return f"{runs}, {'which is' if self.runs == 1 else 'all of them'} done"
        parts = [f"{self.done} {'is' if self.done == 1 else 'are'} done"] if self.done else []
        parts += [f"{self.failed} failed (tried again with --retry-failed)"] if self.failed else []
        parts += [f"{self.spared} {'is' if self.spared == 1 else 'are'} spared by the race"] if self.spared else []
        rest = f"{time} for the rest (predicted, not measured)" if self.to_do else "none is left to do"
        return f"{runs}, of which {listed(parts)}; {rest}"


def left_of(plan: Plan, study: Study, folder: ResultsFolder) -> Left:
    """From one look at the folder of each run; from none where the study has no results folder."""
    runs = [run for run in (*plan.tuning, *plan.runs) if not run.refusal]
    there = folder.path.is_dir()
    standing = [_standing(run, folder) if there else "new" for run in runs]
    begun = {(run.label, run.backbone) for run, status in zip(runs, standing, strict=True) if status == "finished"}
    race = read_race(folder.path) if there and study.search else None
    for number, run in enumerate(runs):
        if race and standing[number] not in ("finished", "failed") and (run.label, run.backbone) in begun and run.config:
            heat = heat_of(race, run.config.task, run.backbone)  # of these arms, not of an earlier form: some have run
            standing[number] = "spared" if spared(heat, run.label, run.seed) else standing[number]
    return Left(
        runs=len(runs),
        done=standing.count("finished"),
        failed=standing.count("failed"),
        spared=standing.count("spared"),
        seconds=sum(
            run.predicted_s or 0.0
            for run, status in zip(runs, standing, strict=True)
            if status not in ("finished", "failed", "spared")
        ),
    )


def _standing(run: PlannedRun, folder: ResultsFolder) -> str:
    """As :meth:`RunFolder.status` says; what cannot be looked at is told by `verify`, and does not stop a plan."""
    try:
        return "new" if run.config is None else folder.run(run.config).status()
    except (PeftlabError, OSError):
        return "new"
