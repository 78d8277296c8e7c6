"""The folder of one run: what is written when, by whom, and how it is read back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from peftlab import mistakes
from peftlab.errors import RecordError
from peftlab.records import commit, journal
from peftlab.records.lease import FILE as LEASE
from peftlab.records.lease import Holder, Lease, holder
from peftlab.records.manifest import MANIFEST, check_manifest, files_below, manifest, read_manifest
from peftlab.records.migration import lifted
from peftlab.records.record import MetricLine, RunConfig, RunError, RunResults, to_json
from peftlab.records.redact import has_secret, redact_all
from peftlab.records.regular import read_regular

if TYPE_CHECKING:
    import numpy as np

Status = Literal["new", "running", "interrupted", "finished", "failed"]
CONFIG, RESULTS, ERROR, METRICS, ENVIRONMENT = "config.json", "results.json", "error.json", "metrics.jsonl", "environment.json"
CHECKPOINTS, ADAPTER, LOG, FALLBACK = "checkpoints", "adapter", "worker.log", "fallback.json"
_JSON_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}\.json")
_REBUILT = "move the folder away and run again; it will be made anew"
_IMMUTABLE = "results are never changed; move the run's folder away to have it made anew"
_DAMAGED = "move the run's folder away and run again; `peftlab verify` lists all that is damaged"
_Record = TypeVar("_Record", bound=BaseModel)


class RunFolder:
    """The folder of one run. Writing is for the holder of its :meth:`lease`; reading is for everybody at any time."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, one committed folder each (not part of the results: may be deleted once finished)."""
        return self.path / CHECKPOINTS

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapter, PEFT format."""
        return self.path / ADAPTER

    def make(self) -> RunFolder:
        """Make the folder itself, so that it can be leased."""
        with commit.disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        return self

    def create(self, config: RunConfig) -> RunFolder:
        """Make the folder and write ``config.json``; an existing folder of the same run is left as it is.

        Raises:
            RecordError: the folder belongs to another run, what is there is damaged, or the configuration holds a secret.
        """
        text = to_json(config)
        if config.run_id != self.run_id:
            raise RecordError(f"the folder is that of another run than {config.run_id}", where=str(self.path), remedy=_REBUILT)
        if has_secret(config.model_dump()):
            remedy = "take the token out of the study; log in with `hf auth login` or an environment variable"
            raise RecordError("the configuration holds what looks like a secret", where=str(self.path), remedy=remedy)
        if not (self.path / CONFIG).exists():
            commit.write_atomic(self.make().path / CONFIG, text)
        else:
            self.config()
        return self

    def config(self) -> RunConfig:
        """What defines the run.

        Raises:
            RecordError: missing, damaged, or changed since (its hash is no longer the run id).
        """
        config = _load(self.path / CONFIG, RunConfig)
        if config.run_id != self.run_id:
            where = str(self.path / CONFIG)
            raise RecordError(f"the configuration was changed: it is that of {config.run_id}", where=where, remedy=_REBUILT)
        return config

    def status(self) -> Status:
        """Where the run stands; ``running`` only while a live process holds the lease."""
        if (self.path / RESULTS).exists():
            return "finished"
        if self.holder() is not None:
            return "running"
        if (self.path / ERROR).exists():
            return "failed"
        left = any((self.path / name).exists() for name in (METRICS, ENVIRONMENT, CHECKPOINTS, LEASE))
        return "interrupted" if left else "new"

    def holder(self) -> Holder | None:
        """The live process that works on this run, if any."""
        return holder(self.path)

    def lease(self) -> Lease:
        """Context manager: sole right to write here.

        Raises:
            LeaseHeld: on entering, names who holds it.
        """
        return Lease(self.path)

    def sweep(self) -> list[str]:
        """Remove what a crash left half written; for the holder of the lease."""
        return [name for folder in (self.path, self.checkpoints, *self.checkpoints.glob("*")) for name in commit.sweep(folder)]

    def write_json(self, name: str, data: BaseModel | Mapping[str, Any] | list[Any]) -> None:
        """Write a diagnostic or ``environment.json``; NaN and infinity become null, secrets are masked.

        Raises:
            RecordError: the run is finished and this would change its record, or ``name`` has its own method.
        """
        if not _JSON_NAME.fullmatch(name) or name in (CONFIG, RESULTS, ERROR, MANIFEST.lower(), LEASE):
            raise RecordError(f"{name!r} cannot be written with write_json", where=str(self.path), remedy="choose another name")
        text = _text(redact_all(journal.plain(data)))
        path = self.path / name
        if (self.path / RESULTS).exists():
            if path.exists() and path.read_text(encoding="utf-8") == text:
                return
            raise RecordError(f"the run is finished; {name} cannot change", where=str(self.path), remedy=_IMMUTABLE)
        commit.write_atomic(path, text)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays, of any shapes, as a compressed ``.npz`` file; for the numbers of which JSON would be too large.

        Raises:
            RecordError: the disk is full, the folder read-only.
        """
        import numpy as np  # here: those who only read records need not wait for it

        with commit.disk_errors(self.path / name):
            np.savez_compressed(self.path / name, **arrays)  # pyright: ignore[reportArgumentType]

    def read_json(self, name: str) -> Any:
        """Plain data of one of the JSON files; None where there is no such file.

        Raises:
            RecordError: the file is damaged.
        """
        path = self.path / name
        try:
            return json.loads(read_regular(path, None))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise RecordError(f"not readable: {error}", where=str(path), remedy=_DAMAGED) from error

    def append_metrics(self, lines: Iterable[MetricLine | Mapping[str, Any]], *, durable: bool = True) -> None:
        """Append to ``metrics.jsonl``; ``durable`` flushes to the disk (do so before a checkpoint that relies on it)."""
        journal.append(self.path / METRICS, lines, durable=durable)

    def metrics(self) -> list[MetricLine]:
        """All whole lines of ``metrics.jsonl``; half a line at the end is passed over."""
        return journal.read(self.path / METRICS)

    def truncate_metrics(self, step: int) -> int:
        """At resume: drop lines after ``step``; returns how many were dropped."""
        return journal.truncate(self.path / METRICS, step)

    def finish(self, results: RunResults) -> None:
        """Commit the results: the manifest first, ``results.json`` last. An earlier error is kept as ``error-1.json``, ....

        Raises:
            RecordError: the run is already finished with other results.
        """
        if results.run_id != self.run_id:
            raise RecordError(f"results of run {results.run_id}", where=str(self.path), remedy="report this fault")
        text = _text(redact_all(journal.plain(results)))
        path = self.path / RESULTS
        if path.exists():
            if path.read_text(encoding="utf-8") == text:
                return
            raise RecordError("the run is already finished, with other results", where=str(path), remedy=_IMMUTABLE)
        self.clear_error()
        with commit.disk_errors(self.path):
            for name in (final := self._final_files()):
                commit.fsync_folder(self.path / name)
            listed = manifest(self.path, final)
        listed["files"][RESULTS] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
        commit.write_atomic(self.path / MANIFEST, _text(listed))
        commit.write_atomic(path, text)

    def fail(self, error: RunError) -> None:
        """Write ``error.json``, secrets masked; the error of an earlier try is kept.

        Raises:
            RecordError: the run is already finished.
        """
        if (self.path / RESULTS).exists():
            raise RecordError("the run is already finished; it cannot fail", where=str(self.path), remedy=_IMMUTABLE)
        self.clear_error()
        commit.write_atomic(self.path / ERROR, _text(redact_all(journal.plain(error))))

    def clear_error(self) -> bool:
        """Before a retry: keep ``error.json`` as the next free ``error-<n>.json``; whether there was one."""
        return self.set_aside(ERROR)

    def set_aside(self, name: str) -> bool:
        """Keep a JSON file of an earlier try under the next free ``<stem>-<n>.json``; whether there was one.

        Raises:
            RecordError: the disk is not writable.
        """
        path = self.path / name
        if not path.exists():
            return False
        number = 1
        while (kept := self.path / f"{path.stem}-{number}.json").exists():
            number += 1
        with commit.disk_errors(path):
            path.rename(kept)
            commit.fsync_folder(self.path)
        return True

    def results(self) -> RunResults | None:
        """The outcome, or None while there is none."""
        return _load(self.path / RESULTS, RunResults) if (self.path / RESULTS).exists() else None

    def error(self) -> RunError | None:
        """Why the run failed, or None."""
        return _load(self.path / ERROR, RunError) if (self.path / ERROR).exists() else None

    def verify(self) -> list[str]:
        """What is wrong with this run's record, in words."""
        try:
            self.config()
            self.metrics()
            self.error()
            finished = self.results() is not None
        except RecordError as error:
            return [f"{Path(error.where).name}: {error.what}"]
        if not finished:
            return []
        listed = read_manifest(self.path)
        if isinstance(listed, str):
            return [listed]
        extra = sorted(set(self._final_files()) - set(listed))
        return check_manifest(self.path, listed) + [f"{name}: added after the run was finished" for name in extra]

    def _final_files(self) -> list[str]:
        names = files_below(self.path)
        return [n for n in names if n not in (RESULTS, LEASE, LOG) and not n.startswith(f"{CHECKPOINTS}/")]


def _load(path: Path, kind: type[_Record]) -> _Record:
    try:
        raw = json.loads(read_regular(path))
        return kind.model_validate(lifted(raw, kind, where=str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        what, _ = mistakes.of_value([first])
        raise RecordError(
            f"damaged: {place} {what}" if place else f"damaged: {what}", where=str(path), remedy=_DAMAGED
        ) from error
    except OSError as error:
        raise RecordError(error.strerror or str(error), where=str(path), remedy=_DAMAGED) from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"damaged: {mistakes.of_json(error)}", where=str(path), remedy=_DAMAGED) from error


def _text(data: Any) -> str:
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
