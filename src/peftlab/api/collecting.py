"""Deleting what nobody needs any more: never a record, nothing of a run that is worked on, no checkpoint it would go on from."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from peftlab.api.answers import Answer, lines, megabytes, table
from peftlab.errors import LeaseHeld, RecordError
from peftlab.records import commit, survey
from peftlab.records.lease import Lease, holder
from peftlab.records.store import ResultsFolder
from peftlab.records.survey import Left

#: folders of the shared cache; all of it can be made again
CACHES = ("fingerprints", "images", "prefixes", "tokens")
UNUSED_S = 86400.0  #: age from which a file of the cache is not of a run that is going on


def gc(folder: str | Path, *, delete: bool = False, cache: bool = False) -> Answer:
    """What of a results folder may be deleted, and how many bytes that frees; nothing is deleted unless ``delete``.

    That is: checkpoints of finished runs, what processes that died left half written, their leases, and of unfinished runs the
    checkpoints beyond the last two whole ones.

    Args:
        folder: the results of a study.
        delete: do it.
        cache: also prepared data in the shared cache that were not changed for a day; they are made again when needed.

    Raises:
        RecordError: this is no results folder.
    """
    from peftlab.api.running import cache_folder

    results = ResultsFolder(folder)
    results.study_text()
    root = results.path
    found = list(spare(root)) + (list(_cached(cache_folder())) if cache else [])
    kept = _delete(found, root) if delete else {}
    deleted = [item for item in found if item.path not in kept]
    freed, word = sum(item.bytes for item in deleted), "freed" if delete else "can be freed"
    rows = [
        {"path": _place(item.path, root), "why": item.why, "bytes": item.bytes, "kept": kept.get(item.path, "")} for item in found
    ]
    data = {"folder": root, "deleted": delete, "bytes": freed, "left": rows}

    def shown():
        if not found:
            return "Nothing here can be deleted."
        cells = ((row["path"], row["why"], megabytes(row["bytes"]), row["kept"]) for row in rows)
        columns = ["what", "why", "size", *(["kept because"] if kept else [])]
        drawn = table(columns, (row[: len(columns)] for row in cells), right=["size"])
        hint = "" if delete else "Nothing was deleted; --delete does it."
        return lines(drawn, f"{len(deleted)} things, {megabytes(freed)} {word}.", hint)

    return Answer(data, shown, exit_code=RecordError.exit_code if any(kept.values()) and _failed(kept) else 0)


def spare(root: Path) -> Iterator[Left]:
    """What of a results folder may be deleted now."""
    for folder in survey.run_paths(root):
        if holder(folder) is None:
            yield from survey.left_in_run(folder)
    if (tuning := root / "tuning").is_dir() and holder(tuning) is None:
        yield from (Left(path, "lease of a process that died", survey.size(path)) for path, who in survey.leases(root)
                    if path.parent == tuning and who is None)  # fmt: skip
    yield from survey.left_elsewhere(root, time.time())


def _cached(cache: Path) -> Iterator[Left]:
    for name in CACHES:
        folder = cache / name
        if folder.is_symlink() or not folder.is_dir():
            continue
        old = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and _unused(path)]
        yield from (Left(path, f"prepared data ({name}), made again when needed", survey.size(path)) for path in sorted(old))


def _unused(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.suffix != ".lock" and time.time() - path.stat().st_mtime > UNUSED_S
    return False


def _delete(found: list[Left], root: Path) -> dict[Path, str]:
    """Delete; returns what was kept and why. A run is looked at again under its lease, so that nobody else is in it."""
    kept: dict[Path, str] = {}
    runs = set(survey.run_paths(root))
    for item in found:
        run = next((parent for parent in item.path.parents if parent in runs), None)
        try:
            if item.path.name == survey.LEASE:
                with Lease(item.path.parent):
                    continue  # goes when it is let go
            if run is None:
                _remove(item.path)
                continue
            with Lease(run):
                if item.path in {left.path for left in survey.left_in_run(run)}:
                    _remove(item.path)
        except LeaseHeld as error:
            kept[item.path] = error.what
        except RecordError as error:
            kept[item.path] = f"not deleted: {error.what}"
    return kept


def _remove(path: Path) -> None:
    with commit.disk_errors(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _failed(kept: dict[Path, str]) -> bool:
    return any(why.startswith("not deleted") for why in kept.values())


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
