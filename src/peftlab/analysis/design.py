"""The design of a study: arm -> what was done to the model, an option each, so that arms can be laid out as cells of a table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from peftlab.analysis.reading import flatten
from peftlab.records.record import RunConfig

PARTS = ("adapter", "allocator", "quantizer")
UNSET = "null"  #: as an option without a value is written


def design(configs: Mapping[Any, RunConfig]) -> dict[Any, dict[str, str]]:
    """Every arm with the same keys: what only some components have becomes part of the component's own word.

    An option that all share is told without the component's name (``allocator.importance``), so that it is one factor. A word
    has what sets a component apart from others of its name, or all that is set where there is one of the name only.
    """
    own = {arm: _options(config) for arm, config in configs.items()}
    shared = set.intersection(*(set(found) for found in own.values())) if own else set()
    made: dict[Any, dict[str, str]] = {}
    for arm, found in own.items():
        extra: dict[str, list[str]] = defaultdict(list)
        for key, value in found.items():
            part, _, name = key.partition(".")
            if key not in shared and value != UNSET and _sets_apart(key, part, found, own):
                extra[part].append(f"{name} {value}")
        words = {key: value for key, value in found.items() if key in shared}
        made[arm] = words | {part: f"{words.get(part, '')} ({', '.join(told)})".strip() for part, told in extra.items()}
    return made


def _sets_apart(key: str, part: str, found: Mapping[str, str], own: Mapping[Any, Mapping[str, str]]) -> bool:
    """Whether components of this name differ in the option, or in nothing at all."""
    alike = [other for other in own.values() if other.get(part) == found.get(part)]
    others = {json.dumps({k: v for k, v in other.items() if k.startswith(f"{part}.")}, sort_keys=True) for other in alike}
    return len(others) == 1 or len({other.get(key) for other in alike}) > 1


def subfamilies(configs: Mapping[Any, RunConfig]) -> list[dict[Any, RunConfig]]:
    """Arms that share an option which not all have (the importance metric of those that allocate ranks), largest sets first.

    Among all arms such an option is part of its component's word; among these it is a factor.
    """
    own = {arm: set(_options(config)) for arm, config in configs.items()}
    keys = dict.fromkeys(key for config in configs.values() for key in _options(config))
    groups = dict.fromkeys(frozenset(arm for arm in own if key in own[arm]) for key in keys)
    kept = [group for group in groups if 2 <= len(group) < len(own)]
    return [{arm: configs[arm] for arm in configs if arm in group} for group in sorted(kept, key=len, reverse=True)]


def _options(config: RunConfig) -> dict[str, str]:
    """Values that tuning chose are no part of the treatment."""
    found = {"quantize": str(config.quantize)}
    for part in PARTS:
        spec = flatten(getattr(config, part) or {})
        found[part] = str(spec.pop("name", "none"))
        found |= {
            f"{part}.{key.removesuffix('.name')}": _text(value)
            for key, value in spec.items()
            if f"{part}.{key}" not in config.tuned
        }
    return found | {f"train.{key}": _text(value) for key, value in flatten(config.train).items() if key not in config.tuned}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else UNSET if value is None else json.dumps(value, default=str)
