"""Whether it pays to compute the frozen prefix of an arm once for all its runs, decided as the runs are planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from peftlab.planning.estimate import Estimate
from peftlab.training.schedule import Schedule

READ_BYTES_PER_S = 1e9  #: of files that lie in the system's memory
CHECK_BYTES_PER_S = 5e8  #: SHA-256 of a file that is opened
LEAST_S, LEAST_SHARE = 1.0, 0.02  #: a gain below this many seconds, or this share of the runs' time, is none


def evaluated(schedule: Schedule, sizes: Mapping[str, int]) -> int:
    """Examples that one run evaluates on that no early stopping ends: all of validation again and again, all of test once."""
    return schedule.evaluations * sizes.get("validation", 0) + sizes.get("test", 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """An arm that begins at a cut (training/prefix.py), as predicted."""

    cut: str
    blocks: int
    row_bytes: int  #: of the hidden states of the largest example
    estimate: Estimate  #: of what is left

    def decide(
        self, whole: Estimate, fill: float, schedule: Schedule, sizes: Mapping[str, int], runs: int, limit_mb: float
    ) -> Decision:
        """Compare ``runs`` runs that go through the whole model with runs that share hidden states.

        With t the time of the prefix for one example, N examples kept, E sent through it in a run, b bytes of an example:
        saved = runs E t - (N t + runs (E b / reading + N b / checking)).
        """
        sent, kept = schedule.total * schedule.effective_batch + evaluated(schedule, sizes), sum(sizes.values())
        example_s = fill * max(0.0, whole.evaluate_time_per_example_s - self.estimate.evaluate_time_per_example_s)
        example_bytes = fill * self.row_bytes
        use_s = sent * example_bytes / READ_BYTES_PER_S + kept * example_bytes / CHECK_BYTES_PER_S
        fill_s, spent_s = kept * example_s, runs * sent * example_s
        saved_s, size_mb = spent_s - fill_s - runs * use_s, kept * example_bytes / 1e6
        why = ""
        if size_mb > limit_mb:
            why = f"hidden states of {size_mb:,.0f} MB are more than the {limit_mb:,.0f} MB that may be kept"
        elif saved_s < max(LEAST_S, LEAST_SHARE * spent_s):
            why = f"predicted to save {max(0.0, saved_s):.2g} s in {runs} run{'' if runs == 1 else 's'}: too little"
        return Decision(
            cut=self.cut, blocks=self.blocks, runs=runs, mb=size_mb, fill_s=fill_s, saved_s=saved_s, use_s=use_s, why=why
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided, and what it is predicted to bring; ``why`` not, empty where hidden states are shared."""

    cut: str
    blocks: int
    runs: int  #: that share them
    mb: float
    fill_s: float  #: once, for all runs
    saved_s: float  #: by all runs together
    use_s: float  #: reading and checking, in one run
    why: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; ``prefix`` of what is predicted of a run."""
        figures = {name: round(getattr(self, name), 3) for name in ("mb", "fill_s", "saved_s", "use_s")}
        return {"cut": self.cut, "blocks": self.blocks, "runs": self.runs, **figures, "why": self.why}

    def words(self, label: str) -> str:
        """One sentence for the plan."""
        place = "its head" if self.cut == "head" else f"block {self.blocks}"
        if self.why:
            return f"{label}: what lies before {place} is frozen, and computed anew in every run: {self.why}"
        return (
            f"{label}: what lies before {place} is computed once for {self.runs} runs ({self.mb:,.0f} MB on disk), "
            f"predicted to save {self.saved_s:.3g} s"
        )
