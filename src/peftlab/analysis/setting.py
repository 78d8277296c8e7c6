"""What statements are made from: all arms on one task and backbone, and one arm against the baseline there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    #: of a race: values by seed in the order in which seeds were run, for tests that hold at any number of them
    sequence: pd.DataFrame | None = None
    resolution: float = 0.0  #: half a step of the metric
    heat: Mapping[str, Any] | None = None  #: the race, as recorded


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
