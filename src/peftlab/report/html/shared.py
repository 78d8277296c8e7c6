"""What many runs have in common, kept once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Pool:
    """Equal values kept once: :meth:`place` gives the index of a value."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        key = f"={value}" if isinstance(value, str) else json.dumps(value, sort_keys=True)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def grouped_facts(facts: Mapping[Path, Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[Path, list[Any]]]:
    """Groups of runs that say the same kind of things, and for each run its group and what it alone says.

    A group holds ``names``, and in ``same`` the value that all its runs have, or None where each has its own: a run is
    ``[place of its group, own values in the order of the names]``. Most of what a run says it shares with all of its arm.
    """
    members: dict[tuple[str, ...], list[Path]] = {}
    for run, told in facts.items():
        members.setdefault(tuple(told), []).append(run)
    groups, found = [], {}
    for place, (names, runs) in enumerate(members.items()):
        first = facts[runs[0]]
        same = [first[name] if all(_equal(facts[run][name], first[name]) for run in runs) else None for name in names]
        groups.append({"names": list(names), "same": same})
        own = [name for name, value in zip(names, same, strict=True) if value is None]
        found |= {run: [place, *(facts[run][name] for name in own)] for run in runs}
    return groups, found


def told_facts(groups: Sequence[Mapping[str, Any]], facts: Sequence[Any]) -> dict[str, Any]:
    """Name -> value of one run of :func:`grouped_facts`."""
    group, own = groups[facts[0]], iter(facts[1:])
    return {name: next(own) if same is None else same for name, same in zip(group["names"], group["same"], strict=True)}


def _equal(one: Any, other: Any) -> bool:
    """Also in kind: True is no 1."""
    return type(one) is type(other) and one == other
