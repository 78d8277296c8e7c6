"""What statements are made from: all arms on one task and backbone, and one arm against the baseline there."""

from __future__ import annotations

import dataclasses

import pandas as pd

from peftlab.analysis.comparison import Difference, OneSided


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All arms on one task and backbone."""

    task: str
    backbone: str
    values: pd.DataFrame  #: [(seed, fold), arm]
    runs: pd.DataFrame  #: a row per run, primary metric
    chance: float | None
    higher_is_better: bool
    folds: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One arm against the baseline in one setting, before adjustment."""

    setting: Setting
    arm: str
    baseline: str
    difference: Difference
    margin: OneSided
    above_chance: OneSided | None
    p_equivalence: float | None
