"""What a plan is: every run with its id, what is refused and why, predicted memory and time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftlab.planning.begun import Begun
from peftlab.planning.estimate import Estimate
from peftlab.planning.search import Key, Search, Values
from peftlab.records.record import RunConfig
from peftlab.training.prefix_store import LIMIT_MB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of the plan. ``config`` is None while its values are not drawn or chosen yet; its time is then that of others."""

    label: str
    backbone: str
    task: str
    seed: int
    fold: int
    purpose: str
    config: RunConfig | None
    steps: int
    trainable: int
    total_parameters: int
    estimate: Estimate | None
    predicted_s: float | None
    refusal: str | None = None
    trial: int | None = None  #: of a tuning run, counted from 0 within its search

    @property
    def key(self) -> Key:
        """Of the search that it belongs to, or whose choice it is run with."""
        return Key(self.label, self.backbone, self.task, self.fold)

    def row(self) -> dict[str, Any]:
        """JSON-ready."""
        raw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("config", "estimate")}
        raw["run_id"] = self.config.run_id if self.config else None
        raw["predicted_memory_mb"] = self.estimate.parts_mb if self.estimate else None
        raw["predicted_peak_mb"] = self.estimate.peak_mb if self.estimate else None
        return raw


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All runs of a study: tuning first, then evaluation."""

    study: str
    question: str
    tuning: tuple[PlannedRun, ...]
    runs: tuple[PlannedRun, ...]
    warnings: tuple[str, ...]  #: what makes the comparison unfair
    notes: tuple[str, ...]
    machine: Mapping[str, Any]
    higher_is_better: bool  #: of the study's metric
    searches: tuple[Search, ...] = ()  #: one for every arm and fold that is tuned

    @property
    def pending(self) -> bool:
        """Whether evaluation runs wait for the tuning."""
        return any(run.config is None and run.refusal is None for run in self.runs)

    @property
    def refusals(self) -> list[PlannedRun]:
        return [run for run in (*self.tuning, *self.runs) if run.refusal]

    def rows(self) -> list[dict[str, Any]]:
        return [run.row() for run in (*self.tuning, *self.runs)]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, as written to ``plan.json``."""
        total = sum(run.predicted_s or 0.0 for run in (*self.tuning, *self.runs) if not run.refusal)
        return {
            "study": self.study,
            "question": self.question,
            "runs": self.rows(),
            "tuning": [search.as_dict() for search in self.searches],
            "predicted_total_s": total,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "machine": dict(self.machine),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What narrows or colours a plan without changing the study."""

    cache: Path
    device: str = "auto"
    only: Sequence[str] = ()  #: arms, by name or label
    max_runs: int | None = None  #: evaluation runs at most, with the tuning that these need
    chosen: Mapping[Key, Values] | None = None  #: what the tuning chose
    prefix_cache_mb: float = LIMIT_MB  #: of hidden states that runs may share; 0: none are
    fused: bool = True  #: adapted layers compute base and update together
    compile: str = "off"  #: training steps: off, auto where it pays, or on
    stack: str = "off"  #: runs computed together in one process: off, auto, or how many at most
    available_mb: float | None = None  #: memory for one run, where runs go to other machines; None: what is free here
    begun: Mapping[Begun, int] = dataclasses.field(default_factory=dict)
    predict: bool = True  #: predict memory and time (a second or so per distinct arm)
