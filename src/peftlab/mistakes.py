"""Wrong values in words: what pydantic says of a value, as the person says it who would have to mend it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peftlab.errors import close

SHOWN = 50  #: letters of a wrong value that are repeated
_KINDS = {
    "float": "a number", "int": "a whole number", "bool": "true or false", "string": "text", "list": "a list", "tuple": "a list",
    "dict": "a mapping of keys", "mapping": "a mapping of keys", "model": "a mapping of keys", "none": "null",
    "finite": "a finite number", "is": "null",
}  # fmt: skip
_BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda about: f"above {about['gt']:g}",
    "greater_than_equal": lambda about: f"{about['ge']:g} or more",
    "less_than": lambda about: f"below {about['lt']:g}",
    "less_than_equal": lambda about: f"{about['le']:g} or less",
    "too_short": lambda about: f"a {'mapping' if about['field_type'] == 'Dictionary' else 'list'} with something in it",
    "literal_error": lambda about: about["expected"].replace("'", ""),
}  # fmt: skip
#: how the parser's message begins -> what it means
_JSON = {
    "Expecting value": "a value is missing",
    "Expecting property name": "a key in double quotes is missing",
    "Expecting ',' delimiter": "a comma or a closing bracket is missing",
    "Expecting ':' delimiter": "a colon is missing",
    "Extra data": "something follows the end",
    "Unterminated string": "a quote is not closed",
}
_SWITCHES = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def of_value(errors: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """(what is wrong with one value, what to do) from all that pydantic says of it: a union's value fails at each alternative."""
    errors = [*errors]
    own = next((error for error in errors if error["type"] == "value_error"), None)
    value = errors[0]["input"]
    if own is not None:  # a sentence of our own, its remedy after a semicolon
        what, _, remedy = own["msg"].removeprefix("Value error, ").partition("; ")
        return what, remedy or "choose another value"
    if errors[0]["type"] == "missing":
        return "is missing", f"add `{errors[0]['loc'][-1]}:`"
    wanted = [*dict.fromkeys(filter(None, map(_wanted, errors)))]
    if len(wanted) > 1:  # left out is always allowed where null is
        wanted = [words for words in wanted if words != "null"]
    return f"must be {' or '.join(wanted)}, not {shown(value)}", _remedy(value, errors, wanted)


def kind(value: Any) -> str:
    """What a value read from JSON or a table is: ``a number``."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def of_json(error: ValueError | RecursionError) -> str:
    """Where JSON ends to be JSON, and what is missing there."""
    if not isinstance(error, json.JSONDecodeError):
        return "nested too deeply" if isinstance(error, RecursionError) else str(error)
    said = next((words for begin, words in _JSON.items() if error.msg.startswith(begin)), error.msg)
    return f"line {error.lineno}, column {error.colno}: {said}"


def shown(value: Any) -> str:
    """A value as it stands in the file, cut where it is long."""
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(shown, value)) + "]"
    elif value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    else:
        text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _wanted(error: Mapping[str, Any]) -> str:
    rule = str(error["type"])
    if rule in _BOUNDS:
        return _BOUNDS[rule](error["ctx"])
    return _KINDS.get(rule.partition("_")[0]) or str(error["msg"]).removeprefix("Input should be ").lower()


def _remedy(value: Any, errors: list[Mapping[str, Any]], wanted: list[str]) -> str:
    known = [word.strip("'") for error in errors if error["type"] == "literal_error" for word in _words(error)]
    limits = [about[key] for error in errors for about in [error.get("ctx", {})] for key in ("le", "lt") if key in about]
    if isinstance(value, str) and (found := _of_text(value, known, wanted)):
        return found
    if value is None:
        return "give it a value, or leave the key out where it has a default"
    if known:
        return "choose one of them" if len(known) > 1 or len(wanted) > 1 else f"write {known[0]}"
    if wanted == ["text"] and isinstance(value, int | float):
        return f'put it in quotes if it is text: "{shown(value)}"'
    if isinstance(value, list | tuple) and wanted != ["a mapping of keys"] and value:
        return "give one value"
    if 1 in limits:
        return "a share is meant: 5 % is 0.05"
    if "a list" in wanted:
        return f"put it in brackets: [{shown(value)}]" if isinstance(value, int | float) else "write [first, second]"
    if wanted == ["a mapping of keys"]:
        return "write {key: value}"
    bound = wanted[0].split(" ")[0] in ("above", "below", "at")
    return f"choose a value {wanted[0]}" if bound else f"write {wanted[0]}"


def _words(error: Mapping[str, Any]) -> list[str]:
    return error["ctx"]["expected"].replace(" or ", ", ").split(", ")


def _of_text(value: str, known: list[str], wanted: list[str]) -> str:
    """What to do about a text where something else is wanted; nothing where its being text tells nothing."""
    whole, numeric = "a whole number" in wanted, {"a number", "a whole number", "a finite number"} & {*wanted}
    number = _number(value)
    if number is not None and (numeric or f"{number:g}" in known):
        return f"write it as a number, without quotes: {number:g}"
    if known and (word := close(value, known)):
        return word
    if "true or false" in wanted and value.lower() in _SWITCHES:
        return f"write {_SWITCHES[value.lower()]}; in YAML 1.2 other words are text"
    if numeric and not known:
        return "write it in digits, e.g. 8" if whole else "write it as 0.001 or 1e-3"
    return ""


def _number(text: str) -> float | None:
    """``"2"``, ``6%``, ``0,001``."""
    plain = text.strip().replace(",", ".").removesuffix("%")
    try:
        return float(plain) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        return None
