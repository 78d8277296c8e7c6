"""status: how far a study is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from peftlab.analysis.raced import race_words, read_race
from peftlab.analysis.still_to_do import StillToDo, still_to_do
from peftlab.api import answers
from peftlab.api.answers import Answer
from peftlab.execution.run_names import values_of
from peftlab.records.store import ResultsFolder, RunStatus
from peftlab.study.expand import cells

EARLIER = "earlier form"  #: of the study: such a run is kept, and no part of any answer


def status(folder: str | Path) -> Answer:
    """Which runs of the study as it was last run are done, running, failed or still to do; from the folders alone."""
    results = ResultsFolder(folder)
    found = still_to_do(results.path)
    rows = _in_order(results.status_table(), found)
    lacking = [problem for problem in found.lacking if problem.kind == "missing"]
    drawn, said = _table(rows, found)
    said += [f"{problem.label}: refused, {problem.what}" for problem in found.lacking if problem.kind == "refused"]
    counts = Counter(row.status for row in rows)
    seen = Counter(EARLIER if row.run_id in found.earlier_ids else row.status for row in rows)
    tuning = sum(number for number, _ in found.tuning.values())
    parts = [f"{number} {name}" for name, number in sorted(seen.items()) if name != EARLIER]
    if lacking or tuning:
        parts.append(f"{len(lacking) + tuning} to do" + (f" ({tuning} of them tuning)" if tuning else ""))
    parts += [f"{seen[EARLIER]} of an earlier form"] if seen[EARLIER] else []
    waiting = bool(lacking or tuning or seen["interrupted"])
    summary = ", ".join(parts) + ("; the command that ran the study goes on with it" if waiting else "")
    raced = race_words(read_race(results.path))
    to_do = [{"label": p.label, "backbone": p.backbone, "task": p.task, "seed": p.seed, "what": p.what} for p in lacking]
    data = {"folder": str(folder), "counts": counts, "runs": rows, "to_do": to_do, "tuning_to_do": tuning}
    data |= {"earlier_form": found.earlier, "racing": raced}
    return Answer(data, lambda: answers.lines(drawn, *said, *found.earlier, *raced, summary))


def _in_order(rows: list[RunStatus], found: StillToDo) -> list[RunStatus]:
    """Tuning first, by trial; then the arms as the study has them."""
    arms = {cell.label: place for place, cell in enumerate(cells(found.study))}
    trials = {run_id: place for place, run_id in enumerate(found.trials)}

    def place(row: RunStatus) -> tuple[object, ...]:
        arm, trial = arms.get(row.label, len(arms)), trials.get(row.run_id, len(trials))
        return row.purpose != "tuning", arm, row.label, trial, row.seed, row.fold

    return sorted(rows, key=place)


def _table(rows: list[RunStatus], found: StillToDo) -> tuple[object | None, list[str]]:
    """(every run, and what nobody has begun; what is said of single runs)."""
    names = ["tuning: " + row.label if row.purpose == "tuning" else row.label for row in rows]
    seeds = [row.seed if row.fold == 0 else f"{row.seed}/{row.fold}" for row in rows]
    said = [f"{name} seed {seed}: {row.detail}" for name, seed, row in zip(names, seeds, rows, strict=True) if row.detail]
    shown: list[list[object]] = []
    for name, seed, row in zip(names, seeds, rows, strict=True):
        values = values_of(row.tried).replace(", ", "\n")
        state = EARLIER if row.run_id in found.earlier_ids else row.status
        shown.append([name, values, seed, state, row.step, row.run_id])
    for label, (number, planned) in found.tuning.items():
        shown.append([f"tuning: {label}", "", "", f"{number} of {planned} to do", "", ""])
    shown += [[problem.label, "", problem.seed, "to do", "", ""] for problem in found.lacking if problem.kind == "missing"]
    columns = ["arm", "tried", "seed", "status", "step", "run"]
    if not any(row[1] for row in shown):
        del columns[1]
        for row in shown:
            del row[1]
    return (answers.table(columns, shown, right=("seed", "step")) if shown else None), said
