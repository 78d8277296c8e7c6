"""Which runs go to which nodes: ``--place WHAT=RESOURCE``.

WHAT is an arm's name or label, or a task's data (``mrpc``) or kind; RESOURCE is one that the nodes were started with
(``ray start --resources '{"big": 1}'``), or a node's own (``node:10.0.0.7``). It is an option and no part of a study: a study
says what is asked, and is the same on every cluster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from peftlab.errors import OptionError, nearest
from peftlab.records.record import RunConfig

#: of a resource that only says where: as many runs as like may have it at once
SHARE = 0.0001


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The rules of one execution, in order: (what, resource)."""

    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Place:
        """Raises OptionError for what is no ``WHAT=RESOURCE``."""
        rules = []
        for text in texts:
            what, found, resource = text.rpartition("=")  # a label may hold one: lora[rank=8]
            if not (found and what and resource):
                raise OptionError(f"{text!r} is no rule", where="--place", remedy="write WHAT=RESOURCE, e.g. mrpc=big")
            rules.append((what, resource))
        return cls(tuple(rules))

    def resources(self, config: RunConfig) -> dict[str, float]:
        """What a node needs to have for this run."""
        names = _names(config.arm, config.label, config.task)
        return {resource: SHARE for what, resource in self.rules if what in names}

    def check(self, configs: Iterable[RunConfig], known: Iterable[str]) -> None:
        """Raises OptionError for a rule that no run answers to, or that names what no node has."""
        names = {name for config in configs for name in _names(config.arm, config.label, config.task)}
        known = sorted(set(known))
        for what, resource in self.rules:
            if what not in names:
                raise OptionError(f"no run is named {what!r}", where="--place", remedy=nearest(what, names))
            if resource not in known:
                remedy = f"start a node with --resources '{{\"{resource}\": 1}}'; there are {', '.join(known) or 'none'}"
                raise OptionError(f"no node has the resource {resource!r}", where="--place", remedy=remedy)


def _names(arm: str, label: str, task: Mapping[str, Any]) -> set[str]:
    data = task.get("data", "")
    if isinstance(data, Mapping):
        data = next((data[key] for key in ("name", "id", "path") if data.get(key)), "")
    return {arm, label, str(task.get("kind", "")), str(data), PurePath(str(data)).name} - {""}
