"""Under what a run is executed, in its folder: libraries, machine, processes; and what changed since it was begun."""

from __future__ import annotations

from peftlab.records.environment import environment
from peftlab.records.run_folder import RunFolder
from peftlab.records.versions import continued, continued_with


def write_environment(folder: RunFolder, processes: int) -> tuple[list[str], list[str]]:
    """Write ``environment.json``; (flags, notes) of a run that goes on under other versions.

    It keeps its work and says so: in every table, other source code of peftlab in its notes.
    """
    flags: list[str] = []
    notes: list[str] = []
    now = {**environment(), "processes": processes}
    if any(folder.checkpoints.glob("*/step-*")):
        before = folder.read_json("environment.json")
        now = continued(before, now) if isinstance(before, dict) else now
    folder.write_json("environment.json", now)
    for change in continued_with(now):
        number = change.removeprefix("processes ")
        what = f"version: {change}" if number == change else f"number of processes: {number}"
        (notes if change.startswith("peftlab ") else flags).append(f"continued with another {what}")
    return flags, notes
