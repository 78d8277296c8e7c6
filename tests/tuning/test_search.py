"""Trials follow from the records: as many for every arm, and the same however the work was cut up."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.tuned import chosen_sentences, not_given
from peftlab.errors import RecordError
from peftlab.planning.plan import Plan
from peftlab.planning.planner import Planner
from peftlab.planning.search import Key, Values
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Study
from peftlab.tuning import choice
from peftlab.tuning.search import Progress, follow
from peftlab.tuning.store import Store
from tests.tuning import studies
from tests.tuning.studies import accuracy, fail, finish, outstanding


def to_the_end(folder: ResultsFolder, study: Study, planner: Planner) -> Progress:
    progress = follow(folder, study, planner)
    while left := outstanding(folder, progress.plan):
        for config in left:
            finish(folder, config)
        progress = follow(folder, study, planner)
    return progress


def trials(plan: Plan) -> dict[Key, list[Values]]:
    """Values of the trials of each arm, in order."""
    found: dict[Key, dict[int, Values]] = {}
    for run in plan.tuning:
        assert run.config is not None and run.trial is not None
        found.setdefault(run.key, {})[run.trial] = run.config.tuned
    return {key: [values[number] for number in range(len(values))] for key, values in found.items()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, study: Study, planner: Planner) -> Progress:
    return to_the_end(ResultsFolder(tmp_path_factory.mktemp("reference")), study, planner)


def test_every_arm_gets_as_many_trials_over_what_it_has(reference: Progress) -> None:
    by_arm = {key[0]: values for key, values in trials(reference.plan).items()}
    assert {label: len(values) for label, values in by_arm.items()} == {"full": 12, "lora": 12}
    assert all(values.keys() == {"learning_rate"} for values in by_arm["full"])
    assert all(values.keys() == {"learning_rate", "adapter.rank"} for values in by_arm["lora"])
    rates = {label: [values["learning_rate"] for values in found] for label, found in by_arm.items()}
    assert rates["full"][:6] == rates["lora"][:6] and rates["full"][6:] != rates["lora"][6:]
    for run in reference.plan.tuning:
        assert run.config is not None and run.config.purpose == "tuning" and not run.config.evaluate_test
        assert run.config.train["learning_rate"] == run.config.tuned["learning_rate"]
        assert run.label == "full" or run.config.adapter["rank"] == run.config.tuned["adapter.rank"]


def test_what_was_chosen_is_the_best_mean_and_every_evaluation_run_has_it(reference: Progress) -> None:
    for chosen in reference.chosen:
        runs = [run.config for run in reference.plan.tuning if run.label == chosen.label and run.config]
        means = {str(config.tuned): accuracy(config.model_copy(update={"seed": 100})) + 0.0005 for config in runs}
        assert chosen.mean == pytest.approx(max(means.values())) and means[str(chosen.values)] == max(means.values())
        assert (chosen.trials, chosen.runs, chosen.lost, chosen.time_s) == (12, 24, 0, 60.0)
        (evaluation,) = [run.config for run in reference.plan.runs if run.label == chosen.label]
        assert evaluation is not None and evaluation.tuned == chosen.values and evaluation.purpose == "evaluation"
    assert {chosen.label: chosen.lacks for chosen in reference.chosen} == {"full": ("adapter.rank",), "lora": ()}


@pytest.mark.parametrize("seed", range(4))
def test_however_the_work_is_cut_up_the_trials_are_the_same(
    seed: int, reference: Progress, study: Study, planner: Planner, tmp_path: Path
) -> None:
    """Runs end in any order, some or all of a round; the store is written, forgotten, or lost in between."""
    folder, draws = ResultsFolder(tmp_path), random.Random(seed)
    progress = follow(folder, study, planner)
    while left := outstanding(folder, progress.plan):
        for config in draws.sample(left, draws.randint(1, len(left))):
            finish(folder, config)
        what = draws.choice(["write", "nothing", "lose"])
        if what == "write":
            Store(folder.path, study, True).write(progress.entries())
        elif what == "lose":
            (tmp_path / "tuning" / "optuna.db").unlink(missing_ok=True)
        progress = follow(folder, study, planner)
    assert trials(progress.plan) == trials(reference.plan)
    assert [(c.key, c.values, c.mean) for c in progress.chosen] == [(c.key, c.values, c.mean) for c in reference.chosen]


def test_looking_writes_nothing_and_later_rounds_wait(study: Study, planner: Planner, tmp_path: Path) -> None:
    plan = follow(ResultsFolder(tmp_path / "none"), study, planner).plan
    assert not (tmp_path / "none").exists()
    assert len(plan.tuning) == 2 * 12 * 2, "all trials are in the plan"
    assert {run.trial for run in plan.tuning if run.config} == set(range(6)), "those of the first round are drawn"
    assert plan.pending and not plan.refusals


def test_an_arm_that_waits_does_not_hold_up_the_others(study: Study, planner: Planner, tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    progress = follow(folder, study, planner)
    while left := [config for config in outstanding(folder, progress.plan) if config.label == "full"]:
        for config in left:
            finish(folder, config)
        progress = follow(folder, study, planner)
    assert [chosen.label for chosen in progress.chosen] == ["full"]
    assert {run.label: run.config is not None for run in progress.plan.runs} == {"full": True, "lora": False}
    content = choice.save(folder, study, progress.plan.searches, progress.found, progress.chosen)
    assert "lora: nothing was chosen." in not_given(content)


def test_what_an_arm_did_not_get_is_said(backbone: str, cache: Path, tmp_path: Path) -> None:
    tune = {**studies.TUNE, "sampler": "random", "trials": 9, "seeds": [100], "learning_rate": [1e-4, 1e-3, 1e-2]}
    study = studies.study(backbone, tune=tune)
    planner, folder = studies.planner(study, cache), ResultsFolder(tmp_path)
    left = outstanding(folder, follow(folder, study, planner).plan)
    odd = [config for config in left if config.label == "lora" and config.train["learning_rate"] == 1e-3]
    for config in left:
        if config == odd[0]:
            fail(folder, config)
        else:
            finish(folder, config, lambda c: None if c.label == "lora" and c.train["learning_rate"] < 1e-3 else accuracy(c))
    progress = follow(folder, study, planner)
    content = choice.save(folder, study, progress.plan.searches, progress.found, progress.chosen)
    said = "\n".join(not_given(content))
    assert "full: has no adapter.rank; its trials were over learning_rate." in said
    assert "full: 3 of its 9 trials were of different values, the others repeated them." in said
    assert f"learning_rate = 0.001, adapter.rank = {odd[0].adapter['rank']} gave a value in 0 of 1 runs (failed)." in said
    assert "gave a value in 0 of 1 runs (diverged)." in said
    assert "the best learning_rate is at the edge" in said  # of lora: 1e-2
    assert "The same number of trials is not the same time: full 7.5 s, lora" in said
    told = "\n".join(chosen_sentences(content))
    assert "tuning, full: learning_rate = 0.001 (mean accuracy 90.00 % on validation data; 9 trials on 1 seed, 7.5 s" in told
    notes = "\n".join(progress.plan.notes)
    assert "tuning (random): 9 trials for every arm, over learning_rate 0.0001, 0.001 or 0.01, adapter.rank 1 to 8" in notes
    assert "full has no adapter.rank: its 9 trials are over learning_rate" in notes


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "halving"])
def test_every_fold_has_trials_and_a_choice_of_its_own(sampler: str, backbone: str, cache: Path, tmp_path: Path) -> None:
    """Another value is best in each fold, as though the arm met other data there."""
    rates = [1e-4, 1e-3, 1e-2, 1e-1]
    tune = {"sampler": sampler, "learning_rate": rates, "seeds": [100]} | (
        {} if sampler in ("grid", "halving") else {"trials": 24}
    )
    folded = {
        "kind": "image-classification",
        "data": "digits",
        "folds": 3,
        "train_size": 64,
        "validation_size": 40,
        "test_size": 40,
    }
    arms = {"lora": {"adapter": "lora"}}
    study = studies.study(backbone, tune=tune, task=folded, arms=arms, train={"epochs": 3, "batch_size": 16})
    folder, planner = ResultsFolder(tmp_path), studies.planner(study, cache)
    best = dict(zip(range(3), rates, strict=False))
    progress = follow(folder, study, planner)
    while left := outstanding(folder, progress.plan):
        for config in left:
            finish(folder, config, lambda c: 0.9 if c.train["learning_rate"] == best[c.fold] else 0.5)
        progress = follow(folder, study, planner)
    assert {one.fold: one.values["learning_rate"] for one in progress.chosen} == best
    evaluated = [run.config for run in progress.plan.runs if run.config]
    assert [(config.fold, config.train["learning_rate"]) for config in evaluated] == [*best.items()]
    content = choice.save(folder, study, progress.plan.searches, progress.found, progress.chosen)
    assert [entry.get("fold") for entry in content["chosen"]] == [None, 1, 2] == [entry.get("fold") for entry in content["arms"]]
    told = chosen_sentences(content)
    assert [text.partition(" (")[0] for text in told] == [
        f"tuning, lora, fold {fold}: learning_rate = {rate:.4g}" for fold, rate in best.items()
    ]
    edge = "lora (fold 0): the best learning_rate is at the edge of what was searched; a better one may lie outside."
    assert edge in not_given(content)
    if sampler == "tpe":
        Store(folder.path, study, True).write(progress.entries())
        again = follow(folder, study, planner)
        assert [one.values for one in again.chosen] == [one.values for one in progress.chosen]


def test_a_grid_needs_no_optuna(backbone: str, cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    tune = {"learning_rate": [1e-4, 1e-3], "weight_decay": [0.0, 0.1], "seeds": [100]}
    study = studies.study(backbone, tune=tune)
    progress = to_the_end(ResultsFolder(tmp_path), study, studies.planner(study, cache))
    combinations = [(1e-4, 0.0), (1e-4, 0.1), (1e-3, 0.0), (1e-3, 0.1)]
    for values in trials(progress.plan).values():
        assert [tuple(found.values()) for found in values] == combinations
    assert [chosen.trials for chosen in progress.chosen] == [4, 4]


def test_an_arm_all_of_whose_runs_failed_can_be_tried_again(backbone: str, cache: Path, tmp_path: Path) -> None:
    """Else nobody could: the study would be refused before ``--retry-failed`` is looked at."""
    study = studies.study(backbone, tune={"learning_rate": [1e-3, 1e-2], "seeds": [100]})
    planner, folder = studies.planner(study, cache), ResultsFolder(tmp_path)
    for config in outstanding(folder, follow(folder, study, planner).plan):
        (fail if config.label == "full" else finish)(folder, config)
    progress = follow(folder, study, planner)
    assert [one.label for one in progress.chosen] == ["lora"] and progress.plan.pending
    with pytest.raises(RecordError, match=r"no tuning run of full on .* ended with a value"):
        follow(folder, study, planner, tried=True)
    for config in choice.configs(progress.plan):
        if config.label == "full":
            finish(folder, config)
    assert [one.label for one in follow(folder, study, planner, tried=True).chosen] == ["full", "lora"]


@pytest.mark.parametrize("file", ["results.json", "error.json"])
def test_a_damaged_record_counts_as_failed_and_stops_no_study(backbone: str, cache: Path, tmp_path: Path, file: str) -> None:
    study = studies.study(backbone, tune={"learning_rate": [1e-3, 1e-2], "seeds": [100]})
    planner, folder = studies.planner(study, cache), ResultsFolder(tmp_path)
    configs = outstanding(folder, follow(folder, study, planner).plan)
    for config in configs[1:]:
        finish(folder, config)
    (folder.run(configs[0]).create(configs[0]).path / file).write_text("{ half")
    progress = follow(folder, study, planner, tried=True)
    assert [run.status for run in progress.found if run.run_id == configs[0].run_id] == ["failed"]
    assert [one.label for one in progress.chosen] == ["full", "lora"] and not progress.plan.pending
    content = choice.save(folder, study, progress.plan.searches, progress.found, progress.chosen)
    assert "gave a value in 0 of 1 runs (failed)." in "\n".join(not_given(content))
