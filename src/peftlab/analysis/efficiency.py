"""How much of the gain an arm keeps, for how many of the parameters.

With s a quality (higher is better; a perplexity counts by its logarithm, in nats), A_i, F_i, R_i arm, baseline and reference in
pair i of n, and N_A, N_F trainable parameters:

    gain kept g = mean of (s(A_i) - s(R_i)) / (s(F_i) - s(R_i))      efficiency ratio = g / (N_A / N_F)

The baseline has 1 by definition. The reference is what costs nothing: the arm that was not trained (``max_steps: 0``), else the
one that trains only the head.
"""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

import numpy as np
import pandas as pd

from peftlab.analysis.findings import Efficiency
from peftlab.analysis.intervals import t_interval
from peftlab.analysis.setting import Setting
from peftlab.analysis.words import is_exponential


def reference(setting: Setting, baseline: str | None) -> str | None:
    """The arm that stands for no gain; None where there is none, or no baseline to gain as much as."""
    if baseline not in setting.values.columns:
        return None
    arms = setting.runs[setting.runs["label"] != baseline].groupby("label", sort=False)[["steps", "adapted"]].max()
    for column in ("steps", "adapted"):
        free = arms.index[arms[column] == 0]
        if len(free):
            return str(free[0])
    return None


def efficiency(setting: Setting, label: str, baseline: str, against: str, metric: str, confidence: float) -> Efficiency | None:
    """Of one arm; None where the baseline gains nothing in some pair, or parameters are not known."""
    arm, full, start = (_quality(setting, name, metric) for name in (label, baseline, against))
    counted = setting.runs.groupby("label")["trainable"].max()
    share = float(counted[label]) / float(counted[baseline])
    known = np.isfinite(arm) & np.isfinite(full) & np.isfinite(start)
    gain = (full - start)[known]
    if not known.any() or (gain <= 0).any() or not np.isfinite(share) or share == 0:
        return None
    kept = t_interval((arm - start)[known] / gain, confidence, setting.folds)
    bounds = None if kept.low is None or kept.high is None else (kept.low, kept.high)
    return Efficiency(
        reference=against,
        kept=kept.mean,
        interval=bounds,
        saved_percent=100 * (1 - share),
        ratio=kept.mean / share,
        ratio_interval=None if bounds is None else (bounds[0] / share, bounds[1] / share),
    )


def _quality(setting: Setting, label: str, metric: str) -> np.ndarray:
    values: pd.Series = setting.values[label]  # pyright: ignore[reportAssignmentType]
    found = values.to_numpy(dtype=float)
    if is_exponential(metric):
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.log(found)
    return found if setting.higher_is_better else -found
