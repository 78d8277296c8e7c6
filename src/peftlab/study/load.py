"""From YAML to a validated study. Data only: no code, no look-ups, no resolvers.

YAML 1.2 (so ``1e-4`` is a number and ``no`` is a word); duplicate keys, aliases and files over 1 MB are refused.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from peftlab.errors import StudyError, nearest
from peftlab.study.schema import Analysis, Arm, EarlyStopping, Margin, Racing, Require, Study, Train

MAX_BYTES = 1_000_000
MAX_DEPTH, MAX_EVENTS = 40, 50_000  #: nesting, and keys, values and brackets; a parser takes minutes for what needs more
_FRAMES: dict[str, type[BaseModel]] = {
    "": Study,
    "train": Train,
    "analysis": Analysis,
    "analysis.margin": Margin,
    "search": Racing,
    "search.margin": Margin,
    "require": Require,
    "train.early_stopping": EarlyStopping,
}


def parse_yaml(text: str, *, where: str = "") -> Any:
    """Plain data from YAML 1.2 text.

    Raises:
        StudyError: not YAML, duplicate keys, aliases, tags, too large.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise StudyError("the file is larger than 1 MB", where=where, remedy="a study is a short file; is this the right one?")
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = False
    depth = count = 0
    try:
        for event in yaml.parse(io.StringIO(text)):
            kind, count = type(event).__name__, count + 1
            depth += kind.endswith(("MappingStartEvent", "SequenceStartEvent"))
            depth -= kind.endswith(("MappingEndEvent", "SequenceEndEvent"))
            if depth > MAX_DEPTH or count > MAX_EVENTS:
                what = f"more than {MAX_DEPTH} levels" if depth > MAX_DEPTH else f"more than {MAX_EVENTS:,} values"
                raise StudyError(f"the file has {what}", where=where, remedy="a study is a short file; is this the right one?")
            if kind == "AliasEvent":
                raise StudyError("YAML aliases (*name) are not allowed", where=where, remedy="write the value out")
            if getattr(event, "ctag", None) is not None and event.ctag:  # !!binary, !!set, !python/...: data need none
                raise StudyError(f"YAML tags ({event.ctag}) are not allowed", where=where, remedy="write a plain value")
        return _plain(YAML(typ="safe", pure=True).load(io.StringIO(text)), where)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        what = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise StudyError(f"not valid YAML: {what}", where=place, remedy="mend the line named here") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise StudyError(f"not valid YAML: {error}", where=where, remedy="mend the file") from error


def _plain(value: Any, where: str) -> Any:
    """The value again, if it is made of what JSON has: mappings with words as keys, lists, text, numbers, true/false, null."""
    if isinstance(value, dict):
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None or None in value:
            raise StudyError(f"the key {odd!r} is not text", where=where, remedy="put it in quotes")
        return {_plain(key, where): _plain(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, where) for item in value]
    if isinstance(value, str):
        value.encode()  # a lone surrogate ("\ud800") is a UnicodeEncodeError, which is a ValueError
        return value
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise StudyError(f"{value!r} is neither text nor a finite number", where=where, remedy="put it in quotes if it is text")


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> Study:
    """Read, override and validate a study file.

    Args:
        path: the YAML file.
        overrides: ``key.path=value`` as given to ``--set``; values are YAML.
    """
    path = Path(path)
    if not path.is_file():
        remedy = "`peftlab init` writes a first one"
        if path.parent.is_dir():
            there = [p.name for p in path.parent.glob("*.yaml") if not p.name.startswith(".")]
            remedy = f"{nearest(path.name, there)} {remedy}" if there else remedy
        raise StudyError("there is no such study file", where=str(path), remedy=remedy)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 8).decode("utf-8-sig")  # what is larger is refused by its size
    except UnicodeDecodeError as error:
        if error.start >= MAX_BYTES - 4:
            raise StudyError("the file is larger than 1 MB", where=str(path), remedy="a study is a short file") from error
        raise StudyError("the file is not UTF-8 text", where=str(path), remedy="save it as UTF-8") from error
    except OSError as error:
        raise StudyError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the file's permissions") from error
    return validate_study(apply_overrides(parse_yaml(text, where=str(path)), overrides), where=str(path))


def apply_overrides(raw: Any, overrides: Iterable[str]) -> Any:
    """``train.epochs=1`` set in nested plain data; missing levels are made."""
    for item in overrides:
        if not isinstance(raw, dict):
            raise StudyError("a study is a mapping of keys", where=f"--set {item}", remedy="start with `study: my-name`")
        path, separator, value = item.partition("=")
        if not separator or not path:
            raise StudyError("an override is key.path=value", where=f"--set {item}", remedy="e.g. --set train.epochs=1")
        node = raw
        *parents, last = path.split(".")
        for key in parents:
            if isinstance(node, dict) and isinstance(node.get(key), str) and key in ("adapter", "allocator", "quantizer"):
                node[key] = {"name": node[key]}
            node = node.setdefault(key, {}) if isinstance(node, dict) else None
            if not isinstance(node, dict):
                raise StudyError(f"{key!r} holds no keys", where=f"--set {item}", remedy="name a key inside a mapping")
        node[last] = parse_yaml(value, where=f"--set {item}")
    return raw


def validate_study(raw: Any, *, where: str = "study") -> Study:
    """A :class:`Study` from plain data; every error names the key, its path and the nearest known key."""
    if not isinstance(raw, Mapping):
        raise StudyError("a study is a mapping of keys", where=where, remedy="start with `study: my-name`")
    for label, arm in _items(raw.get("arms")):
        _check_arm(label, arm, where)
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, raw, where) from error


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, Mapping) else ()


def _check_arm(label: str, arm: Any, where: str) -> None:
    """Before the frame is checked: a mistyped ``adaptor`` is a better message than a missing ``adapter``."""
    known = {*Train.model_fields, *Arm.model_fields}
    for key, _ in _items(arm):
        if key not in known:
            raise StudyError(f"unknown key {key!r}", where=f"{where}: arms.{label}.{key}", remedy=nearest(str(key), known))


def _location(loc: Sequence[str | int], raw: Any, missing: bool) -> list[str]:
    """The path of an error in the data; pydantic's also names the alternatives of a union that it tried."""
    path: list[str] = []
    node = raw
    for i, part in enumerate(loc):
        if (isinstance(node, Mapping) and part in node) or (
            isinstance(node, list) and isinstance(part, int) and part < len(node)
        ):
            node = node[part]  # pyright: ignore
        elif not (missing and i == len(loc) - 1):
            continue
        path.append(str(part))
    return path


def _explain(error: ValidationError, raw: Any, where: str) -> StudyError:
    first = error.errors()[0]
    location = _location(first["loc"], raw, first["type"] == "missing")
    path = ".".join(location)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        frame = _FRAMES.get(".".join(location[:-1]))
        remedy = nearest(location[-1], frame.model_fields) if frame else "remove it"
        return StudyError(f"unknown key {location[-1]!r}", where=f"{where}: {path}", remedy=remedy)
    if first["type"] == "missing":
        return StudyError(f"{path!r} is missing", where=where, remedy=f"add `{location[-1]}:`")
    shown = repr(first["input"])
    if len(shown) < 80 and not isinstance(first["input"], Mapping):
        message += f" (got {shown})"
    return StudyError(message, where=f"{where}: {path}" if path else where, remedy="see docs/study-file.md")


def dump(study: Study, overrides: Sequence[str] = ()) -> str:
    """The study as YAML with all defaults of the frame written out, as kept in the results folder."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 110
    if overrides:
        stream.write("# overridden on the command line: " + " ".join(overrides) + "\n")
    yaml.dump(study.model_dump(mode="json", exclude_none=True), stream)
    return stream.getvalue()
