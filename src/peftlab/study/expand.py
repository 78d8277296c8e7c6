"""Arms, matrix and seeds, multiplied out into single runs. Torch-free; nothing here knows a component."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftlab import mistakes
from peftlab.errors import StudyError, nearest
from peftlab.study.schema import NAME, Study, Train

PARTS = ("adapter", "allocator", "quantizer")
MOST_ARMS = 10_000  #: more are a mistake in a grid; planning them takes hours


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm x task x backbone: what is repeated over seeds.

    ``label`` is the arm as a person reads it (``lora[rank=8]``), ``slug`` its folder name, ``factors`` the grid values
    that set it apart from its siblings.
    """

    arm: str
    label: str
    slug: str
    factors: Mapping[str, Any]
    backbone: str
    task: Mapping[str, Any]
    adapter: Mapping[str, Any]
    allocator: Mapping[str, Any] | None
    quantizer: Mapping[str, Any]
    quantize: str
    train: Train


def cells(study: Study) -> list[Cell]:
    """All cells of a study, in the order of the file.

    Raises:
        StudyError: a value out of range in a grid, two arms with one label, an unknown matrix key.
    """
    found: list[Cell] = []
    for name in study.arms:
        found += _arm_cells(study, name)
        if len(found) > MOST_ARMS:
            raise _too_many(f"arms.{name}", len(found))
    seen: set[tuple[str, str, str]] = set()
    for cell in found:
        key = (cell.label, cell.backbone, str(sorted(cell.task.items(), key=str)))
        if key in seen:
            raise StudyError(f"two arms are both {cell.label!r}", where=f"arms.{cell.arm}", remedy="remove the repeated value")
        seen.add(key)
    labels: dict[str, str] = {}
    for cell in found:
        if labels.setdefault(cell.slug, cell.label) != cell.label:
            raise StudyError(
                f"{labels[cell.slug]!r} and {cell.label!r} would have the same folder, {cell.slug!r}",
                where=f"arms.{cell.arm}",
                remedy="rename an arm",
            )
    return found


def _too_many(where: str, number: int) -> StudyError:
    what = f"the grids make {number:,} arms, and {MOST_ARMS:,} are the most"
    return StudyError(what, where=where, remedy="list fewer values; `tune` searches large spaces without an arm for each value")


def select_cells(found: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells whose arm or label is named; all where nothing is named."""
    for name in only:
        if not any(name in (cell.arm, cell.label, cell.slug) for cell in found):
            known = {cell.arm for cell in found} | {cell.label for cell in found}
            raise StudyError(f"the study has no arm {name!r}", where="--only", remedy=nearest(name, known))
    return [cell for cell in found if not only or {cell.arm, cell.label, cell.slug} & set(only)]


def _arm_cells(study: Study, name: str) -> Iterator[Cell]:
    arm = study.arms[name]
    crossed = {**(arm.__pydantic_extra__ or {})}
    raw: dict[str, Any] = {part: getattr(arm, part) for part in (*PARTS, "quantize")}
    matrix = {key: values for key, values in study.matrix.items() if key not in ("backbone", "task")}
    backbones, tasks = _matrix_backbones(study), _matrix_tasks(study)
    known = {*Train.model_fields, *raw, "backbone", "task"}
    for key, values in matrix.items():
        if key not in known:
            raise StudyError(f"unknown key {key!r}", where=f"matrix.{key}", remedy=nearest(key, known))
        if key in arm.model_fields_set or key in (arm.__pydantic_extra__ or {}):
            raise StudyError(
                f"the arm sets {key!r}, and so does the matrix", where=f"arms.{name}.{key}", remedy="leave it to one of the two"
            )
        if not values:
            raise StudyError("an empty list has no values to expand", where=f"matrix.{key}", remedy="give a value")
        (raw if key in raw else crossed)[key] = values
    for backbone, task in itertools.product(backbones, tasks):
        for factors, values in _grid({**raw, **crossed}, skip={"early_stopping"}, where=f"arms.{name}"):
            train = {**study.train.model_dump(), **{k: v for k, v in values.items() if k not in raw}}
            label = name + (f"[{','.join(f'{k}={_show(v)}' for k, v in factors.items())}]" if factors else "")
            yield Cell(
                arm=name,
                label=label,
                slug=_slug(label),
                factors=factors,
                backbone=backbone,
                task=task,
                adapter=_spec(values["adapter"]),
                allocator=_spec(values["allocator"]) if values["allocator"] is not None else None,
                quantizer=_spec(values["quantizer"]),
                quantize=values["quantize"],
                train=checked_train(train, where=f"arms.{name}"),
            )


def _matrix_backbones(study: Study) -> list[str]:
    values = study.matrix.get("backbone", [study.backbone])
    if not values or not all(isinstance(value, str) for value in values):
        raise StudyError("a list of backbone names is needed", where="matrix.backbone", remedy="e.g. [bundled:vit-nano]")
    return values


def _matrix_tasks(study: Study) -> list[dict[str, Any]]:
    values = study.matrix.get("task", [study.task])
    if not values or not all(isinstance(value, dict) for value in values):
        raise StudyError("a list of tasks is needed, each a mapping", where="matrix.task", remedy="e.g. [{kind: ..., data: ...}]")
    return values


def checked_train(raw: dict[str, Any], where: str) -> Train:
    """``train`` with an arm's or the tuning's values in it.

    Raises:
        StudyError: a value out of range.
    """
    from pydantic import ValidationError

    try:
        return Train.model_validate(raw)
    except ValidationError as error:
        errors = error.errors()
        place = [str(part) for part in errors[0]["loc"]]  # but for the alternatives of a union that were tried
        place = place if place[:1] == ["early_stopping"] else place[:1]
        what, remedy = mistakes.of_value(found for found in errors if [*map(str, found["loc"])][: len(place)] == place)
        raise StudyError(what, where=".".join([where, *place]), remedy=remedy) from error


def _spec(value: Any) -> dict[str, Any]:
    return {"name": value} if isinstance(value, str) else dict(value)


def _grid(raw: Mapping[str, Any], skip: set[str], where: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every combination of the lists in ``raw``: (factors that vary, values). A list in a list is one value."""
    axes: list[tuple[tuple[str, ...], list[Any]]] = []
    _collect(raw, (where,), axes, skip)
    if (number := math.prod(len(values) for _, values in axes)) > MOST_ARMS:
        raise _too_many(where, number)
    axes = [(path[1:], values) for path, values in axes]
    names = _short_names([path for path, _ in axes])
    for choice in itertools.product(*(values for _, values in axes)):
        values = _copy(raw)
        for (path, _), value in zip(axes, choice, strict=True):
            node = values
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = value
        factors = {n: _factor(v) for n, v, (_, options) in zip(names, choice, axes, strict=True) if len(options) > 1}
        yield factors, values


def _collect(node: Mapping[str, Any], path: tuple[str, ...], axes: list, skip: set[str]) -> None:
    for key, value in node.items():
        if key in skip:
            continue
        if isinstance(value, list):
            if not value:
                raise StudyError("an empty list has no values to expand", where=".".join((*path, key)), remedy="give a value")
            axes.append(((*path, key), value))
        elif isinstance(value, Mapping):
            _collect(value, (*path, key), axes, skip)


def _copy(node: Any) -> Any:
    return {k: _copy(v) for k, v in node.items()} if isinstance(node, Mapping) else node


def _short_names(paths: list[tuple[str, ...]]) -> list[str]:
    last = [path[-1] for path in paths]
    return [name if last.count(name) == 1 else ".".join(path) for name, path in zip(last, paths, strict=True)]


def _factor(value: Any) -> Any:
    return value.get("name", _show(value)) if isinstance(value, Mapping) else value


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "+".join(_show(v) for v in value)
    if isinstance(value, float):
        short = f"{value:g}"
        digits = short if float(short) == value else repr(value)  # six digits, unless that would make two values look alike
        return digits.replace("e+", "e")
    return str(value)


def _slug(label: str) -> str:
    slug = label.lower().replace("[", ".").replace("]", "").replace("=", "-").replace(",", ".").replace("+", "-")
    slug = "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in slug)
    if not NAME.fullmatch(slug):
        raise StudyError(f"the arm {label!r} makes a folder name that is too long", where="arms", remedy="shorten the arm's name")
    return slug
