"""The notebook: its cells run in order on a small study, without torch and without Jupyter, and git holds no outputs."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.analyze import analyze
from tests.report.fixtures import LEVELS, STUDY, Options, write_results

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "analysis.ipynb"
RUNNER = """
import ast, json, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
names = {}
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
assert "torch" not in sys.modules
print("DRAWN", *sorted(names["drawn"]))
if "gap" in names:
    print("GAP", names["first"], names["second"], repr(names["gap"].interval.mean))
"""


def test_it_is_a_notebook_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert not any(line.startswith(("%", "!")) for line in cell["source"])  # plain Python


def folder_of(root: Path, seeds: list[int], arms: tuple[str, ...], levels: dict[str, Any] = LEVELS) -> Path:
    study = copy.deepcopy(STUDY)
    study.pop("tune")
    study |= {"seeds": seeds, "arms": {name: study["arms"][name] for name in arms}}
    return write_results(root, Options(study=study, levels=levels, failed=(), diverged=(), flags={}))


def run(folder: Path) -> str:
    """What the cells print."""
    runner = folder.parent / "runner.py"
    runner.write_text(RUNNER)
    environment = {**os.environ, "PEFTLAB_RESULTS": str(folder), "PYTHONPATH": str(ROOT / "src"), "MPLBACKEND": "Agg"}
    command = [sys.executable, str(runner), str(NOTEBOOK)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_runs_and_says_what_the_findings_say(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [0, 1, 2], ("full", "bitfit", "lora-all"))
    told = run(folder)
    findings = analyze(folder)
    assert all(line in told for line in findings.verdict)
    assert all(f.sentence in told for f in findings.of("difference"))
    *_, drawn, gap = told.splitlines()
    assert drawn.split()[1:] == ["accuracy_vs_parameters", "memory", "pareto", "training_curves"]
    _, first, second, value = gap.split()
    (difference,) = findings.of("difference", first)
    assert second == "full" and float(value) == difference.estimate


FLAT = {name: (0.9, 0.0, *LEVELS[name][2:]) for name in ("full", "bitfit")}


@pytest.mark.parametrize(
    ("seeds", "arms", "levels", "said"),
    [
        ([0], ("full", "bitfit"), LEVELS, "n = 1, no test"),
        ([0, 1, 2], ("full",), LEVELS, "There is one arm, full"),
        ([0, 1, 2], ("full", "bitfit"), FLAT, "bitfit - full: 0.00, [0.00, 0.00], n = 3, no test"),
    ],
    ids=["one seed", "one arm", "no variation"],
)
def test_it_runs_where_nothing_can_be_tested(
    tmp_path: Path, seeds: list[int], arms: tuple[str, ...], levels: dict[str, Any], said: str
) -> None:
    assert said in run(folder_of(tmp_path, seeds, arms, levels))
