"""What came out of a study, in a terminal: what must be known of rows stands below the table, once for all its arms."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from peftlab.analysis.analyze import analyze
from peftlab.api._study_tables import findings_table
from tests.report.fixtures import STUDY, Options, write_results


def test_rows_of_several_tasks_say_which(tmp_path: Path) -> None:
    study = {**STUDY, "matrix": {"task": [{**STUDY["task"], "image_size": size} for size in (32, 64)]}}
    findings = analyze(write_results(tmp_path, Options(study=study)))
    stream = io.StringIO()
    Console(file=stream, width=400).print(findings_table(findings))
    rows = [line.strip() for line in stream.getvalue().splitlines() if line.strip().startswith("bitfit ·")]
    assert sorted(row.split("image_size=")[1][:4] for row in rows) == ["32] ", "64] "]
    assert "vit-nano" not in rows[0]  # the same everywhere


def test_flags_stand_below_the_table_with_their_arms(tmp_path: Path) -> None:
    flags = {"full": ["timed on a busy machine", "fell back to the CPU"], "bitfit": ["timed on a busy machine"]}
    findings = analyze(write_results(tmp_path, Options(flags=flags)))
    stream = io.StringIO()
    Console(file=stream, width=400).print(findings_table(findings))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("note: ")] == [
        "note: fell back to the CPU: full",
        "note: timed on a busy machine: full and bitfit",
    ]
    assert lines.index("note: fell back to the CPU: full") < lines.index(" ".join(findings.verdict[0].split()))
