"""A race on records: rounds, resumption, what failed and diverged, folds, several tasks, and what the analysis makes of it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from peftlab.analysis.analyze import analyze
from peftlab.analysis.anytime import confidence_sequence, p_two_sided
from peftlab.analysis.best import best_arms
from peftlab.analysis.choose import choose
from peftlab.analysis.raced import race_words, read_race
from peftlab.api.standing import status
from peftlab.errors import StudyError
from peftlab.planning.plan import Plan
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.store import ResultsFolder
from peftlab.report.build import build_report
from peftlab.report.html.data import _front
from peftlab.study.load import dump, validate_study
from peftlab.study.schema import Study
from peftlab.tuning.racing import Heat, follow_race, save
from peftlab.tuning.search import follow
from tests.tuning import studies

SEEDS = list(range(12))
ARMS = {"full": {"adapter": "full"}, "lora": {"adapter": "lora"}, "probe": {"adapter": "linear-probe"}}
LEVEL = {"full": 0.9, "lora": 0.905, "probe": 0.6}


def study(backbone: str, **changes: Any) -> Study:
    asked = {"tune": None, "seeds": SEEDS, "arms": ARMS, "search": {"method": "racing"}, **changes}
    return studies.study(backbone, **asked)


def accuracy(config: RunConfig) -> float | None:
    noise = np.random.default_rng([config.seed, *config.label.encode()]).normal(0, 0.01)
    return float(LEVEL[config.label] + noise)


def finish(folder: ResultsFolder, config: RunConfig, value: float | None) -> None:
    folder.run(config).create(config).finish(
        RunResults(
            run_id=config.run_id, status="completed" if value is not None else "diverged",
            metrics={"test": {"accuracy": value}, "validation": {"accuracy": 0.5}} if value is not None else {},
            higher_is_better={"accuracy": True}, chance={"accuracy": 0.1}, steps=2, epochs=1.0, splits={"test": 400},
            parameters={"trainable": 10, "total": 100}, memory={}, time={"train_s": 2.0},
        )
    )  # fmt: skip


class Raced:
    """A study whose runs end as a formula says."""

    def __init__(self, asked: Study, path: Path, cache: Path) -> None:
        self.study, self.folder = asked, ResultsFolder(path / asked.study)
        self.folder.open_or_create(dump(asked))
        self.planner = studies.planner(asked, cache)
        self.made = 0

    def plan(self) -> Plan:
        return follow(self.folder, self.study, self.planner).plan

    def heats(self) -> list[Heat]:
        return follow_race(self.folder, self.study, self.plan())

    def run(self, value: Callable[[RunConfig], float | None] = accuracy, most: int = 10_000) -> list[Heat]:
        """Round by round, at most so many runs."""
        while True:
            heats = self.heats()
            save(self.folder, self.study, heats)
            due = [config for heat in heats for config in heat.due]
            if not due or most <= 0:
                return heats
            for config in due[:most]:
                finish(self.folder, config, value(config))
                self.made += 1
            most -= len(due)


def without_order(heats: list[Heat]) -> list[Any]:
    return [dataclasses.replace(heat.race, due=()) for heat in heats]


def test_a_bad_arm_leaves_and_its_other_runs_are_spared(backbone: str, cache: Path, tmp_path: Path) -> None:
    raced = Raced(study(backbone), tmp_path, cache)
    (heat,) = raced.run()
    (left,) = heat.race.left
    assert left.label == "probe" and left.against in ("full", "lora") and left.seeds < 8
    assert raced.made == 24 + left.seeds == len(heat.needed) and heat.planned == 36
    written = json.loads((raced.folder.path / "racing.json").read_text())
    assert written["heats"][0]["runs"] == {"planned": 36, "needed": raced.made}
    assert written["heats"][0]["left"][0]["e_value"] == left.e_value
    said = race_words(read_race(raced.folder.path))
    assert said[0] == f"Race: {raced.made} of 36 planned runs were needed."
    assert f"probe left after {left.seeds} of 12 seeds: worse than {left.against}" in said[1]


def test_interrupted_anywhere_it_goes_on_as_if_nothing_had_happened(backbone: str, cache: Path, tmp_path: Path) -> None:
    whole = Raced(study(backbone), tmp_path / "whole", cache)
    expected = without_order(whole.run())
    for most in (1, 4, 10, 14):
        cut = Raced(study(backbone), tmp_path / f"cut{most}", cache)
        cut.run(most=most)
        if most == 10:
            (cut.folder.path / "racing.json").write_text("{ half")
        assert without_order(cut.run()) == expected and cut.made == whole.made


def test_a_failed_run_gives_no_pair_and_holds_nobody_up(backbone: str, cache: Path, tmp_path: Path) -> None:
    raced = Raced(study(backbone), tmp_path, cache)
    for config in (config for heat in raced.heats() for config in heat.due):
        if config.label == "probe" and config.seed == 1:
            studies.fail(raced.folder, config)
    (heat,) = raced.run()
    (left,) = heat.race.left
    assert left.label == "probe" and left.n == left.seeds - 1


@pytest.mark.parametrize("file", ["results.json", "error.json"])
def test_a_damaged_record_counts_as_failed_and_stops_no_race(backbone: str, cache: Path, tmp_path: Path, file: str) -> None:
    raced = Raced(study(backbone), tmp_path, cache)
    for config in (config for heat in raced.heats() for config in heat.due):
        if config.label == "probe" and config.seed == 1:
            (raced.folder.run(config).create(config).path / file).write_text("{ half")
    (heat,) = raced.run()
    (left,) = heat.race.left
    assert left.label == "probe" and left.n == left.seeds - 1


def test_a_drop_stands_where_a_failed_run_is_tried_again(backbone: str, cache: Path, tmp_path: Path) -> None:
    raced = Raced(study(backbone), tmp_path, cache)
    failed = next(c for heat in raced.heats() for c in heat.due if c.label == "probe" and c.seed == 1)
    studies.fail(raced.folder, failed)
    before = raced.run()[0].race.left
    run = raced.folder.run(failed)
    (run.path / "error.json").unlink()
    finish(raced.folder, failed, 1.0)  # so good that without the file nobody would leave so early
    assert raced.heats()[0].race.left == before
    (raced.folder.path / "racing.json").unlink()
    assert raced.heats()[0].race.left != before


@pytest.mark.parametrize(
    "changes", [{"seeds": [*range(100, 112)]}, {"train": {"max_steps": 3, "batch_size": 16}}, {"analysis": {"metric": "loss"}}]
)
def test_a_decision_stands_for_the_runs_that_it_was_made_by(
    backbone: str, cache: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    raced = Raced(study(backbone, analysis={}), tmp_path, cache)
    assert raced.run()[0].race.left
    raced.study = study(backbone, **{"analysis": {}, **changes})
    raced.planner = studies.planner(raced.study, cache)
    (heat,) = raced.heats()
    assert not heat.race.left and heat.race.running == ("full", "lora", "probe")


def test_more_seeds_leave_what_was_shown_and_ask_again_what_was_open(backbone: str, cache: Path, tmp_path: Path) -> None:
    asked = {"analysis": {"baseline": "full"}, "search": {"method": "racing", "futility": 0.5}}
    raced = Raced(study(backbone, **asked), tmp_path, cache)
    before = {left.label: left for left in raced.run()[0].race.left}
    assert {label: left.why for label, left in before.items()} == {"lora": "open", "probe": "worse"}
    raced.study = study(backbone, **asked, seeds=[*SEEDS, *range(12, 40)])
    raced.planner = studies.planner(raced.study, cache)
    probe = before["probe"]
    for config in (c for label in ("full", "probe") for seed in SEEDS for c in raced.heats()[0].configs[label, seed]):
        if config.seed == 0 and config.label == "probe":  # as if tried again: by these values it would stay longer
            (raced.folder.run(config).path / "results.json").unlink()
            finish(raced.folder, config, 1.0)
    left = {one.label: one for one in raced.heats()[0].race.left}
    assert left.get("probe", probe) == probe
    assert "lora" not in left or left["lora"] != before["lora"]


def test_another_rule_decides_anew(backbone: str, cache: Path, tmp_path: Path) -> None:
    Raced(study(backbone), tmp_path, cache).run()
    kept = Raced(study(backbone, search={"method": "racing", "keep": ["probe"]}), tmp_path, cache)
    (heat,) = kept.run()
    assert heat.race.left == () and len(heat.needed) == 36


def test_a_run_that_diverges_counts_at_chance(backbone: str, cache: Path, tmp_path: Path) -> None:
    def broken(config: RunConfig) -> float | None:
        return None if config.label == "probe" else accuracy(config)

    raced = Raced(study(backbone), tmp_path, cache)
    (left,) = raced.run(broken)[0].race.left
    assert left.label == "probe" and left.difference == pytest.approx(0.1 - LEVEL[left.against], abs=0.02)


def test_identical_arms_stay_to_the_end(backbone: str, cache: Path, tmp_path: Path) -> None:
    raced = Raced(study(backbone), tmp_path, cache)
    (heat,) = raced.run(lambda config: 0.9)
    assert heat.race.left == () and heat.race.over and raced.made == 36


def test_every_task_has_its_own_race(backbone: str, cache: Path, tmp_path: Path) -> None:
    sizes = [{"kind": "image-classification", "data": "digits", "train_size": n, "validation_size": 40, "test_size": 40}
             for n in (64, 96)]  # fmt: skip

    def depends(config: RunConfig) -> float | None:
        reached = accuracy(config)
        assert reached is not None
        return reached - 0.35 if config.label == "full" and config.task["train_size"] == 96 else reached

    raced = Raced(study(backbone, matrix={"task": sizes}, analysis={}), tmp_path, cache)
    heats = raced.run(depends)
    assert [{left.label for left in heat.race.left} for heat in heats] == [{"probe"}, {"probe", "full"}]
    assert all(heat.rule.level == pytest.approx(0.025) and heat.rule.family == 6 for heat in heats)


def test_folds_of_a_seed_are_one_value(backbone: str, cache: Path, tmp_path: Path) -> None:
    task = {"kind": "image-classification", "data": "digits", "train_size": None, "folds": 2}
    raced = Raced(study(backbone, task=task), tmp_path, cache)
    (heat,) = raced.run()
    assert heat.planned == 72 and raced.made == 2 * (24 + heat.race.left[0].seeds)
    assert heat.race.left[0].n == heat.race.left[0].seeds


def test_an_arm_races_once_it_is_tuned_in_every_fold(backbone: str, cache: Path, tmp_path: Path) -> None:
    """Until then a seed's value would be that of some of its folds, beside those of all of another arm."""
    task = {"kind": "image-classification", "data": "digits", "train_size": None, "folds": 2}
    raced = Raced(study(backbone, task=task), tmp_path, cache)
    plan = raced.plan()
    waits = [dataclasses.replace(r, config=None) if (r.label, r.fold) == ("lora", 1) else r for r in plan.runs]
    (whole,), (part,) = (
        follow_race(raced.folder, raced.study, dataclasses.replace(plan, runs=tuple(runs))) for runs in (plan.runs, waits)
    )
    assert {*whole.labels} == {*part.labels, "lora"} and "lora" not in part.labels


def test_the_plan_says_the_rule_the_worst_case_and_what_can_be_saved(backbone: str, cache: Path, tmp_path: Path) -> None:
    plan = Raced(study(backbone), tmp_path / "a", cache).plan()
    (rule,) = [note for note in plan.notes if note.startswith("racing")]
    assert "at most 36 runs" in rule and "Holm over 6 hypotheses at 0.05" in rule and "always in it: full" in rule
    assert "worse than another arm still in the race" in rule and len(plan.runs) == 36
    assert not [warning for warning in plan.warnings if "racing" in warning]
    few = Raced(study(backbone, seeds=[0, 1, 2, 3, 4]), tmp_path / "b", cache).plan()
    (warning,) = [warning for warning in few.warnings if "racing" in warning]
    assert "two paired seeds of even a 10-SD gap give p = 0.045" in warning and "at best 12 of 15 runs" in warning


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seeds": [0]}, "nothing is spared"),
        ({"seeds": [0, 1, 2]}, "nothing is spared"),
        ({"search": {"method": "racing", "minimum": 1}}, "2 or more"),
        ({"search": {"method": "race"}}, "'racing'"),
        ({"search": {"method": "successive-halving"}}, r"write tune: \{sampler: halving, \.\.\.\} for it"),
        ({"search": {"method": "racing", "kep": ["full"]}}, "unknown key 'kep'"),
        ({"search": {"method": "racing", "margin": {"relativ": 0.1}}}, "unknown key 'relativ'"),
        ({"search": {"method": "racing", "goal": "margin", "margin": {"relative": 0.1}}}, "leave search.margin out"),
        ({"search": {"method": "racing", "goal": "margin"}, "analysis": {}}, "name one in analysis.baseline"),
        ({"search": {}}, "'search.method' is missing"),
    ],
)
def test_refused_when_read(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(StudyError, match=what):
        study("bundled:vit-nano", **changes)


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"arms": {"full": {"adapter": "full"}}}, "search", "no race of one arm"),
        ({"search": {"method": "racing", "keep": ["probes"]}}, "search.keep", "no arm 'probes'"),
        ({"analysis": {"baseline": "ful"}}, "analysis.baseline", "no arm 'ful'"),
    ],
)
def test_refused_when_planned(backbone: str, cache: Path, tmp_path: Path, changes: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(StudyError, match=what) as caught:
        Raced(study(backbone, **changes), tmp_path, cache).plan()
    assert caught.value.where == where and caught.value.remedy


def test_findings_of_a_race_hold_at_any_number_of_seeds(backbone: str, cache: Path, tmp_path: Path) -> None:
    raced = Raced(study(backbone), tmp_path, cache)
    (heat,) = raced.run()
    found = analyze(raced.folder.path)
    assert found.plan.anytime and "anytime-valid" in found.plan.difference_test and "confidence sequences" in found.plan.intervals
    assert not [problem for problem in found.problems if problem["kind"] == "missing"], "what the race spared is not missing"
    seeds = heat.race.left[0].seeds
    probe = next(arm for arm in found.arms if arm.label == "probe")
    values = {label: np.array([LEVEL[label] + np.random.default_rng([s, *label.encode()]).normal(0, 0.01) for s in SEEDS])
              for label in LEVEL}  # fmt: skip
    assert probe.n == seeds and probe.flags[0].startswith(f"left the race after {seeds} of 12 seeds (worse than")
    expected = confidence_sequence(values["probe"][:seeds], resolution=0.5 / 400)
    assert probe.interval == pytest.approx((expected.low, expected.high))
    gap = (values["probe"] - values["full"])[:seeds]
    (difference,) = found.of("difference", "probe")
    assert difference.p == pytest.approx(p_two_sided(gap, resolution=0.5 / 400)) and difference.p_sign_flip is None
    assert difference.verdict == "worse" and "anytime-valid p" in difference.sentence and difference.n == seeds
    assert not found.of("power") and any("The arms were raced" in note for note in found.notes)
    assert any(line.startswith("Race: ") for line in found.verdict)
    assert not any(re.search(r"adjusted p\b", line) for line in (*found.verdict, choose(raced.folder.path).sentence))
    assert any("adjusted anytime-valid p" in line for line in found.verdict)
    assert not any("fewer than" in warning for warning in found.warnings)


def test_an_arm_that_left_on_easy_seeds_is_not_the_best(backbone: str, cache: Path, tmp_path: Path) -> None:
    def easy_at_first(config: RunConfig) -> float:
        noise = np.random.default_rng([config.seed, *config.label.encode()]).normal(0, 0.01)
        return {"full": 0.6, "lora": 0.605, "probe": 0.5}[config.label] + (0.2 if config.seed < 8 else -0.2) + noise

    raced = Raced(study(backbone, analysis={}), tmp_path, cache)
    (left,) = raced.run(easy_at_first)[0].race.left
    found = analyze(raced.folder.path)
    arms = {arm.label: arm for arm in found.arms}
    means = {label: arm.mean or 0.0 for label, arm in arms.items()}
    assert left.label == "probe" == max(means, key=means.__getitem__) and arms["probe"].left_early
    marks = best_arms(found, arms["probe"].task, arms["probe"].backbone)
    assert marks.best == (max(("full", "lora"), key=means.__getitem__),) and "probe" not in marks.not_shown_worse
    assert f"({marks.best[0]})" in found.verdict[0] and "no comparison was declared" not in found.verdict[0]
    assert any("biased by the stopping" in note for note in found.notes)
    page_front = _front([arms[label] for label in LEVEL], "trainable", True)
    assert list(LEVEL).index("probe") not in page_front


@pytest.mark.parametrize("goal", ["best", "margin"])
def test_a_race_for_the_best_arm_declares_its_pairs(backbone: str, cache: Path, tmp_path: Path, goal: str) -> None:
    raced = Raced(study(backbone, search={"method": "racing", "goal": goal}), tmp_path, cache)
    raced.run()
    plan = analyze(raced.folder.path).plan
    assert plan.pairs_declared == (goal == "best") == ("not declared" not in plan.exploratory)
    page = build_report(raced.folder.path).read_text()
    assert ('"pairs_declared":true' in page) == (goal == "best") == ("only the exploratory pairs were not" not in page)
    assert '"test":"anytime-valid paired t test"' in page and "p, paired t test" not in page


def test_the_report_and_the_status_say_who_left(backbone: str, cache: Path, tmp_path: Path) -> None:
    raced = Raced(study(backbone), tmp_path, cache)
    (left,) = raced.run()[0].race.left
    page = build_report(raced.folder.path).read_text()
    assert f"left the race after {left.seeds} of 12 seeds (worse than {left.against})" in page
    assert "anytime-valid" in page and "Race: " in page
    table = (raced.folder.path / "report" / "tables" / "results.csv").read_text()
    assert f"left the race after {left.seeds} of 12 seeds" in table
    shown = status(raced.folder.path)
    assert shown.as_dict()["racing"] == race_words(read_race(raced.folder.path)) and len(shown.as_dict()["racing"]) == 2


@pytest.mark.parametrize("goal", ["best", "margin"])
def test_a_replay_on_the_full_matrix_is_the_race(
    backbone: str, cache: Path, tmp_path: Path, goal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """benchmarks/racing.py says of a full matrix what the race does run by run."""
    live = Raced(study(backbone, search={"method": "racing", "goal": goal}), tmp_path / "live", cache)
    (heat,) = live.run()
    whole = Raced(study(backbone, search=None), tmp_path / "whole", cache)
    for planned in whole.plan().runs:
        assert planned.config is not None
        finish(whole.folder, planned.config, accuracy(planned.config))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    found = importlib.import_module("racing").replayed(whole.folder.path, goal, 3)
    assert found["runs"] == {"all": 36, "race": live.made, "share": round(live.made / 36, 3)}
    assert found["left"] == {x.label: f"{x.why} {x.against} after {x.seeds}" for x in heat.race.left}
    assert all(kind["contradicted"] == [] for kind in found["verdicts"].values())


@pytest.mark.slow
def test_a_race_of_real_runs_killed_and_run_again_ends_the_same(backbone: str, cache: Path, tmp_path: Path) -> None:
    asked = study(backbone, seeds=[0, 1, 2, 3, 4, 5], train={"max_steps": 2, "batch_size": 16})
    file = tmp_path / "raced.yaml"
    file.write_text(dump(asked))

    def start(output: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "peftlab", "run", str(file), "--output", str(tmp_path / output), "--jobs", "2"]
        environment = {**os.environ, "PEFTLAB_CACHE": str(cache)}
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    whole = start("whole")
    assert whole.communicate() and whole.returncode == 0
    cut = start("cut")
    while len(list(tmp_path.glob("cut/tuned/runs/*/*/results.json"))) < 10:  # in the second round
        assert cut.poll() is None, cut.communicate()[1]
        time.sleep(0.02)
    family = psutil.Process(cut.pid).children(recursive=True)
    cut.kill()
    for child in family:
        if child.is_running():
            child.kill()
    cut.communicate()
    last = start("cut")
    assert last.communicate() and last.returncode == 0
    written = [json.loads((tmp_path / name / "tuned" / "racing.json").read_text()) for name in ("whole", "cut")]
    assert written[0] == written[1] and written[0]["heats"][0]["over"]
    assert written[0]["heats"][0]["runs"]["needed"] == len(list(tmp_path.glob("cut/tuned/runs/*/*/results.json")))


def test_the_same_records_without_a_race_are_analysed_as_ever(backbone: str, cache: Path, tmp_path: Path) -> None:
    asked = study(backbone, search=None)
    raced = Raced(asked, tmp_path, cache)
    for planned in raced.plan().runs:
        assert planned.config is not None
        finish(raced.folder, planned.config, accuracy(planned.config))
    found = analyze(raced.folder.path)
    assert not found.plan.anytime and found.of("power") and "sign-flip" in found.plan.difference_test


def test_search_is_no_part_of_what_defines_a_run(backbone: str, cache: Path, tmp_path: Path) -> None:
    ids = [
        {run.config.run_id for run in Raced(asked, tmp_path / str(i), cache).plan().runs if run.config}
        for i, asked in enumerate((study(backbone), study(backbone, search=None)))
    ]
    assert ids[0] == ids[1]
    assert validate_study(study(backbone).model_dump(mode="json", exclude_none=True)).search is not None
