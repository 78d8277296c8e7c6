"""Who got the rank: final ranks over seeds, and arms with adaptive ranks against arms with fixed ones."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peftlab.analysis.comparison import Difference, holm
from peftlab.analysis.frame import Frame
from peftlab.analysis.importance import Group, bounds_of
from peftlab.analysis.layers import AdaptiveRow
from peftlab.analysis.maps import ModuleRun, Place, mean_of
from peftlab.analysis.race_tests import differences
from peftlab.analysis.reading import read_json

RANK = "rank"  #: stands where a metric's name stands
ALLOCATOR = "allocator"  #: what the hooks of all allocators are called in ``time.hooks_s``
CLOSE = 0.01  #: parameters within this share count as equal


def rank_groups(runs: Sequence[ModuleRun]) -> tuple[list[Group], list[Group]]:
    """Final ranks of every arm with an allocator: (decided during training, decided before it). A seed is enough for the latter.

    Values are ranks; a module that a run left out has rank 0.
    """
    arms: dict[tuple[str, str, str], list[ModuleRun]] = defaultdict(list)
    for run in runs:
        if run.ranks is not None:
            arms[run.arm, run.task, run.backbone].append(run)
    dynamic, static = [], []
    for (arm, task, backbone), members in arms.items():
        places: dict[str, Place] = {}
        final: dict[int, list[Mapping[str, int]]] = defaultdict(list)
        for run in members:
            places |= run.places
            final[run.seed].append(run.ranks.ranks if run.ranks else {})
        named = {site for tables in final.values() for ranks in tables for site in ranks}
        places |= {site: Place(block=None, role="") for site in named - places.keys()}
        sites = sorted(named, key=lambda s: (-1 if places[s].block is None else places[s].block, s))
        seeds = sorted(final)
        rows = [mean_of([np.array([float(ranks.get(s, 0)) for s in sites]) for ranks in final[seed]]) for seed in seeds]
        group = Group(
            arm=arm, task=task, backbone=backbone, metric=RANK, sites=sites, places=places, seeds=seeds, values=np.array(rows)
        )
        (dynamic if any(run.ranks and run.ranks.dynamic for run in members) else static).append(group)
    return dynamic, static


def adaptive_rows(frame: Frame, runs: Sequence[ModuleRun]) -> list[AdaptiveRow]:
    """Every arm with adaptive ranks against every arm with fixed ones, per setting; Holm over the rows of a setting."""
    found: list[AdaptiveRow] = []
    for task, backbone in frame.settings:
        here: dict[str, list[ModuleRun]] = defaultdict(list)
        for run in runs:
            if (run.task, run.backbone) == (task, backbone) and run.utilisation is not None:
                here[run.arm].append(run)
        adaptive = [arm for arm, members in here.items() if any(r.ranks is not None and r.ranks.dynamic for r in members)]
        costs = {arm: _costs(members) for arm, members in here.items()}
        measured, compare = set(frame.values(task, backbone).columns), differences(frame, task, backbone)
        rows = [
            _row(frame.metric, (task, backbone), arm, fixed, costs, compare(arm, fixed))
            for arm in adaptive
            for fixed in here
            if fixed not in adaptive and {arm, fixed} <= measured
        ]
        adjusted = holm([row.p for row in rows])
        found += [row.model_copy(update={"p_adjusted": p}) for row, p in zip(rows, adjusted, strict=True)]
    return found


def _row(
    metric: str,
    setting: tuple[str, str],
    arm: str,
    fixed: str,
    costs: Mapping[str, Mapping[str, float | None]],
    compared: Difference,
) -> AdaptiveRow:
    mine, other = costs[arm], costs[fixed]
    return AdaptiveRow(
        adaptive=arm, fixed=fixed, task=setting[0], backbone=setting[1], metric=metric,
        difference=compared.interval.mean if compared.interval.n else None, interval=bounds_of(compared.interval),
        n=compared.interval.n, p=compared.p, p_adjusted=None,
        parameters_at_most=mine["most"], parameters_at_end=mine["end"], parameters_fixed=other["end"],
        ranks_at_end=mine["ranks"], ranks_fixed=other["ranks"],
        equal_parameters=_close(mine["end"], other["end"], CLOSE), equal_ranks=_close(mine["ranks"], other["ranks"], 0.0),
        effective_scale=mine["scale"],
        allocator_share=mine["allocator"], memory_mb=mine["memory"], memory_fixed_mb=other["memory"],
    )  # fmt: skip


def _close(first: float | None, second: float | None, share: float) -> bool:
    return first is not None and second is not None and abs(first - second) <= share * abs(second)


def _costs(runs: Sequence[ModuleRun]) -> dict[str, float | None]:
    """Means over the runs of one arm: parameters, ranks, scale of the update, share of time in the allocator, memory."""
    found: dict[str, list[float | None]] = defaultdict(list)
    for run in runs:
        results = read_json(run.folder / "results.json") or {}
        parameters, time = results.get("parameters") or {}, results.get("time") or {}
        trainable, head = _number(parameters.get("trainable")), _number(parameters.get("head"))
        spent = _number(run.ranks.spent.get("parameters")) if run.ranks is not None and run.ranks.dynamic else None
        left = _number((parameters.get("at_end") or {}).get("trainable"))  # earlier records lack it
        found["most"].append(trainable)
        found["end"].append(left if left is not None else spent + head if spent is not None and head is not None else trainable)
        found["scale"].append(run.ranks.effective_scale if run.ranks is not None else None)
        found["ranks"].append(float(sum(site.rank for site in run.utilisation.sites.values())) if run.utilisation else None)
        hooks, train = time.get("hooks_s") or {}, _number(time.get("train_s"))
        seconds = _number(hooks.get(ALLOCATOR))
        found["allocator"].append(seconds / train if seconds is not None and train else None)
        found["memory"].append(_number((results.get("memory") or {}).get("measured_peak_mb")))
    return {
        key: float(np.mean(known)) if (known := [v for v in values if v is not None]) else None for key, values in found.items()
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
