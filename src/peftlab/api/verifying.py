"""Checking every record of a study against its hashes."""

from __future__ import annotations

from pathlib import Path

from peftlab.api.answers import Answer, lines, table
from peftlab.errors import RecordError
from peftlab.records.store import ResultsFolder
from peftlab.records.store import verify as find_problems


def verify(folder: str | Path) -> Answer:
    """Every record of a results folder read, hashed and compared with its manifest.

    The exit code is that of a damaged record (6) where anything is wrong.

    Raises:
        RecordError: this is no results folder.
    """
    results = ResultsFolder(folder)
    problems = find_problems(results)
    statuses = [run.status() for run in results.runs()]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    data = {"folder": Path(folder), "runs": len(statuses), "status": counts, "problems": problems, "ok": not problems}

    def shown():
        said = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no runs yet"
        if not problems:
            return lines(f"{len(statuses)} runs ({said}): every record is whole and unchanged.")
        remedy = "Move the folder of each run named here away and run the study again; the others are reused."
        return lines(f"{len(statuses)} runs ({said})", table(["problem"], ([p] for p in problems)), remedy)

    return Answer(data, shown, exit_code=RecordError.exit_code if problems else 0)
