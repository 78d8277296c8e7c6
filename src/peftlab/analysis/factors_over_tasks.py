"""The effect of an option over several tasks: seeds and tasks cross, and both are random.

Within task t and for seed s an effect is a contrast of runs (analysis/factorial.py), c_ts. The mixed model of the runs, in which
levels are fixed and their effects vary at random with the task and with the seed, becomes for one contrast

    c_ts = mu + a_t + b_s + e_ts

with independent random a (what the effect does on other tasks), b and e; what the runs share within a task or a seed falls out of
the contrast. mu with its interval is that of :func:`peftlab.analysis.crossed.crossed_mean`, the estimate of restricted maximum
likelihood for complete tables, with Satterthwaite's degrees of freedom. Several backbones of a task share its data and are no
further tasks: they are averaged first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from peftlab.analysis.crossed import Crossed, crossed_mean
from peftlab.analysis.factorial import Contrast, Effect
from peftlab.analysis.intervals import Interval, t_interval
from peftlab.analysis.over_tasks import FEWEST_SAMPLED


@dataclasses.dataclass(frozen=True, slots=True)
class EffectOverTasks:
    """Of one factor, or of two on each other."""

    contrasts: tuple[Contrast, ...]
    contexts: int  #: combinations of the other options that it is averaged over, within each task
    table: pd.DataFrame  #: [seed, task], only seeds that every task has
    these: Interval  #: mean over these tasks; the seeds alone are random
    mixed: Crossed | None  #: tasks and seeds random; None with fewer than three tasks or two seeds

    @property
    def seeds(self) -> int:
        return len(self.table)


def effects_over_tasks(by_setting: Mapping[tuple[str, str], Sequence[Effect]], confidence: float = 0.95) -> list[EffectOverTasks]:
    """Effects that every setting has, with the same levels and over the same combinations of the other options.

    Args:
        by_setting: (task, backbone) -> its effects, each with a value per seed.
        confidence: of the intervals, two-sided.

    Returns:
        One per effect, in the order of the first setting; none where there is one task only.
    """
    if len({task for task, _ in by_setting}) < 2:
        return []
    known = [{_key(effect): effect for effect in found} for found in by_setting.values()]
    shared = [key for key in known[0] if all(key in other for other in known)]
    return [made for key in shared if (made := _over(dict(zip(by_setting, (k[key] for k in known), strict=True)), confidence))]


def _key(effect: Effect) -> tuple[object, ...]:
    return tuple((c.factor, c.words, c.levels) for c in effect.contrasts), effect.contexts


def _over(effects: Mapping[tuple[str, str], Effect], confidence: float) -> EffectOverTasks | None:
    groups: dict[str, list[pd.Series]] = {}
    for (task, _), effect in effects.items():
        groups.setdefault(task, []).append(effect.by_unit)
    # a seed that a backbone lacks is left out of the task: its mean would be of other runs
    means = {task: pd.concat(found, axis=1).mean(axis=1, skipna=False) for task, found in groups.items()}
    table = pd.DataFrame(means).dropna()
    if table.empty:
        return None
    one = next(iter(effects.values()))
    mixed = crossed_mean(table.to_numpy().T, confidence) if table.shape[1] >= FEWEST_SAMPLED else None
    return EffectOverTasks(one.contrasts, one.contexts, table, t_interval(table.mean(axis=1), confidence), mixed)
