"""The results of a study on disk. The folders are the truth; nothing is overwritten silently, nothing half written is seen.

::

    results/<study>/
      study.yaml  study-<hash>.yaml           the study as run last, and earlier forms of it
      runs/<slug>/<run id>/                   evaluation runs      (tuning/<slug>/<run id>/ : tuning runs)
        config.json environment.json metrics.jsonl  *.json  adapter/  checkpoints/
        results.json MANIFEST.json | error.json   error-1.json ...  (errors of earlier tries)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peftlab.errors import RecordError, close
from peftlab.records import commit, survey
from peftlab.records.lease import FILE as LEASE
from peftlab.records.record import RunConfig
from peftlab.records.redact import has_secret
from peftlab.records.regular import read_regular
from peftlab.records.run_folder import CONFIG, RESULTS, RunFolder, Status
from peftlab.records.temporaries import is_left_over

__all__ = ["ResultsFolder", "RunFolder", "RunStatus", "Status", "verify"]

_FOLDERS = {"evaluation": "runs", "tuning": "tuning"}
_SAFE = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}")


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One row of the status table."""

    run_id: str
    label: str
    seed: int
    fold: int
    purpose: str
    backbone: str
    status: Status
    step: int | None  #: last step seen in the journal
    detail: str  #: who runs it, or why it failed
    tried: dict[str, Any] = field(default_factory=dict)  #: values of a tuning run


class ResultsFolder:
    """``results/<study>``."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._opened_with: str | None = None

    def __repr__(self) -> str:
        return f"ResultsFolder({str(self.path)!r})"

    def open_or_create(self, study_yaml_text: str) -> ResultsFolder:
        """Keep the study's text as ``study.yaml``; with it :attr:`superseded` compares from now on.

        A changed study is no danger to what is there: run ids are hashes of what determines a run, so runs that did not
        change are reused and changed ones are new runs. The earlier text is kept as ``study-<hash>.yaml``.

        Raises:
            RecordError: the folder holds another study, or the text holds a secret.
        """
        if has_secret(study_yaml_text):
            remedy = "take the token out of the study; log in with `hf auth login` or an environment variable"
            raise RecordError("the study holds what looks like a secret", where=str(self.path), remedy=remedy)
        self._opened_with = study_yaml_text
        path = self.path / "study.yaml"
        with commit.disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            before = read_regular(path).decode("utf-8", "replace") if os.path.lexists(path) else None
        if before == study_yaml_text:
            return self
        if before is not None:
            if (there := _study_name(before)) != (asked := _study_name(study_yaml_text)):
                remedy = "choose another folder with --output"
                raise RecordError(f"the folder holds the study {there!r}, not {asked!r}", where=str(self.path), remedy=remedy)
            digest = hashlib.sha256(before.encode()).hexdigest()[:8]
            commit.write_atomic(self.path / f"study-{digest}.yaml", before)
        commit.write_atomic(path, study_yaml_text)
        return self

    @property
    def superseded(self) -> bool:
        """Whether another process has changed the study since this one opened it; comments do not count.

        Raises:
            RecordError: the study is not there any more.
        """
        return self._opened_with is not None and _content(self.study_text()) != _content(self._opened_with)

    def write_state(self, name: str, content: str) -> None:
        """What is derived from the study and its records (``plan.json``, ``tuning.json``, ``racing.json``).

        Not written once the study is :attr:`superseded`, so that these files always belong to ``study.yaml``.
        """
        if not self.superseded:
            commit.write_atomic(self.path / name, content)

    def study_text(self) -> str:
        """The study as run last.

        Raises:
            RecordError: this is no results folder.
        """
        require_study(self.path)
        try:
            return read_regular(self.path / "study.yaml").decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            remedy = "restore study.yaml, or run the study again"
            raise RecordError("study.yaml cannot be read", where=str(self.path), remedy=remedy) from error

    def run(self, config: RunConfig) -> RunFolder:
        """The folder of a run, which need not exist yet.

        Raises:
            RecordError: the arm's folder name is unsafe, or a link leads out of the results.
        """
        if not _SAFE.fullmatch(config.slug):
            raise RecordError(f"{config.slug!r} is no safe folder name", where=str(self.path), remedy="rename the arm")
        return RunFolder(self._contained(self.path / _FOLDERS[config.purpose] / config.slug / config.run_id))

    def runs(self, purpose: Literal["evaluation", "tuning"] | None = None) -> Iterator[RunFolder]:
        """All run folders that have a configuration, in order of their paths; ``purpose`` None: of both kinds."""
        for kind, folder in _FOLDERS.items():
            if purpose in (None, kind):
                for path in sorted((self.path / folder).glob(f"*/*/{CONFIG}")):
                    yield RunFolder(self._contained(path.parent))

    def find(self, run_id: str) -> RunFolder:
        """A run by its id, or by the beginning of it.

        Raises:
            RecordError: none, or several.
        """
        found = [run for run in self.runs() if run.run_id.startswith(run_id)] if run_id else []
        if len(found) != 1:
            what = f"{len(found)} runs begin with {run_id!r}" if found else f"there is no run {run_id!r}"
            raise RecordError(what, where=str(self.path), remedy="`peftlab status` lists the runs")
        return found[0]

    def status_table(self) -> list[RunStatus]:
        """One row per run, from the folders alone."""
        return [_row(run) for run in self.runs()]

    def _contained(self, path: Path) -> Path:
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise RecordError("a link leads out of the results folder", where=str(path), remedy="remove the link")
        return path


def require_study(path: Path) -> None:
    """Refuse what is no results folder, and name those that are near: ``results`` is often given for ``results/<study>``.

    Raises:
        RecordError: there is no such folder, or no ``study.yaml`` of its own in it.
    """
    study = path / "study.yaml"
    if study.is_file() and not study.is_symlink():
        return
    there = path.is_dir()
    inside = path if there else path.parent
    near = sorted(str(found.parent) for found in inside.glob("*/study.yaml")) if inside.is_dir() else []
    known = f"; there is {', '.join(near[:8])}{', ...' if len(near) > 8 else ''}" if near else ""
    if path.exists() and not there:
        what, remedy = (
            "this is a file, not a folder of results",
            f"name the folder that `peftlab run` wrote, results/<study>{known}",
        )
        raise RecordError(what, where=str(path), remedy=remedy)
    if not there:
        meant = close(path.name, [Path(one).name for one in near])
        remedy = f"{meant} `peftlab run STUDY` makes it{known}".strip()
        raise RecordError("there is no such results folder", where=str(path), remedy=remedy)
    what = "this is no results folder: it has no study.yaml"
    raise RecordError(what, where=str(path), remedy=f"name the folder that `peftlab run` wrote, results/<study>{known}")


def verify(folder: ResultsFolder | Path | str) -> list[str]:
    """Every problem in a results folder, in words: damaged or changed records, links, runs in the wrong place, unreadable files.

    What a crash left half written is no problem: records/survey.py lists it.
    """
    results = folder if isinstance(folder, ResultsFolder) else ResultsFolder(folder)
    results.study_text()
    problems: list[str] = []
    for kind in survey.RUN_FOLDERS:
        for path in sorted((results.path / kind).glob("*/*")):
            place = path.relative_to(results.path).as_posix()
            if not path.resolve().is_relative_to(results.path.resolve()):
                problems.append(f"{place}: a link leads out of the results folder")
            elif path.is_symlink() or path.parent.is_symlink() or is_left_over(path.name):
                continue
            elif not path.is_dir():
                problems += [] if path.name == LEASE else [f"{place}: does not belong here"]
            elif not (path / CONFIG).exists():
                empty = not any(file.name != LEASE for file in path.iterdir())  # a process that died as it began
                problems += [] if empty else [f"{place}: no {CONFIG}; nothing says what this is"]
            else:
                problems += [f"{place}/{problem}" for problem in _verify_run(RunFolder(path), kind)]
    told = {problem.partition(": ")[0] for problem in problems}
    return problems + [found for found in survey.problems_outside_runs(results.path) if found.partition(": ")[0] not in told]


def _verify_run(run: RunFolder, kind: str) -> list[str]:
    problems = run.verify()
    if not problems and run.status() != "running":
        problems = [] if (run.path / RESULTS).exists() else survey.damaged_checkpoints(run.path)
    if not problems and run.path.parts[-3:-1] != (_FOLDERS[(config := run.config()).purpose], config.slug):
        problems.append(f"{CONFIG}: belongs in {_FOLDERS[config.purpose]}/{config.slug}, not in {kind}/{run.path.parent.name}")
    return problems


def _row(run: RunFolder) -> RunStatus:
    status, step, detail = run.status(), None, ""
    try:
        config = run.config()
        lines = run.metrics()
        step = lines[-1].step if lines else None
        failure = run.error()
    except RecordError as error:
        return RunStatus(run.run_id, run.path.parent.name, -1, 0, "", "", "failed", step, error.what)
    if status == "running":
        detail = str(run.holder() or "")
    elif failure is not None:
        detail = f"{failure.error.get('type', '')}: {failure.error.get('what', '')}"
    where = (config.label, config.seed, config.fold, config.purpose, config.backbone)
    return RunStatus(run.run_id, *where, status, step, detail, config.tuned if config.purpose == "tuning" else {})


def _content(study_yaml_text: str) -> list[str]:
    """Without the comments, which say how a study was given: with ``--set``, or in its file."""
    return [line for line in study_yaml_text.splitlines() if not line.startswith("#")]


def _study_name(text: str) -> str:
    found = re.search(r"^study\s*:\s*[\"']?([a-z0-9._-]+)", text, re.MULTILINE)
    return found.group(1) if found else ""
