"""Where the report says that diverged runs stand."""

from __future__ import annotations

import pandas as pd
import pytest

from peftlab.analysis.imputed import WORST, stands_at, unvarying
from peftlab.analysis.setting import Setting

IMAGES, ANSWERS = "image-classification", "question-answering"


def rows(*runs: tuple[str, float | None, bool]) -> pd.DataFrame:
    """(kind of the task, recorded chance, whether the run diverged)."""
    return pd.DataFrame(list(runs), columns=pd.Index(["task_kind", "chance", "imputed"]))


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([(IMAGES, 0.1, True), (IMAGES, 0.5, True)], "chance level"),
        ([(ANSWERS, 0.1, True)], "the level of guessing"),
        ([(IMAGES, 0.1, True), (ANSWERS, 0.1, True)], "the level of guessing"),
        ([(ANSWERS, None, True)], WORST),
        ([(IMAGES, None, True)], WORST),
        ([(IMAGES, 0.1, True), (IMAGES, None, True)], f"chance level, or at {WORST} where none is recorded"),
        ([(IMAGES, 0.1, True), (ANSWERS, None, False)], "chance level"),  # where some diverged only those count
        ([(IMAGES, 0.1, False)], "chance level"),  # none did: where one would stand
        ([(ANSWERS, None, False)], WORST),
        ([], "chance level"),
    ],
)
def test_where_a_diverged_run_stands(runs: list[tuple[str, float | None, bool]], words: str) -> None:
    assert stands_at(rows(*runs)) == words


def table(*columns: list[float], task: str = "t") -> Setting:
    values = pd.DataFrame({f"a{number}": column for number, column in enumerate(columns)})
    return Setting(task=task, backbone="b", values=values, runs=pd.DataFrame(), chance=None, higher_is_better=True, folds=1)


def test_values_that_do_not_vary_where_they_should_are_warned_of() -> None:
    nan = float("nan")
    assert unvarying([table([0.1, 0.2], [0.3, 0.4])], "accuracy") == []
    assert unvarying([table([0.5, nan], [0.3, 0.4])], "accuracy") == [], "one value alone cannot vary"
    (same,) = unvarying([table([0.5, 0.5], [0.5, 0.5])], "accuracy")
    assert same.startswith("The accuracy is the same in every run of every arm: it tells nothing apart")
    (one,) = unvarying([table([0.5, 0.5, nan], [0.3, 0.4, 0.5])], "accuracy")
    assert one.startswith("The seeds made no difference to ") and "a0" in one and "a1" not in one
    assert "width" not in one, "where arms are raced their intervals have one"
    (there,) = unvarying([table([0.1, 0.2]), table([0.5, 0.5], task="u")], "accuracy")
    assert " on u, b: every run has the same accuracy" in there
