"""What came out of a study, in a terminal: what must be known of rows stands below the table, once for all its arms."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from peftlab.analysis.analyze import analyze
from peftlab.api._left import Left
from peftlab.api._study_tables import findings_table, plan_table
from peftlab.study.load import validate_study
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


def planned(purpose: str, trainable: int, peak: float | None, **more: Any) -> Any:
    about = {"label": "lora", "backbone": "b", "task": "t", "purpose": purpose, "steps": 2000, "total_parameters": 1_000_000}
    about |= {"predicted_s": 1.0, "refusal": None, "config": object(), "trainable": trainable}
    return SimpleNamespace(**{**about, **more}, estimate=None if peak is None else SimpleNamespace(peak_mb=peak))


def printed(tuning: list[Any], runs: list[Any]) -> list[str]:
    made = SimpleNamespace(tuning=tuning, runs=runs, warnings=(), notes=(), pending=True)
    stream, left = io.StringIO(), Left(runs=1, done=0, failed=0, spared=0, seconds=1.0)
    Console(file=stream, width=400).print(plan_table(validate_study(STUDY), made, left))
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_a_tuned_arm_is_shown_by_all_its_trials() -> None:
    """A range where they differ, the largest peak, and in the row of its evaluation runs that nothing is chosen yet."""
    trials = [planned("tuning", 2_500, 700.0), planned("tuning", 40_000, 900.0), planned("tuning", 9_000, 800.0)]
    lines = printed(trials, [planned("evaluation", 9_000, 800.0, config=None)])
    assert "tuning: lora 3 2,000 2,500-40,000 0.25-4 % 900 MB 3 s" in lines
    assert "lora (not chosen yet) 1 2,000 2,500-40,000 0.25-4 % 900 MB 1 s" in lines
    chosen = printed(trials, [planned("evaluation", 9_000, 800.0)])
    assert "lora 1 2,000 9,000 0.9 % 800 MB 1 s" in chosen


def test_what_refuses_any_trial_is_told() -> None:
    trials = [planned("tuning", 2_500, 700.0), planned("tuning", 9_000, 1e6, refusal="too large"), planned("tuning", 3_000, None)]
    lines = printed(trials, [planned("evaluation", 9_000, 800.0, config=None)])
    assert lines.count("refused: lora: too large") == 1
    assert "tuning: lora 2 2,000 2,500-3,000 0.25-0.3 % 700 MB 2 s" in lines
    everything = printed([planned("tuning", 1, 1.0, refusal="no")], [planned("evaluation", 1, 1.0, refusal="no", config=None)])
    assert [line for line in everything if "lora" in line] == ["refused: lora: no"]
