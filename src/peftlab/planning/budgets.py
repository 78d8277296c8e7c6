"""Budgets that are another arm's: ``match lora[rank=8]`` becomes the trainable parameters of that arm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.allocators._budget import MATCH
from peftlab.errors import OptionError, nearest
from peftlab.study.expand import Cell
from peftlab.tasks.contract import TaskInfo
from peftlab.training.assemble import Ingredients

Tuned = Mapping[str, Sequence[Any]]


def resolve_budgets(wanted: Sequence[Cell], known: Sequence[Cell], tuned: Mapping[int, Tuned] | None = None) -> list[Cell]:
    """The wanted cells, each budget ``match LABEL`` replaced by ``{parameters: N}``.

    N counts what that arm trains outside the head (which trains in every arm), on the same backbone and task. ``LABEL`` is the
    label of a cell, or the name of an arm that has only one. ``tuned``: id of a cell -> options of its adapter that are tuned,
    with values that they may come to.

    Raises:
        OptionError: no such arm (names the nearest), an arm of several cells, arms that match one another in a circle, an arm
            whose count the tuning decides.
    """
    return [_resolved(cell, known, (), tuned or {}) for cell in wanted]


def _resolved(cell: Cell, known: Sequence[Cell], path: tuple[str, ...], tuned: Mapping[int, Tuned]) -> Cell:
    budget = (cell.allocator or {}).get("budget")
    found = MATCH.fullmatch(budget.strip()) if isinstance(budget, str) else None
    if cell.allocator is None or found is None:
        return cell
    where = f"arms.{cell.arm}.allocator.budget"
    if cell.label in path:
        circle = " -> ".join((*path, cell.label))
        raise OptionError(f"the budgets match one another in a circle: {circle}", where=where, remedy="give one of them a number")
    matched = _find(found[1].strip(), cell, known, where)
    other = _resolved(matched, known, (*path, cell.label), tuned)
    number = _parameters(other, where)
    for option, values in tuned.get(id(matched), {}).items():
        changed = (dataclasses.replace(other, adapter={**other.adapter, option: value}) for value in values)
        if any(_parameters(variant, where) != number for variant in changed):
            what = f"the parameters of {other.label!r} are not known before its {option} is tuned"
            raise OptionError(what, where=where, remedy="give the budget as a number, or do not tune that option")
    return dataclasses.replace(cell, allocator={**cell.allocator, "budget": {"parameters": number}})


def _find(label: str, cell: Cell, known: Sequence[Cell], where: str) -> Cell:
    """The cell of this label on the same backbone and task."""
    beside = [c for c in known if c.backbone == cell.backbone and c.task == cell.task]
    found = [c for c in beside if c.label == label] or [c for c in beside if c.arm == label]
    if not found:
        raise OptionError(f"no arm {label!r} to match", where=where, remedy=nearest(label, {c.label for c in beside}))
    if len(found) > 1:
        labels = ", ".join(c.label for c in found)
        raise OptionError(f"the arm {label!r} stands for several: {labels}", where=where, remedy="name one of them")
    return found[0]


def _parameters(cell: Cell, where: str) -> int:
    """Trainable parameters outside the head."""
    parts = Ingredients.of_cell(cell)
    info: TaskInfo = parts.task.info()
    meta = parts.load_backbone(info.outputs, seed=0, device="meta")
    sites = parts.adapter.sites(meta)
    number = parts.adapter.count(meta, sites, parts.ranks(meta, sites))
    if number < 1:
        raise OptionError(f"{cell.label!r} trains nothing outside the head", where=where, remedy="match another arm")
    return number
