"""Why an arm has fewer outcomes than another: only a run that failed can flatter it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.assess import assess
from peftlab.analysis.frame import load_frame
from tests.report.fixtures import STUDY, Options, write_results

FLATTERED = "Runs that failed for a reason of the arm itself make its mean look better than it is."
PLAIN: dict[str, Any] = {key: value for key, value in STUDY.items() if key != "tune"}


def said(root: Path, **options: Any) -> str:
    """The warning on arms with fewer outcomes; empty where there is none."""
    frame = load_frame(write_results(root, Options(**{"study": PLAIN, "failed": (), "diverged": (), **options})))
    found = [warning for warning in assess(frame).warnings if "fewer than" in warning]
    assert len(found) < 2
    return "".join(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"diverged": (("bitfit", 3),)}, ""),  # an outcome
        ({"failed": (("bitfit", 3),)}, f" bitfit (4). {FLATTERED}"),
        ({"skip": (("bitfit", 3), ("full", 1), ("full", 2))}, " full (3), bitfit (4). Not run yet: full and bitfit."),
        ({"failed": (("bitfit", 3),), "skip": (("full", 1),)}, f" full (4), bitfit (4). {FLATTERED} Not run yet: full."),
    ],
)
def test_only_a_run_that_failed_flatters_its_arm(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    assert said(tmp_path, **options) == (f"Some arms have outcomes for fewer than 5 seeds:{words}" if words else "")


def test_a_run_under_way_is_not_run_yet(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options(study=PLAIN, failed=(), diverged=()))
    next(folder.glob("runs/bitfit/*/results.json")).unlink()
    (warning,) = [warning for warning in assess(load_frame(folder)).warnings if "fewer than" in warning]
    assert warning.endswith(" bitfit (4). Not run yet: bitfit.")


def test_a_seed_that_nobody_asks_for_gives_no_reason(tmp_path: Path) -> None:
    """Other arms have it from an earlier form of the study: nothing failed, and nothing is to do."""
    frame = load_frame(write_results(tmp_path, Options(study=PLAIN, skip=(("bitfit", 4),), failed=(), diverged=())))
    declared = frame.study.model_copy(update={"seeds": [0, 1, 2, 3]})
    (warning,) = [w for w in assess(load_frame(frame.folder, study=declared)).warnings if "fewer than" in w]
    assert warning == "Some arms have outcomes for fewer than 5 seeds: bitfit (4)."


def test_each_setting_tells_its_own(tmp_path: Path) -> None:
    """Two tasks of one name: what failed on one says nothing of the other; folds are runs, not seeds."""
    sizes = [{**STUDY["task"], "image_size": size, "folds": 2} for size in (32, 64)]
    study = {**PLAIN, "matrix": {"task": sizes}, "seeds": [0, 1]}
    frame = load_frame(write_results(tmp_path, Options(study=study, folds=2, failed=(("bitfit", 1),), diverged=())))
    problems = tuple(p for p in frame.problems if "image_size=32" in p.task)
    assert len(frame.problems) == 4 and len(problems) == 2
    warnings = [w for w in assess(dataclasses.replace(frame, problems=problems)).warnings if "fewer than 4 runs on" in w]
    assert [("=32" in w, w.endswith(FLATTERED)) for w in warnings] == [(True, True), (False, False)]
