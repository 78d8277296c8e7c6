"""Did the tuning runs promise what the evaluation runs keep?"""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtr

from peftlab.analysis.frame import Frame
from peftlab.analysis.tuned import Arm, arm_names, arm_of
from peftlab.analysis.words import listed, plural, show

LEVEL = 0.05  #: shared by the trials, because what is promised is the best of them
LEAST_RUNS = 3


def surprise(promised: float, trials: int, kept: Sequence[float]) -> float | None:
    """p of a tuning mean so far above that of n evaluation runs, had all runs come from one normal distribution.

    One-sided, by the prediction interval of Student's t: T = (promised - mean) / (s sqrt(1/trials + 1/n)), n - 1 degrees of
    freedom. None below three evaluation runs.
    """
    if len(kept) < LEAST_RUNS or trials < 1:
        return None
    values = np.asarray(kept, dtype=np.float64)
    gap, spread = promised - float(values.mean()), float(values.std(ddof=1)) * math.sqrt(1 / trials + 1 / values.size)
    if spread == 0:
        return 0.0 if gap > 0 else 1.0
    return float(stdtr(values.size - 1, -gap / spread))


def tuning_luck(frame: Frame) -> list[str]:
    """A sentence for every arm whose chosen values did far better in tuning than in its evaluation runs, on the same split.

    Far: p of :func:`surprise` at most 0.05 over the number of different trials that the arm was tuned over (Bonferroni). It holds
    for drawn values as for a grid, even where a draw follows from earlier results: given those, the p of a trial is still valid
    as long as the luck of its own runs is new, so the chance that any of N is below 0.05 / N is at most 0.05. A fold has its own
    choice and its own runs; N counts the trials of all folds.
    """
    tuning = frame.tuning or {}
    metric, split = str(tuning.get("metric", "")), str(tuning.get("on", ""))
    trials: dict[Arm, dict[Any, float]] = defaultdict(dict)  # by seed: a trial that repeats another has its runs
    tried: dict[Arm, list[Any]] = defaultdict(list)
    picked = {arm_of(entry): entry.get("values") for entry in _entries(tuning.get("chosen"))}
    for trial in _entries(tuning.get("trials")):
        value = trial.get("value")
        if trial.get("values") not in tried[arm_of(trial)]:
            tried[arm_of(trial)].append(trial.get("values"))
        if trial.get("values") == picked.get(arm_of(trial)) and isinstance(value, int | float) and math.isfinite(value):
            reached = trials[arm_of(trial)]
            reached[trial.get("seed", len(reached))] = float(value)
    settings = Counter(arm[0] for arm in {arm[:3] for arm in picked})
    together = Counter({arm[0]: 0 for arm in tried})
    for arm, values in tried.items():
        together[arm[0]] += len(values)
    rows = frame.rows[(frame.rows["metric"] == metric) & (frame.rows["split"] == split) & frame.rows["value"].notna()]
    found, names = [], arm_names(picked)
    for arm, by_seed in trials.items():
        label, values = arm[0], list(by_seed.values())
        if settings[label] > 1:  # their names in tuning.json are not those of the frame
            continue
        here = rows[(rows["label"] == label) & (rows["fold"] == arm[3])].to_dict("list")
        kept = np.asarray(here["value"], dtype=np.float64)
        sign = -1.0 if False in here["higher_is_better"] else 1.0  # a missing direction counts as higher
        promised = float(np.mean(values))
        p = surprise(sign * promised, len(values), [*(sign * kept)])
        if p is not None and p <= LEVEL / together[label]:
            options = picked[arm] or {}
            chosen = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in options.items())
            found.append(
                f"{names[arm]}: {chosen} was chosen for {show(promised, metric)} {metric} on {split} "
                f"({plural(len(values), 'tuning run')}), its {kept.size} evaluation runs reach "
                f"{show(float(kept.mean()), metric)} there. The choice may be luck: tune on more seeds before a difference "
                "counts against this arm."
            )
    return found


def tuned_on_others(frame: Frame) -> list[str]:
    """What is said of folds whose values another fold chose, as studies did before each fold was tuned by itself."""
    chosen: dict[str, set[int]] = defaultdict(set)
    for arm in map(arm_of, _entries((frame.tuning or {}).get("chosen"))):
        chosen[arm[0]].add(arm[3])
    run: dict[str, set[int]] = defaultdict(set)
    for label, fold in zip(frame.rows["label"], frame.rows["fold"], strict=True):
        run[str(label)].add(int(fold))
    arms = [label for label, folds in chosen.items() if run[label] - folds]
    if not arms:
        return []
    return [
        f"{listed(arms)}: values were chosen on one fold for the others too, by examples that these are tested on, which may "
        "flatter the arm. Run the study again: each fold is tuned by itself now."
    ]


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
