"""From a file, with what the command line overrides, to a validated study."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from peftlab import mistakes
from peftlab.errors import StudyError, close, nearest
from peftlab.study.plain_yaml import IS_IT, MAX_BYTES, parse_yaml
from peftlab.study.schema import Analysis, Arm, EarlyStopping, Margin, Racing, Require, Study, Train

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
#: what stands there, where something of another form does
_EXAMPLES = {
    "task": "{kind: image-classification, data: digits}",
    "seeds": "[0, 1, 2]",
    "arms": "{lora: {adapter: lora}}",
    "arms.*": "{adapter: lora}",
    "train": "{epochs: 5}",
    "train.early_stopping": "{patience: 3}",
    "matrix": "{weight_decay: [0.0, 0.1]}",
    "tune": "{learning_rate: [1e-3, 1e-2], seeds: [100]}",
    "search": "{method: racing}",
    "search.margin": "{relative: 0.03}",
    "require": "{trainable_percent: 1}",
    "trackers": "[tensorboard]",
    "probes": "{representation: {save: true}}",
    "analysis": "{metric: accuracy}",
    "analysis.margin": "{relative: 0.03}",
}
NEWLINE = b"\n"
_PARTS = ("adapter", "allocator", "quantizer")


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> Study:
    """Read, override and validate a study file.

    Args:
        path: the YAML file.
        overrides: ``key.path=value`` as given to ``--set``; values are YAML.
    """
    path = Path(path)
    if path.is_dir():
        inside = path / "study.yaml"
        remedy = f"results are no study; the one they are of is {inside}" if inside.is_file() else "name a .yaml file"
        raise StudyError("this is a folder, not a study file", where=str(path), remedy=remedy)
    if not path.is_file():
        remedy = "`peftlab init` writes a first one"
        if path.parent.is_dir():
            there = [p.name for p in path.parent.glob("*.yaml") if not p.name.startswith(".")]
            remedy = f"{close(path.name, there)} {remedy}".strip()
        raise StudyError("there is no such study file", where=str(path), remedy=remedy)
    overrides = [*overrides]
    raw = apply_overrides(parse_yaml(_text_of(path), where=str(path)), overrides)
    return validate_study(raw, where=_file(path, overrides))


def _file(path: str | Path, overrides: Sequence[str]) -> str:
    return f"{path} and --set" if overrides else str(path)


@contextlib.contextmanager
def of_file(path: str | Path, overrides: Sequence[str] = ()) -> Iterator[None]:
    """A mistake that is found after the study was read, and that names a key of it, gets the file in which that key stands."""
    try:
        yield
    except StudyError as error:
        if re.match(r"\w*", error.where)[0] in Study.model_fields:  # pyright: ignore[reportOptionalSubscript]
            error.where = f"{_file(path, overrides)}: {error.where}"
        raise


def _text_of(path: Path) -> str:
    content = b""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 8)  # what is larger is refused by its size
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start >= MAX_BYTES - 4:
            raise StudyError("the file is larger than 1 MB", where=str(path), remedy=IS_IT) from error
        where = str(path) if b"\0" in content else f"{path}:{content.count(NEWLINE, 0, error.start) + 1}"
        raise StudyError("the file is not UTF-8 text", where=where, remedy="save it as UTF-8, if it is a study") from error
    except OSError as error:
        raise StudyError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the file's permissions") from error


def apply_overrides(raw: Any, overrides: Iterable[str]) -> Any:
    """``train.epochs=1`` set in nested plain data; missing levels are made."""
    for item in overrides:
        where = f"--set {item}"
        if not isinstance(raw, dict):
            raise StudyError(_no_mapping(raw), where=where, remedy="start the file with `study: my-name`")
        path, value = _parted(item)
        keys = path.split(".")
        if value is None or not all(key and key == key.strip() for key in keys):
            remedy = "e.g. --set train.epochs=1, with no space around = and lists in quotes: --set 'seeds=[0, 1]'"
            raise StudyError("an override is key.path=value", where=where, remedy=remedy)
        _check_arm_named(raw, keys, where)
        node = raw
        *parents, last = keys
        for depth, key in enumerate(parents):
            if isinstance(node.get(key), str) and key in _PARTS:
                node[key] = {"name": node[key]}
            below = node.setdefault(key, {})
            if not isinstance(below, dict):
                place = ".".join(keys[: depth + 1])
                remedy = f"set the whole of it: --set '{place}=...'"
                raise StudyError(f"{place} holds no keys but {mistakes.shown(below)}", where=where, remedy=remedy)
            node = below
        node[last] = parse_yaml(value, where=where)
    return raw


def _parted(item: str) -> tuple[str, str | None]:
    """``a.b=1`` at its first ``=`` outside brackets: a label has its own, as ``lora[rank=8]``."""
    depth = 0
    for place, letter in enumerate(item):
        depth += (letter == "[") - (letter == "]")
        if letter == "=" and depth < 1:
            return item[:place], item[place + 1 :]
    return item, None


def _check_arm_named(raw: dict[str, Any], keys: list[str], where: str) -> None:
    """An arm is made by giving it an adapter; any other key of an unknown one is a typing mistake."""
    arms = raw.get("arms")
    if keys[0] != "arms" or len(keys) < 3 or not isinstance(arms, dict) or keys[1] in arms or keys[2:] == ["adapter"]:
        return
    name = keys[1].partition("[")[0]
    one = "the values of a grid are set together: " if name in arms else ""
    remedy = f"{one}arms.{name}.{'.'.join(keys[2:])}=..." if one else nearest(keys[1], map(str, arms))
    raise StudyError(f"the study has no arm {keys[1]!r}", where=where, remedy=remedy)


def _no_mapping(raw: Any) -> str:
    found = {type(None): "nothing", list: "a list", str: "only text"}.get(type(raw), "a single value")
    return f"a study is a mapping of keys, and this is {found}"


def validate_study(raw: Any, *, where: str = "study") -> Study:
    """A :class:`Study` from plain data; every error names the key, its path and the nearest known key."""
    if not isinstance(raw, Mapping):
        raise StudyError(_no_mapping(raw), where=where, remedy="start with `study: my-name`; `peftlab init` writes a first one")
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
            parts = f"options of a component stand inside it, as {{adapter: {{name: lora, {key}: ...}}}}"
            raise StudyError(f"unknown key {key!r}", where=f"{where}: arms.{label}.{key}", remedy=close(str(key), known) or parts)


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
    """One mistake of those that were found: a key that is not known is why another is missing, so it comes first."""
    errors = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    first = errors[0]
    location = _location(first["loc"], raw, first["type"] == "missing")
    path = ".".join(location)
    if first["type"] == "extra_forbidden":
        frame = _FRAMES.get(".".join(location[:-1]))
        remedy = nearest(location[-1], frame.model_fields) if frame else "remove it"
        return StudyError(f"unknown key {location[-1]!r}", where=f"{where}: {path}", remedy=remedy)
    if first["type"] == "missing":
        return StudyError(f"{path!r} is missing", where=where, remedy=f"add `{location[-1]}:`")
    what, remedy = mistakes.of_value(found for found in errors if _location(found["loc"], raw, missing=False) == location)
    example = _EXAMPLES.get(path) or (_EXAMPLES["arms.*"] if location[:1] == ["arms"] and len(location) == 2 else None)
    if example and what.startswith("must be a"):
        remedy = f"write e.g. {example}"
    return StudyError(what, where=f"{where}: {path}" if path else where, remedy=remedy)


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
