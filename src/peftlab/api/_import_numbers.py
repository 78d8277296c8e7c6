"""A table of numbers measured elsewhere: one finished record per row."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftlab import mistakes
from peftlab.analysis.words import is_share
from peftlab.api._outside import Arm, Place, check_free, find_place, write_record
from peftlab.errors import DataError, nearest
from peftlab.records.manifest import file_hash
from peftlab.records.record import RunConfig, RunResults

FLAG = "outside results: not measured here"
MAX_BYTES = 10_000_000
_ABOUT = ("seed", "backbone", "trainable", "peak_memory_mb", "train_s")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    number: int  #: line of the file, or place in the list
    given: Mapping[str, Any]
    where: str


def read_numbers(path: Path, arm: Arm) -> list[tuple[RunConfig, RunResults]]:
    """Check every row, then write every record: a file with one bad row leaves nothing behind.

    Raises:
        DataError: unknown column, missing or bad value, a seed that is not of the study or comes twice; names the row.
    """
    rows = [*_rows(path)]
    if not rows:
        raise DataError("there is no row", where=str(path), remedy="a row per seed, under a line of column names")
    digest = file_hash(path)
    made: list[tuple[RunConfig, RunResults, _Row]] = []
    seen: dict[tuple[str, int], int] = {}
    places: dict[str | None, Place] = {}
    for row in rows:
        backbone = str(row.given["backbone"]) if row.given.get("backbone") not in (None, "") else None
        place = places.setdefault(backbone, find_place(arm, backbone)) if backbone not in places else places[backbone]
        config, outcome = _record(row, arm, place, {"name": "outside results", "source": path.name, "sha256": digest})
        key = (config.backbone, config.seed)
        if key in seen:
            raise DataError(
                f"seed {config.seed} comes twice (also in row {seen[key]})", where=row.where, remedy="one row per seed"
            )
        seen[key] = row.number
        check_free(config, arm.results)
        made.append((config, outcome, row))
    for config, outcome, row in made:
        about = {"source": path.name, "sha256": digest, "row": row.number, "given": dict(row.given)}
        write_record(config, outcome, arm.results, lambda run, about=about: run.write_json("imported.json", about))
    return [(config, outcome) for config, outcome, _ in made]


def _rows(path: Path) -> Iterator[_Row]:
    if path.stat().st_size > MAX_BYTES:
        raise DataError("the file is larger than 10 MB", where=str(path), remedy="a row per seed is enough")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the file") from error
    except UnicodeDecodeError as error:
        what = f"byte {error.object[error.start]:#04x} at {error.start:,} is not UTF-8"
        raise DataError(what, where=str(path), remedy="save it as UTF-8") from error
    if path.suffix.lower() == ".json":
        yield from _json_rows(path, text)
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise DataError("a column name comes twice", where=str(path), remedy="rename one")
        for given in reader:
            where = f"{path}:{reader.line_num}"
            if None in given or None in given.values():
                raise DataError("the row has more or fewer cells than the heading", where=where, remedy="mend the row")
            yield _Row(number=reader.line_num, given=given, where=where)
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", where=f"{path}:{reader.line_num}", remedy="mend the row") from error


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {mistakes.of_json(error)}", where=str(path), remedy="mend the file") from error
    if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
        raise DataError("not a list of rows", where=str(path), remedy='write [{"seed": 0, "accuracy": 0.93}, ...]')
    for number, given in enumerate(raw, start=1):
        yield _Row(number=number, given=given, where=f"{path}: row {number}")


def _record(row: _Row, arm: Arm, place: Place, source: Mapping[str, Any]) -> tuple[RunConfig, RunResults]:
    known = {*_ABOUT, *place.higher_is_better}
    for column in row.given:
        if column not in known:
            remedy = f"{nearest(column, known)} Metrics of the study: {', '.join(sorted(place.higher_is_better))}."
            raise DataError(f"unknown column {column!r}", where=row.where, remedy=remedy)
    seed = _seed(row, arm)
    metrics = {name: _metric(row, name) for name in place.higher_is_better if row.given.get(name) not in (None, "")}
    declared = arm.study.analysis.metric
    if declared not in metrics:
        raise DataError(f"{declared!r} is missing, which the study is about", where=row.where, remedy=f"add a column {declared}")
    trainable = _number(row, "trainable")
    if trainable is not None and not (trainable >= 0 and trainable.is_integer()):
        raise DataError(f"trainable is {trainable:g}", where=row.where, remedy="give the number of trained parameters")
    peak, train_s = _number(row, "peak_memory_mb"), _number(row, "train_s")
    for name, value in {"peak_memory_mb": peak, "train_s": train_s}.items():
        if value is not None and value < 0:
            raise DataError(f"{name} is {value:g}", where=row.where, remedy="give a positive number, or leave it out")
    config = place.config(arm, seed, source)
    outcome = RunResults(
        run_id=config.run_id,
        metrics={"test": dict(metrics)},
        higher_is_better=dict(place.higher_is_better),
        chance=dict(place.chance),
        majority=dict(place.majority),
        steps=0,
        epochs=0.0,
        parameters={} if trainable is None else {"trainable": int(trainable)},
        memory={} if peak is None else {"measured_peak_mb": peak},
        time={} if train_s is None else {"train_s": train_s},
        flags=[FLAG],
        notes=[
            f"{arm.label}: outside results, row {row.number} of {source['source']}; training, data and seeds were not checked"
        ],
    )
    return config, outcome


def _seed(row: _Row, arm: Arm) -> int:
    value = _number(row, "seed")
    if value is None or not value.is_integer():
        raise DataError("the seed is missing or no whole number", where=row.where, remedy="give every row its seed")
    if int(value) not in arm.study.seeds:
        remedy = "the study's seeds are " + ", ".join(map(str, arm.study.seeds)) + "; runs are compared seed by seed"
        raise DataError(f"seed {int(value)} is none of the study", where=row.where, remedy=remedy)
    return int(value)


def _metric(row: _Row, name: str) -> float:
    value = _number(row, name)
    if value is None or (is_share(name) and not 0 <= value <= 1):
        raise DataError(f"{name} is {row.given[name]}", where=row.where, remedy="give a share between 0 and 1 (93.5 % is 0.935)")
    return value


def _number(row: _Row, name: str) -> float | None:
    """A finite number; None where the cell is empty or absent."""
    raw = row.given.get(name)
    if raw is None or raw == "":
        return None
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{name} is {raw!r}, not a finite number", where=row.where, remedy="mend the cell, or leave it empty")
    return value
