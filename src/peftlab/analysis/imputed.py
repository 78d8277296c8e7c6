"""Where diverged runs stand, in words; and where seeds made no difference, which no test can tell from a fault."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from peftlab.analysis.setting import Setting
from peftlab.analysis.words import listed

WORST = "the worst value seen"


def stands_at(rows: pd.DataFrame) -> str:
    """Chance level for classes, the level of guessing where a task of another kind states one, else the worst value seen.

    ``rows``: of the declared metric, one per run; where some are imputed only those count.
    """
    rows = pd.DataFrame(rows[rows["imputed"]]) if any(rows["imputed"].tolist()) else rows
    known = rows["chance"].notna().tolist()
    classes = all(str(kind).endswith("classification") for kind in rows["task_kind"].tolist())
    guessing = "chance level" if classes else "the level of guessing"
    if not known or all(known):
        return guessing if known or classes else WORST
    return f"{guessing}, or at {WORST} where none is recorded" if any(known) else WORST


def unvarying(settings: Sequence[Setting], metric: str) -> list[str]:
    """Warnings about values that do not vary where they should."""
    found = []
    for s in settings:
        where = f" on {s.task}, {s.backbone}" if len(settings) > 1 else ""
        counted = s.values.loc[:, s.values.notna().sum() > 1]
        flat = [str(arm) for arm in counted.columns if np.nanmax(counted[arm]) == np.nanmin(counted[arm])]
        if not flat:
            continue
        if s.values.shape[1] > 1 and np.nanmax(s.values.to_numpy()) == np.nanmin(s.values.to_numpy()):
            found.append(
                f"The {metric} is the same in every run of every arm{where}: it tells nothing apart here. This shows neither "
                "that the arms are equal nor that the study measured what it meant to."
            )
        else:
            found.append(
                f"The seeds made no difference to {listed(flat)}{where}: every run has the same {metric}. A metric with few "
                "steps can do that, or a fault; it says nothing about how other seeds would scatter."
            )
    return found
