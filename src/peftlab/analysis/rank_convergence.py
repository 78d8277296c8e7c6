"""How fast runs of every rank rose, within families of arms that differ in nothing else."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pandas as pd

from peftlab.analysis import ablation
from peftlab.analysis.arms import Convergence
from peftlab.analysis.convergence import area, steps_to, target
from peftlab.analysis.findings import Findings
from peftlab.analysis.means import mean_of
from peftlab.analysis.reading import RunRecord


def rank_convergence(
    findings: Findings, curves: pd.DataFrame | None, records: Mapping[str, RunRecord], rows: pd.DataFrame
) -> list[Convergence]:
    metric, higher = findings.plan.metric, findings.plan.higher_is_better
    if curves is None or curves.empty or metric not in curves.columns:
        return []
    families: dict[str, dict[int, str]] = defaultdict(dict)
    for label, record in records.items():
        chosen, rank = ablation.options(record.config), record.config.adapter.get("rank")
        if isinstance(rank, int) and record.config.allocator is None:
            rest = {k: v for k, v in chosen.items() if k not in ("adapter.rank", "adapter.alpha")}
            families[repr(sorted(rest.items()))].setdefault(rank, label)
    validation = curves[(curves["split"] == "validation") & ~curves["diverged"]].dropna(subset=[metric])
    runs: dict[str, list[list[tuple[float, float]]]] = defaultdict(list)
    wanted = validation[validation["label"].isin([label for ranks in families.values() for label in ranks.values()])]
    for (label, _, _), group in wanted.groupby(["label", "seed", "fold"], sort=False):
        runs[str(label)].append(list(zip(group["step"].astype(float), group[metric].astype(float), strict=True)))
    diverged = rows[rows["imputed"]].groupby("label").size()
    chance, found = rows["chance"].dropna(), []
    level = float(chance.iloc[0]) if len(chance) else None
    confidence, folds = findings.plan.confidence, int(rows["fold"].nunique()) if len(rows) else 1
    pick = max if higher else min
    for ranks in families.values():
        known = {rank: label for rank, label in sorted(ranks.items()) if runs[label]}
        if len(known) < 2:
            continue
        best = pick(float(np.mean([pick(v for _, v in run) for run in runs[label]])) for label in known.values())
        goal = target(best, level, higher_is_better=higher)
        family = records[next(iter(known.values()))].config.arm
        for rank, label in known.items():
            arrivals = [steps_to(run, goal, higher_is_better=higher) for run in runs[label]]
            found.append(
                Convergence(
                    family=family, arm=label, rank=rank, goal=goal, steps=mean_of(arrivals, confidence, folds),
                    reached=sum(step is not None for step in arrivals), runs=len(arrivals) + int(diverged.get(label, 0)),
                    area=mean_of([area(run) for run in runs[label]], confidence, folds),
                )
            )  # fmt: skip
    return found
