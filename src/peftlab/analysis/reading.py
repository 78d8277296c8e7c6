"""From a results folder to checked records. Damage is reported, never fatal: what cannot be read becomes a problem."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from peftlab.errors import RecordError, StudyError
from peftlab.records.migration import lifted
from peftlab.records.record import RunConfig, RunError, RunResults
from peftlab.records.regular import read_regular
from peftlab.records.run_folder import ENVIRONMENT
from peftlab.records.store import require_study
from peftlab.records.versions import mixed
from peftlab.study.load import load_study
from peftlab.study.schema import Study

ProblemKind = Literal["failed", "diverged", "missing", "unfinished", "unreadable", "refused"]
Model = TypeVar("Model", bound=BaseModel)
_AGAIN = "delete the folder and run the study again"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One run that did not end as planned."""

    kind: ProblemKind
    what: str
    label: str = ""
    backbone: str = ""
    task: str = ""
    seed: int | None = None
    fold: int = 0
    run_id: str = ""
    where: str = ""  #: path inside the results folder
    remedy: str = ""
    config: RunConfig | None = dataclasses.field(default=None, compare=False)  #: where it could be read and nothing else

    def as_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run folder: its configuration and exactly one of results and error."""

    folder: Path
    config: RunConfig
    results: RunResults | None
    error: RunError | None

    @property
    def diverged(self) -> bool:
        """Ended as ``diverged``, or stopped by a non-finite loss: both are outcomes of the arm, not accidents."""
        if self.results is not None:
            return self.results.status == "diverged"
        return self.error is not None and self.error.error.get("type") == "NonFinite"


def read_study(folder: Path) -> Study:
    """The study as it was run.

    Raises:
        RecordError: no folder, or no ``study.yaml`` that can be read in it (the analysis plan must be the declared one).
    """
    require_study(folder)
    path = folder / "study.yaml"
    try:
        return load_study(path)
    except StudyError as error:
        remedy = "restore study.yaml: the analysis follows the plan declared there"
        raise RecordError(f"study.yaml cannot be read: {error.what}", where=error.where or str(path), remedy=remedy) from error


def read_json(path: Path) -> Any:
    """Plain data of a JSON file inside a results folder; None where it is absent, not JSON, or too large."""
    try:
        return json.loads(read_regular(path), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return None


def run_folders(folder: Path) -> Iterator[Path]:
    """Run folders in a fixed order. Links are not followed out of the results folder."""
    root = folder.resolve()
    for path in sorted((folder / "runs").glob("*/*")):
        inside = path.resolve().is_relative_to(root) and not path.is_symlink()
        if path.is_dir() and not path.name.startswith(".") and inside:
            yield path


def read_runs(folder: Path) -> tuple[list[RunRecord], list[Problem], list[str]]:
    """Evaluation runs of a results folder: (records, problems, warnings)."""
    records: list[RunRecord] = []
    problems: list[Problem] = []
    for path in run_folders(folder):
        outcome = _read_run(path, str(path.relative_to(folder)))
        if isinstance(outcome, Problem):
            problems.append(outcome)
        elif outcome.config.purpose == "evaluation":
            records.append(outcome)
    environments = [found for record in records if isinstance(found := read_json(record.folder / ENVIRONMENT), dict)]
    warnings = mixed(environments)
    return records, problems, warnings


def _read_run(path: Path, where: str) -> RunRecord | Problem:
    config = _parse(path / "config.json", RunConfig)
    label = path.parent.name
    if not isinstance(config, RunConfig):
        return Problem(kind="unreadable", what=f"config.json {config.what}", label=label, run_id=path.name, where=where,
                       remedy=config.remedy)  # fmt: skip
    about: dict[str, Any] = {
        "label": config.label, "backbone": config.backbone, "seed": config.seed, "fold": config.fold,
        "run_id": path.name, "where": where, "config": config,
    }  # fmt: skip
    results = _parse(path / "results.json", RunResults)
    if isinstance(results, RunResults):
        return RunRecord(folder=path, config=config, results=results, error=None)
    error = _parse(path / "error.json", RunError)
    if isinstance(error, RunError):
        return RunRecord(folder=path, config=config, results=None, error=error)
    remedy = "run the study again: finished runs are kept, this one continues"
    if config.purpose == "evaluation" and results == error == _ABSENT:
        return Problem(kind="unfinished", what="neither results.json nor error.json is there yet", remedy=remedy, **about)
    name, broken = ("results.json", results) if results != _ABSENT else ("error.json", error)
    return Problem(kind="unreadable", what=f"{name} {broken.what}", remedy=broken.remedy, **about)


@dataclasses.dataclass(frozen=True, slots=True)
class _Unread:
    """Why there is no record."""

    what: str
    remedy: str = _AGAIN


_ABSENT = _Unread("is absent")


def _parse(path: Path, model: type[Model]) -> Model | _Unread:
    """The record, or why there is none."""
    try:
        return model.model_validate(lifted(json.loads(read_regular(path)), model))
    except FileNotFoundError:
        return _ABSENT
    except OSError as error:
        return _Unread(f"cannot be read ({error.strerror})")
    except RecordError as error:
        return _Unread(f"cannot be read ({error.what})", error.remedy)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _Unread(f"is damaged: {place + ': ' if place else ''}{first['msg']}")
    except (ValueError, RecursionError) as error:
        return _Unread(f"is damaged: {error}")


def metric_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Training and validation lines of a metrics file; what a crash left half written is skipped."""
    try:
        text = read_regular(path, None).decode("utf-8", errors="replace")
    except OSError:
        return
    lines = [raw for raw in text.splitlines() if raw.strip()]
    try:
        found = json.loads(f"[{','.join(lines)}]", parse_constant=lambda _: None)  # several times faster than line by line
    except (ValueError, RecursionError):
        found = [_line(raw) for raw in lines]
    for line in found:
        if isinstance(line, dict) and line.get("split") in ("train", "validation"):
            yield line


def _line(raw: str) -> Any:
    try:
        return json.loads(raw, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat
