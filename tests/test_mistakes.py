"""Wrong values in words: every kind of mistake is said, with what to do about it, and without a word of pydantic's."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from peftlab import mistakes
from peftlab.errors import close, nearest

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
COUNT = Annotated[int, Field(ge=1)]
SHARE = Annotated[float, Field(gt=0, lt=1)]


@pytest.mark.parametrize(
    ("kind", "value", "what", "remedy"),
    [
        (int, "8", "must be a whole number, not '8'", "write it as a number, without quotes: 8"),
        (int, "eight", "must be a whole number, not 'eight'", "write it in digits, e.g. 8"),
        (int, 1.5, "must be a whole number, not 1.5", "write a whole number"),
        (float, "6%", "must be a number, not '6%'", "without quotes: 0.06"),
        (float, "0,001", "must be a number, not '0,001'", "without quotes: 0.001"),
        (float, "1e–3", "must be a number, not '1e–3'", "write it as 0.001 or 1e-3"),
        (float, float("nan"), "must be a finite number, not nan", "write a finite number"),
        (COUNT, 0, "must be 1 or more, not 0", "write 1 or more"),
        (SHARE, 3.0, "must be below 1, not 3.0", "a share is meant: 5 % is 0.05"),
        (bool, "yes", "must be true or false, not 'yes'", "write true; in YAML 1.2 other words are text"),
        (bool, "off", "must be true or false, not 'off'", "write false"),
        (str, 2026, "must be text, not 2026", 'put it in quotes if it is text: "2026"'),
        (str, True, "must be text, not true", 'put it in quotes if it is text: "true"'),
        (str, None, "must be text, not null", "give it a value, or leave the key out where it has a default"),
        (list[int], 5, "must be a list, not 5", "put it in brackets: [5]"),
        (list[int], "a", "must be a list, not 'a'", "write [first, second]"),
        (dict[str, Any], [1], "must be a mapping of keys, not [1]", "write {key: value}"),
        (int, [1, 2], "must be a whole number, not [1, 2]", "give one value"),
        (Literal["cosine", "linear"], "cosin", "must be cosine or linear, not 'cosin'", "Did you mean 'cosine'?"),
        (Literal["cosine", "linear"], "step", "must be cosine or linear, not 'step'", "choose one of them"),
        (Literal["racing"], "sprint", "must be racing, not 'sprint'", "write racing"),
        (Literal[4, 8], "4", "must be 4 or 8, not '4'", "write it as a number, without quotes: 4"),
        (COUNT | Literal["auto"], 0, "must be 1 or more or auto, not 0", "choose one of them"),
        (
            Annotated[list[int], Field(min_length=1)],
            [],
            "must be a list with something in it, not []",
            "write a list with something in it",
        ),
        (int | None, "x", "must be a whole number, not 'x'", "write it in digits"),
    ],
)
def test_a_value_is_said_wrong(kind: Any, value: Any, what: str, remedy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind, config=STRICT).validate_python(value)
    said = mistakes.of_value(caught.value.errors())
    assert said[0] == what
    assert remedy in said[1]


def test_long_values_are_cut() -> None:
    text = mistakes.shown({"a": [True, None, "x" * 100]})
    assert text.startswith("{a: [true, null, 'xxx") and text.endswith(" ...")
    assert len(text) == mistakes.SHOWN + 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2", "line 1, column 6: a comma or a closing bracket is missing"),
        ("{", "line 1, column 2: a key in double quotes is missing"),
        ('{\n"a" 1}', "line 2, column 5: a colon is missing"),
        ("", "line 1, column 1: a value is missing"),
        ("1 2", "line 1, column 3: something follows the end"),
        ('"a', "line 1, column 1: a quote is not closed"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_none(text: str, said: str) -> None:
    with pytest.raises((ValueError, RecursionError)) as caught:
        json.loads(text)
    assert mistakes.of_json(caught.value) == said  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("lr", ["learning_rate", "epochs"], "Did you mean 'learning_rate'?"),
        ("Learning-Rate", ["learning_rate", "epochs"], "Did you mean 'learning_rate'?"),
        ("gradient-flow", ["gradient_flow"], "Did you mean 'gradient_flow'?"),
        ("RUN", ["run", "plan"], "Did you mean 'run'?"),
        ("optimizer", ["epochs", "warmup"], ""),
        ("successive-halving", ["grid", "halving"], "Did you mean 'halving'?"),
        ("tpe first, grid later", ["grid", "tpe"], ""),
        ("", ["epochs"], ""),
        ("x", ["xylophone_yard"], ""),
    ],
)
def test_the_nearest_name(word: str, known: list[str], found: str) -> None:
    assert close(word, known) == found
    assert nearest(word, known) == (found or f"Known: {', '.join(sorted(known))}.")
