"""How many seeds the next study needs: from the records of one, or from a standard deviation that is known otherwise.

A study is planned for a difference that matters (the margin), never for the one that was seen: what was seen is one draw, and
power computed from it says nothing that its p value does not say (Hoenig & Heisey 2001).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict
from scipy.stats import chi2

from peftlab.analysis.comparison import margin_differences
from peftlab.analysis.findings import alpha_of
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.power import detectable_effect, seeds_needed
from peftlab.analysis.tested import family_of
from peftlab.errors import StudyError
from peftlab.study.schema import Margin

ASSURANCE = 0.8  #: probability that the cautious number of seeds gives at least the power asked for


class Needed(BaseModel):
    """Paired seeds for one question. None: more than 1,000."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int | None  #: if the standard deviation is what it seems
    cautious: int | None  #: by its upper confidence limit


class Planned(BaseModel):
    """One arm against the baseline on one task and backbone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = ""
    backbone: str = ""
    arm: str
    n: int  #: pairs that the standard deviations come from; 0: given
    sd: float  #: of the differences between arm and baseline
    sd_upper: float  #: upper confidence limit of it
    difference: float  #: that is to be found, in units of the metric
    allowed: float  #: by the margin, in units of the metric
    detect: Needed  #: a true difference of that size, two-sided
    non_inferiority: Needed  #: that the arm is within the margin, if in truth it equals the baseline
    detectable: dict[int, float]  #: seeds -> smallest true difference that is found


class Seeds(BaseModel):
    """The answer of `power`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    power: float
    alpha: float  #: of each test
    comparisons: int  #: that share the study's error rate
    rows: list[Planned]
    notes: list[str]


def upper_limit(sd: float, n: int, confidence: float = ASSURANCE) -> float:
    """One-sided upper limit of a normal standard deviation: sd sqrt((n - 1) / chi2(1 - confidence; n - 1)) (Browne 1995).

    A study planned by it has the power it was planned for with probability ``confidence``; planned by ``sd`` itself, in about
    half of all cases. n = 5: 1.56 sd.
    """
    return sd * math.sqrt((n - 1) / float(chi2.ppf(1 - confidence, n - 1))) if n > 1 else math.inf


def from_records(
    folder: str | Path, *, margin: Margin | None = None, difference: float | None = None, power: float = 0.8
) -> Seeds:
    """:func:`of_frame` for ``results/<study>``.

    Raises:
        RecordError: the folder cannot be read.
        StudyError: see there.
    """
    _check(power, difference)
    return of_frame(load_frame(folder), margin=margin, difference=difference, power=power)


def of_frame(frame: Frame, *, margin: Margin | None = None, difference: float | None = None, power: float = 0.8) -> Seeds:
    """Of every arm against the baseline, on every task and backbone.

    Args:
        frame: the records, and the study whose metric, baseline, margin and confidence count.
        margin: how much worse is acceptable; None: the declared one.
        difference: that is to be found, in units of the metric; None: as large as the margin.
        power: probability with which a true difference is to be found.

    Raises:
        StudyError: no baseline, no margin, or no arm with two pairs.
    """
    _check(power, difference)
    declared = frame.study.analysis
    baseline, used = declared.baseline, margin or declared.margin
    if baseline is None or used is None:
        raise StudyError("declares no baseline to compare with", where="analysis.baseline", remedy="name one")
    tables = {setting: _by_seed(frame, *setting) for setting in frame.settings}
    arms = [(setting, arm) for setting, table in tables.items() for arm in table.columns if arm != baseline]
    family = max(1, family_of(frame).comparisons)
    alpha = alpha_of(declared.confidence) / family
    rows, notes = [], []
    for (task, backbone), arm in arms:
        table = tables[task, backbone]
        both = table[[arm, baseline]].dropna() if baseline in table.columns else table.iloc[:0]
        if len(both) < 2:
            notes.append(f"{arm} on {task}, {backbone}: fewer than two pairs, which have no standard deviation")
            continue
        first, second = (np.asarray(both[name], dtype=np.float64) for name in (arm, baseline))
        allowed = used.absolute or float(used.relative or 0.0) * abs(float(second.mean()))
        spread = float(np.std(first - second, ddof=1))
        within = float(np.std(margin_differences(first, second, used, higher_is_better=_higher(frame)), ddof=1))
        planned = plan(spread, within, len(both), difference or allowed, allowed, power=power, alpha=alpha)
        rows.append(planned.model_copy(update={"task": task, "backbone": backbone, "arm": arm}))
    if not rows:
        raise StudyError("has no arm with two pairs", where=str(frame.folder), remedy="run two seeds or more, or give --sd")
    return Seeds(metric=frame.metric, power=power, alpha=alpha, comparisons=family, rows=rows, notes=notes)


def from_sd(sd: float, difference: float, *, power: float = 0.8, confidence: float = 0.95, comparisons: int = 1) -> Seeds:
    """Of one comparison whose paired standard deviation is known: from a pilot, or from what others report.

    Raises:
        StudyError: not positive.
    """
    _check(power, difference)
    if not (sd > 0 and math.isfinite(sd)):
        raise StudyError(f"{sd} is no standard deviation", where="--sd", remedy="of the differences between two arms over seeds")
    alpha = alpha_of(confidence) / comparisons
    row = plan(sd, sd, 0, difference, difference, power=power, alpha=alpha)
    return Seeds(metric="", power=power, alpha=alpha, comparisons=comparisons, rows=[row], notes=[])


def plan(sd: float, margin_sd: float, n: int, difference: float, allowed: float, *, power: float, alpha: float) -> Planned:
    """One comparison.

    Args:
        sd: of the paired differences; margin_sd: of the differences of the non-inferiority test.
        n: pairs that both come from; 0: they are known.
        difference: that is to be found.
        allowed: by the margin; so far inside it lies an arm that equals the baseline.
        alpha: of each test.
    """
    grows = upper_limit(1.0, n) if n else 1.0

    def needed(spread: float, true: float, *, two_sided: bool) -> Needed:
        def of(width: float) -> int | None:
            effect = true / width if width > 0 else math.inf
            return 2 if math.isinf(effect) else seeds_needed(effect, target=power, alpha=alpha, two_sided=two_sided)

        return Needed(seeds=of(spread), cautious=of(spread * grows))

    counts: list[int] = sorted({max(n, 3), 3, 5, 10, 15})
    return Planned(
        arm="",
        n=n,
        sd=sd,
        sd_upper=sd * grows,
        difference=difference,
        allowed=allowed,
        detect=needed(sd, difference, two_sided=True),
        non_inferiority=needed(margin_sd, allowed, two_sided=False),
        detectable={k: sd * detectable_effect(k, target=power, alpha=alpha) for k in counts},
    )


def _by_seed(frame: Frame, task: str, backbone: str) -> pd.DataFrame:
    """A row a seed: folds of one seed share most of their training data and are one draw together."""
    return pd.DataFrame(frame.values(task, backbone).groupby(level="seed").mean())


def _higher(frame: Frame) -> bool:
    known = frame.primary()["higher_is_better"].dropna()
    return bool(known.iloc[0]) if len(known) else True


def _check(power: float, difference: float | None) -> None:
    if not 0 < power < 1:
        raise StudyError(f"{power} is no probability", where="--power", remedy="for example 80%")
    if difference is not None and not (difference > 0 and math.isfinite(difference)):
        raise StudyError(f"{difference} is no difference", where="--difference", remedy="above 0, in units of the metric")
