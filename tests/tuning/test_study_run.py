"""How many runs at once: what memory allows, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import PlanRefused
from peftlab.execution.here import Here, checked_jobs, jobs_that_fit
from peftlab.execution.outcome import Outcome
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import WorkerOptions
from peftlab.planning.estimate import Estimate
from peftlab.planning.machine import Machine
from peftlab.planning.plan import Plan, PlannedRun
from peftlab.records.store import ResultsFolder
from peftlab.tuning.search import follow
from peftlab.tuning.study_run import StudyRun
from tests.tuning import studies

MACHINE = Machine(
    device="cpu", name="", cores=8, total_mb=4000.0, available_mb=2000.0, process_mb=600.0, product_flops_per_s=1e9,
    bandwidth_bytes_per_s=1e9, overhead_s=0.0, efficiency=1.0, devices=("cpu",),
)  # fmt: skip


def plan(*own_mb: float, refused: bool = False) -> Plan:
    """One run per value: libraries of 600 MB, and so much of its own."""
    runs = tuple(
        PlannedRun(
            label="arm", backbone="b", task="t", seed=seed, fold=0, purpose="evaluation", config=None, steps=1, trainable=1,
            total_parameters=1, predicted_s=None, refusal="no" if refused else None,
            estimate=Estimate(
                parts_mb={"process": 600.0, "activations": own}, evaluate_peak_mb=0.0, step_flops=1, step_time_s=1.0,
                evaluate_time_per_example_s=1.0,
            ),
        )
        for seed, own in enumerate(own_mb)
    )  # fmt: skip
    return Plan(study="s", question="", tuning=(), runs=runs, notes=(), warnings=(), machine={}, higher_is_better=True)


def test_jobs_left_out_are_what_fits_with_no_page_shared() -> None:
    assert jobs_that_fit(plan(300.0, 100.0), MACHINE) == 2  # 900 + 700 of 1800 MB
    assert jobs_that_fit(plan(3000.0, 100.0, 100.0, 100.0), MACHINE) == 2, "the large one waits for room by itself"
    assert jobs_that_fit(plan(3000.0), MACHINE) == 1
    assert jobs_that_fit(plan(3000.0, refused=True), MACHINE) == MACHINE.cores
    assert jobs_that_fit(plan(1.0), dataclasses.replace(MACHINE, device="cuda")) == 1


def test_jobs_asked_for_are_refused_only_where_they_cannot_fit_even_with_all_pages_shared() -> None:
    seven = plan(*[300.0] * 7)
    assert checked_jobs(4, seven, MACHINE) == 4  # 600 + 4 * 300 = 1800 = 0.9 * 2000
    with pytest.raises(PlanRefused, match=r"5 runs at once need up to 2,100 MB \(predicted\) of 2,000 MB free") as caught:
        checked_jobs(5, seven, MACHINE)
    assert caught.value.where == "--jobs" and "--jobs 2" in caught.value.remedy
    assert checked_jobs(50, plan(*[300.0] * 4), MACHINE) == 50, "no more run at once than there are"
    assert checked_jobs(1, plan(5000.0), MACHINE) == 1, "one run is the planner's to refuse"
    assert checked_jobs(9, plan(300.0, refused=True), MACHINE) == 9


def test_what_was_checked_before_the_first_run_is_not_refused_in_the_midst_of_a_study(tmp_path: Path) -> None:
    """Memory that others have taken since is waited for."""
    engine, too_large = Here(cache=tmp_path, jobs=2), plan(1e9, 1e9)
    with pytest.raises(PlanRefused, match="2 runs at once need"):
        engine.check(too_large)
    options = WorkerOptions(cache=tmp_path)
    outcome = engine.execute(ResultsFolder(tmp_path), [], too_large, options, NullListener(), retry_failed=False)
    assert outcome.exit_code == 0 and not outcome.endings


class Beside(Here):
    """The machine here, and another process that changes the study while its runs are done."""

    def execute(self, folder: ResultsFolder, *rest: Any, **options: Any) -> Outcome:
        outcome = Here.execute(self, folder, *rest, **options)
        ResultsFolder(folder.path).open_or_create("study: tuned\nseeds: [1]\n")
        return outcome


@pytest.mark.parametrize("changed", [False, True])
def test_a_study_changed_during_its_last_round_is_told(backbone: str, cache: Path, tmp_path: Path, changed: bool) -> None:
    asked = studies.study(backbone, tune=None)
    folder = ResultsFolder(tmp_path / "tuned").open_or_create("study: tuned\nseeds: [0]\n")
    planner = studies.planner(asked, cache)
    progress = follow(folder, asked, planner)
    for run in progress.plan.runs:
        assert run.config is not None
        studies.finish(folder, run.config, lambda _: 0.5)
    said: list[str] = []
    outcome = StudyRun(
        folder=folder, study=asked, planner=planner, progress=progress, cache=cache, retry_failed=False,
        engine=(Beside if changed else Here)(cache=cache, jobs=1), listener=lambda _: NullListener(), say=said.append,
    ).run()  # fmt: skip
    assert outcome.exit_code == 0 and len(outcome.endings) == 2
    assert folder.superseded == changed == any("another process has changed the study" in sentence for sentence in said)


def test_a_tuning_run_that_failed_is_told_by_the_exit_code(backbone: str, cache: Path, tmp_path: Path) -> None:
    """The choice is made among the others, and what was chosen is evaluated."""
    asked = studies.study(backbone, tune={"learning_rate": [1e-3, 1e-2, 1e-1], "seeds": [100]})
    folder = ResultsFolder(tmp_path / "tuned").open_or_create("study: tuned\nseeds: [0]\n")
    planner = studies.planner(asked, cache)
    progress = follow(folder, asked, planner)
    failing, *others = studies.outstanding(folder, progress.plan)
    studies.fail(folder, failing)
    for config in others:
        studies.finish(folder, config)
    progress = follow(folder, asked, planner, tried=True)
    for run in progress.plan.runs:
        assert run.config is not None
        studies.finish(folder, run.config)
    outcome = StudyRun(
        folder=folder, study=asked, planner=planner, progress=progress, cache=cache, retry_failed=False,
        engine=Here(cache=cache, jobs=1), listener=lambda _: NullListener(), say=lambda _: None,
    ).run()  # fmt: skip
    assert outcome.exit_code == 1 and outcome.counts == {"failed-before": 1, "reused": 2}
    assert [ending.config.run_id for ending in outcome.failed] == [failing.run_id]
