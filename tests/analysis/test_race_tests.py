"""Which tests of a race are made, beside the differences and intervals of `test_anytime.py`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from peftlab.analysis.race_tests import compare
from peftlab.analysis.setting import Setting
from peftlab.study.schema import Analysis, Margin


@pytest.mark.parametrize(
    ("margin", "higher", "chance", "above"),
    [
        (Margin(relative=0.05), True, 0.1, True),
        (Margin(absolute=0.05), True, 0.1, False),
        (Margin(relative=0.05), False, 0.1, False),
        (Margin(relative=0.05), True, None, False),
        (Margin(relative=0.05), True, 0.0, False),
    ],
)
def test_above_chance_is_asked_of_a_relative_margin_where_there_is_a_chance(
    margin: Margin, higher: bool, chance: float | None, above: bool
) -> None:
    values = pd.DataFrame(np.random.default_rng(0).normal(0.7, 0.02, (6, 2)), columns=pd.Index(["base", "arm"]))
    setting = Setting(
        task="t",
        backbone="b",
        values=values,
        runs=pd.DataFrame(),
        chance=chance,
        higher_is_better=higher,
        folds=1,
        sequence=values,
    )
    found = compare(setting, "arm", Analysis(baseline="base", margin=margin), margin)
    assert (found.above_chance is not None) == above
