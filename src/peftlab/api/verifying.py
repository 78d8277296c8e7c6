"""Checking every record of a study against its hashes, and saying what else lies there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from peftlab.api._orphans import orphans
from peftlab.api.answers import Answer, lines, megabytes, table
from peftlab.api.collecting import spare
from peftlab.errors import RecordError
from peftlab.records import survey
from peftlab.records.run_folder import ENVIRONMENT, RunFolder
from peftlab.records.store import ResultsFolder
from peftlab.records.store import verify as find_problems
from peftlab.records.versions import mixed


def verify(folder: str | Path) -> Answer:
    """Every record of a results folder read, hashed and compared with its manifest.

    Also told, and no fault: who works on a run, leases of dead processes, what crashes and finished runs left behind, runs that
    the study does not ask for any more, and programs of which several versions made the runs. The exit code is that of a
    damaged record (6) where anything is wrong.

    Raises:
        RecordError: this is no results folder.
    """
    results = ResultsFolder(folder)
    problems = find_problems(results)
    statuses = [run.status() for run in results.runs()]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    notes = _notes(results)
    data = {
        "folder": Path(folder), "runs": len(statuses), "status": counts, "problems": problems, "notes": notes,
        "ok": not problems,
    }  # fmt: skip

    def shown():
        said = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no runs yet"
        if not statuses and not problems:
            return lines("no runs yet: there is nothing to verify", *notes)
        if not problems:
            return lines(f"{len(statuses)} runs ({said}): every record is whole and unchanged.", *notes)
        remedy = "Move the folder of each run named here away and run the study again; the others are reused."
        return lines(f"{len(statuses)} runs ({said})", table(["problem"], ([p] for p in problems)), remedy, *notes)

    return Answer(data, shown, exit_code=RecordError.exit_code if problems else 0)


def _notes(results: ResultsFolder) -> list[str]:
    root = results.path
    notes = []
    for path, who in survey.leases(root):
        place = path.parent.relative_to(root).as_posix()
        dead = "a process that died held its lease; the next runner takes it over"
        notes.append(f"{place}: worked on by {who}" if who else f"{place}: {dead}")
    unasked = Counter((path.parent.relative_to(root).as_posix(), why) for path, why in orphans(results))
    notes += [f"{place}: {count} run{'s' if count > 1 else ''} kept, but {why}" for (place, why), count in unasked.items()]
    left = list(spare(root))
    if left:
        held = megabytes(sum(item.bytes for item in left))
        notes.append(f"{len(left)} things nobody needs any more, {held}: `peftlab gc {root}` lists them.")
    environments = [found for run in results.runs() if isinstance(found := _environment(run), dict)]
    return notes + mixed(environments)


def _environment(run: RunFolder) -> Any:
    try:
        return run.read_json(ENVIRONMENT)
    except RecordError:  # told as a problem
        return None
