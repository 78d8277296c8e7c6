"""What status shows: every run in the order of arms and seeds, its id in one piece, why it failed below."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from peftlab import api
from tests.report.fixtures import write_results


def test_ids_can_be_copied_and_seeds_are_in_order(tmp_path: Path) -> None:
    answer = api.status(write_results(tmp_path))
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(answer.table(), highlight=False)
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= 80
    rows = [line.split() for line in shown.splitlines() if line.startswith(" ") and len(line.split()) in (4, 5)][1:]
    ids = {row["run_id"] for row in answer.as_dict()["runs"]}
    assert {row[-1] for row in rows} == ids
    assert [(row[0], int(row[1])) for row in rows] == sorted((row[0], int(row[1])) for row in rows)
    assert "bitfit seed 3: OutOfMemory: the device ran out of memory" in " ".join(shown.split())
