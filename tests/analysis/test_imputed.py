"""Where the report says that diverged runs stand."""

from __future__ import annotations

import pandas as pd
import pytest

from peftlab.analysis.imputed import WORST, stands_at

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
