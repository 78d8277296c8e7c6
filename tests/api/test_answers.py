"""Answers are JSON whatever goes in, and tables print text as it is."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from peftlab.api.answers import Answer, lines, megabytes, number, pairs, plain, table

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.builds(Path, st.just("a/b")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
)


@given(VALUES)
def test_everything_becomes_strict_json(value: object) -> None:
    answer = Answer({"value": value})
    text = json.dumps(answer.as_dict(), allow_nan=False)
    assert plain(json.loads(text)) == json.loads(text)  # plain data stay as they are


def test_known_kinds() -> None:
    @dataclasses.dataclass
    class Inner:
        where: Path
        values: np.ndarray

    found = Answer({"a": Inner(Path("x"), np.array([1.0, math.nan])), "b": np.float32(0.5), "c": {1}}).as_dict()
    assert found == {"a": {"where": "x", "values": [1.0, None]}, "b": 0.5, "c": [1]}


def test_table_prints_markup_as_text_and_folds() -> None:
    console = Console(width=80, record=True, quiet=False)
    with console.capture() as shown:
        console.print(lines(table(["[b]name", "n"], [["[red]x" * 40, 12345]], right=["n"]), "", None, "[i]end"))
    text = shown.get()
    assert "[b]name" in text and "[red]x" in text and "[i]end" in text and "12,345" in text
    assert max(map(len, text.splitlines())) <= 80
    with console.capture() as shown:
        console.print(pairs({"train_s": 1.5, "names": ["a", 2]}))
    assert "train s" in shown.get() and "a, 2" in shown.get()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "yes"), (1234567, "1,234,567"), (0.123456, "0.1235"), (123456.7, "123,457"), (math.nan, "")],
)
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("count", "text"), [(None, ""), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (12e6, "12 MB")])
def test_sizes(count: float | None, text: str) -> None:
    assert megabytes(count) == text


@pytest.mark.parametrize(
    ("arguments", "where", "remedy"),
    [
        ({"sd": 0.1, "difference": 0.2, "power": "110%"}, "--power", "80%"),
        ({"sd": 0.1, "difference": 0.2, "power": "much"}, "--power", "0.8"),
        ({"sd": 0.1}, "--difference", "--difference 0.02"),
    ],
)
def test_power_names_the_option_that_is_wrong(arguments: dict[str, Any], where: str, remedy: str) -> None:
    from peftlab import api
    from peftlab.errors import StudyError

    with pytest.raises(StudyError) as caught:
        api.power(**arguments)
    assert caught.value.where == where and remedy in caught.value.remedy
