"""What runs recorded about their modules: importance over time, ranks over time, rank utilisation. Read, never judged, here."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from peftlab.analysis.frame import Frame
from peftlab.analysis.reading import read_json

IMPORTANCE_COLUMNS = "arm task backbone seed fold metric step site block role value".split()
RANK_COLUMNS = "arm task backbone seed fold step site block role rank importance".split()


class Read(BaseModel):
    """What a run recorded: further keys are of no interest here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Kind = TypeVar("Kind", bound=Read)


class Place(Read):
    """Where a module lies."""

    block: int | None
    role: str
    d_in: int = 0
    d_out: int = 0
    #: trainable parameters of the first rank, of the second, and by how much every further one is dearer than the one before
    cost: tuple[int, int, int] | None = None
    largest_rank: int | None = None


class RecordedImportance(Read):
    """``importance.json`` of a run."""

    sites: dict[str, Place]
    steps: list[int]
    metrics: dict[str, dict[str, list[float | None]]]

    @model_validator(mode="after")
    def _complete(self) -> RecordedImportance:
        for values in self.metrics.values():
            if not values.keys() <= self.sites.keys() or any(len(v) != len(self.steps) for v in values.values()):
                raise ValueError("values do not fit the steps and sites")
        return self


class Decision(Read):
    """One line of an allocator's history."""

    step: int
    ranks: dict[str, int]
    importance: dict[str, float | None] = {}


class RecordedRanks(Read):
    """``ranks.json`` of a run."""

    ranks: dict[str, int]
    ranks_at_start: dict[str, int] | None = None
    initial_rank: int | None = None
    spent: dict[str, int] = {}
    effective_scale: float | None = None
    history: list[Decision] = []

    @property
    def dynamic(self) -> bool:
        """Whether ranks were decided during training."""
        return any(decision.step > 0 for decision in self.history)

    @property
    def start(self) -> dict[str, int]:
        if self.ranks_at_start is not None:
            return self.ranks_at_start
        return dict.fromkeys(self.ranks, self.initial_rank) if self.initial_rank is not None else self.ranks


class Utilised(Place):
    """Rank utilisation of one module."""

    rank: int
    effective_rank: float | None
    rank_90: int | None
    share_in_use: float | None


class RecordedUtilisation(Read):
    """``rank_utilisation.json`` of a run."""

    sites: dict[str, Utilised]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRun:
    """One completed run with what it recorded about its modules."""

    arm: str
    task: str
    backbone: str
    seed: int
    fold: int
    folder: Path
    steps: int
    importance: RecordedImportance | None
    ranks: RecordedRanks | None
    utilisation: RecordedUtilisation | None

    @property
    def places(self) -> dict[str, Place]:
        if self.importance is not None:
            return self.importance.sites
        return dict(self.utilisation.sites) if self.utilisation is not None else {}


def module_runs(frame: Frame) -> tuple[list[ModuleRun], list[str]]:
    """Completed runs that recorded something about modules, and notes on files that could not be read."""
    found, notes = [], []
    for row in completed(frame):
        folder = frame.folder / str(row["folder"])
        parts = {
            "importance": parse(folder / "importance.json", RecordedImportance, notes),
            "ranks": parse(folder / "ranks.json", RecordedRanks, notes),
            "utilisation": parse(folder / "rank_utilisation.json", RecordedUtilisation, notes),
        }
        if any(part is not None for part in parts.values()):
            about = {"arm": str(row["label"]), "task": str(row["task"]), "backbone": str(row["backbone"])}
            steps = int(row["steps"]) if not pd.isna(row["steps"]) else 0
            found.append(
                ModuleRun(**about, seed=int(row["seed"]), fold=int(row["fold"]), folder=folder, steps=steps, **parts)  # pyright: ignore
            )
    return found, notes


def completed(frame: Frame) -> Iterator[Any]:
    """Rows of the completed runs, one each, in the order of the study file."""
    runs = frame.rows[frame.rows["status"] == "completed"].drop_duplicates("folder")
    order = {label: i for i, label in enumerate(frame.arms)}
    rows: list[Any] = runs.to_dict("records")
    yield from sorted(rows, key=lambda row: (row["task"], row["backbone"], order[row["label"]], row["seed"], row["fold"]))


def parse(path: Path, form: type[Kind], notes: list[str]) -> Kind | None:
    """A file of a run; None where there is none, or it is damaged (which is noted)."""
    if not path.is_file():
        return None
    try:
        return form.model_validate(read_json(path))
    except ValidationError:
        notes.append(f"{path.parent.name}/{path.name} is damaged and was left out.")
        return None


def importance_table(runs: list[ModuleRun]) -> pd.DataFrame:
    """A row per run x metric x snapshot x module; ``value`` as recorded, not normalised."""
    series = [
        (run, file, metric, site, values)
        for run in runs
        if (file := run.importance) is not None
        for metric, sites in sorted(file.metrics.items())
        for site, values in sites.items()
    ]
    about = [(*_about(run), metric, site, file.sites[site].block, file.sites[site].role) for run, file, metric, site, _ in series]
    names = [name for name in IMPORTANCE_COLUMNS if name not in ("step", "value")]
    table = pd.DataFrame(about, columns=pd.Index(names))
    table = table.loc[np.repeat(np.arange(len(series)), [len(file.steps) for _, file, *_ in series])].reset_index(drop=True)
    table["step"] = np.array([step for _, file, *_ in series for step in file.steps], dtype=np.int64)
    table["value"] = np.array([value for *_, values in series for value in values], dtype=np.float64)
    return _typed(table[IMPORTANCE_COLUMNS], "value")


def rank_table(runs: list[ModuleRun]) -> pd.DataFrame:
    """A row per run x decision x module: the start (step 0), every decision, and the end.

    ``importance`` is what the allocator went by; empty at the start and the end.
    """
    rows = []
    for run in runs:
        if run.ranks is None:
            continue
        points = [Decision(step=0, ranks=run.ranks.start), *(d for d in run.ranks.history if d.step > 0)]
        points.append(Decision(step=max(run.steps, points[-1].step), ranks=run.ranks.ranks))
        for point in points:
            for site, rank in point.ranks.items():
                place = run.places.get(site, Place(block=None, role=""))
                rows.append((*_about(run), point.step, site, place.block, place.role, rank, point.importance.get(site)))
    return _typed(pd.DataFrame(rows, columns=pd.Index(RANK_COLUMNS)), "rank", "importance")


def _about(run: ModuleRun) -> tuple[Any, ...]:
    return run.arm, run.task, run.backbone, run.seed, run.fold


def _typed(table: pd.DataFrame, *numbers: str) -> pd.DataFrame:
    for column in numbers:
        table[column] = pd.to_numeric(table[column]).astype("float64")
    table["block"] = pd.to_numeric(table["block"]).astype("Int64")
    return table


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShareMap:
    """The importance of one arm's modules by one metric in one setting, as shares of the run's sum.

    ``over_time``: seed -> per fold (steps, [steps, modules]). ``shares`` [seeds, modules] is the mean over the snapshots of the
    second half of training, and over folds: what a seed says about each module. Missing where a module had no rank in a run.
    """

    arm: str
    task: str
    backbone: str
    metric: str
    sites: list[str]
    places: dict[str, Place]
    over_time: dict[int, list[tuple[list[int], NDArray[np.float64]]]]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.over_time)

    @property
    def shares(self) -> NDArray[np.float64]:
        return np.array([mean_of([_late(steps, v) for steps, v in self.over_time[seed]]) for seed in self.seeds])


def share_maps(runs: list[ModuleRun]) -> list[ShareMap]:
    """One map per arm, setting and metric. A snapshot whose values are all zero says nothing and is left out."""
    groups: dict[tuple[str, str, str, str], list[ModuleRun]] = defaultdict(list)
    for run in runs:
        for metric in run.importance.metrics if run.importance else ():
            groups[run.arm, run.task, run.backbone, metric].append(run)
    found = []
    for (arm, task, backbone, metric), members in groups.items():
        recorded = [(run, run.importance) for run in members if run.importance is not None]
        places = {site: place for _, file in recorded for site, place in file.sites.items()}
        named = {site for _, file in recorded for site in file.metrics[metric]}
        sites = sorted(named, key=lambda s: (-1 if places[s].block is None else places[s].block, s))  # pyright: ignore
        over_time: dict[int, list[tuple[list[int], NDArray[np.float64]]]] = defaultdict(list)
        for run, file in recorded:
            missing = [None] * len(file.steps)
            table = np.array([file.metrics[metric].get(site, missing) for site in sites], dtype=np.float64).T
            over_time[run.seed].append((file.steps, _shares(table)))
        if sites:
            found.append(
                ShareMap(arm=arm, task=task, backbone=backbone, metric=metric, sites=sites, places=places, over_time=over_time)
            )
    return found


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows [steps, modules] divided by their sums; all missing where the sum is not positive."""
    sums = np.nansum(values, axis=1, keepdims=True)
    return np.divide(values, sums, out=np.full_like(values, np.nan), where=sums > 0)


def _late(steps: list[int], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the snapshots of the second half of training [modules]."""
    late = np.array(steps) > steps[-1] / 2 if steps else np.zeros(0, dtype=bool)
    return mean_of(list(shares[late])) if late.any() else np.full(shares.shape[1], np.nan)


def mean_of(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean of the values that are there, element by element; missing where none is."""
    table = np.array(rows)
    known = np.isfinite(table)
    counts = known.sum(axis=0)
    return np.divide(np.where(known, table, 0.0).sum(axis=0), counts, out=np.full(table.shape[1:], np.nan), where=counts > 0)
