"""One factor at a time: arms that differ in one option and in nothing else, paired over the same seeds."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftlab.analysis.reading import flatten
from peftlab.records.record import RunConfig

PARTS = ("adapter", "allocator", "quantizer", "train")
WHOLE = ("allocator", "quantizer")  #: compared as one, because an option of one says nothing of another
MOST_LEVELS = 30  #: of one factor


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Two arms that differ in one option."""

    factor: str
    arm: str
    level: str
    against: str
    reference: str


def options(config: RunConfig) -> dict[str, str]:
    """What was done to the model, an entry per option; values that were tuned for the arm are no part of the treatment.

    A component of another name is another treatment as a whole: its options are those of ``quantizer`` or ``allocator`` then.
    """
    found: dict[str, str] = {"quantize": str(config.quantize)}
    for part in PARTS:
        value = getattr(config, part)
        flat = flatten(value) if isinstance(value, Mapping) else {}
        name = flat.get("name")
        for key, option in flat.items():
            if (key if part == "train" else f"{part}.{key}") not in config.tuned:
                found[f"{part}.{key}" if part in ("adapter", "train") else f"{part}.{name}.{key}"] = _text(option)
        found[part] = _text(name)
    return found


def steps(arms: Mapping[str, Mapping[str, str]], baseline: str | None) -> list[Step]:
    """Every level of a factor against its reference: the baseline's level where it is one of them, else the first of the study.

    ``arms``: label -> :func:`options`, in the order of the study.
    """
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # (factor, all other options) -> level -> label
    for label, chosen in arms.items():
        for factor, rest, level in _factors(chosen):
            groups[factor, rest].setdefault(level, label)
    found = []
    for (factor, _), levels in groups.items():
        if not 2 <= len(levels) <= MOST_LEVELS:
            continue
        words = _words(factor, list(levels)) if factor in WHOLE else {level: level for level in levels}
        first = next((level for level, label in levels.items() if label == baseline), next(iter(levels)))
        found += [
            Step(factor, label, words[level], levels[first], words[first]) for level, label in levels.items() if level != first
        ]
    return sorted(found, key=lambda step: step.factor)


def _factors(chosen: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(factor, all else, level): every option of the adapter and of training, and the other components as wholes."""
    for part in WHOLE:
        own = {key: value for key, value in chosen.items() if key.split(".")[0] == part}
        yield part, _canonical({k: v for k, v in chosen.items() if k not in own}), _canonical(own)
    for key, value in chosen.items():
        if key.split(".")[0] not in (*WHOLE, "adapter") or key.startswith("adapter."):
            factor = key.removeprefix("adapter.").removeprefix("train.")
            yield factor, _canonical({k: v for k, v in chosen.items() if k != key}), value


def _words(part: str, levels: Sequence[str]) -> dict[str, str]:
    """Level -> name of the component, and what of its options sets it apart from the other levels."""
    known = {level: json.loads(level) for level in levels}
    shared = {k: v for k, v in known[levels[0]].items() if all(other.get(k) == v for other in known.values())}
    named = part not in shared
    words = {}
    for level, own in known.items():
        extra = [
            _said(k.rsplit(".", 1)[-1], v)
            for k, v in own.items()
            if k not in shared and k not in (part, f"{part}.{own[part]}.name") and v not in ("none", "no")
        ]
        words[level] = ", ".join([*([own[part]] if named or not extra else []), *extra])
    return words


def _said(key: str, value: str) -> str:
    """``double``, ``bits 4``, ``nf4``."""
    if value == "yes":
        return key
    return value if value[:1].isalpha() else f"{key} {value}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _canonical(value: Mapping[str, str]) -> str:
    return json.dumps(value, sort_keys=True)
