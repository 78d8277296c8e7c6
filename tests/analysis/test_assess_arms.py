"""What the figures about whole arms show, against scipy and by hand, from a results folder of seven arms."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from peftlab.analysis.arms import Arms
from peftlab.analysis.assess import assess
from peftlab.analysis.assess_arms import _by_seed, _over_seeds, _over_tasks, _resources
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import load_frame
from peftlab.analysis.ranking import critical_difference
from peftlab.report.bundle import bundles
from tests.report.fixtures import Options, write_results


def arms_of(folder: Path) -> tuple[Arms, Findings]:
    frame = load_frame(folder)
    findings = assess(frame)
    compared = bundles(frame, findings)[0].compared
    assert compared is not None
    return compared, findings


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arms, Findings]:
    return arms_of(write_results(tmp_path_factory.mktemp("arms")))


def test_resources_are_means_over_runs(found: tuple[Arms, Findings]) -> None:
    arms, findings = found
    row = next(r for r in arms.resources if r.arm == "lora[rank=8]")
    summary = next(a for a in findings.arms if a.label == "lora[rank=8]")
    assert row.train_s is not None and row.saved is not None
    assert row.train_s.mean == pytest.approx(summary.train_s) and row.train_s.n == 5
    assert 0.2 < row.saved.mean < 0.35  # 47.6 of 66 MB
    assert row.deployed_mb == 4 * 460_000 / 1e6
    assert next(r for r in arms.resources if r.arm == "full").saved is None


def test_effects_are_paired_t_tests_over_the_same_seeds(found: tuple[Arms, Findings]) -> None:
    arms, findings = found
    values = {a.label: np.array(a.values, dtype=float) for a in findings.arms}
    assert [(e.factor, e.level, e.reference) for e in arms.effects] == [
        ("rank", "8", "2"), ("rank", "32", "2"), ("targets", "all-linear", "standard"),
    ]  # fmt: skip
    for effect in arms.effects:
        theirs = ttest_rel(values[effect.arm], values[effect.against])
        assert effect.difference == pytest.approx(float(np.mean(values[effect.arm] - values[effect.against])))
        assert effect.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
        assert effect.p == pytest.approx(theirs.pvalue)
        assert effect.p_adjusted is not None and effect.p is not None and effect.p_adjusted >= effect.p


def test_steps_to_the_goal_by_hand(found: tuple[Arms, Findings]) -> None:
    """All ranks against one goal; a diverged run is in no curve, and counts as one that never arrived."""
    arms, _ = found
    assert [c.rank for c in arms.convergence] == [2, 8, 32] and len({c.goal for c in arms.convergence}) == 1
    assert [c.runs for c in arms.convergence] == [5, 5, 5] and arms.convergence[2].reached < 5
    assert all(c.steps is None or 17 <= c.steps.mean <= 85 for c in arms.convergence)
    assert all((c.steps is None) == (c.reached == 0) for c in arms.convergence)


def test_ranks_leave_out_what_lacks_seeds(tmp_path: Path) -> None:
    skip = tuple(("bitfit", seed) for seed in (0, 1, 2))
    arms, _ = arms_of(write_results(tmp_path, Options(skip=skip, failed=())))
    assert arms.ranking.left_out == ["bitfit"] and arms.ranking.blocks == 5 and len(arms.ranking.arms) == 6
    assert sum(arms.ranking.mean_ranks) == pytest.approx(21)
    assert arms.ranking.arms[int(np.argmax(arms.ranking.mean_ranks))] == "linear-probe"


def blocks(gaps: dict[str, float], missing: tuple[str, int] | None = None) -> pd.DataFrame:
    """[(seed, fold), arm]: seeds 0 to 3, each far above the one before, arms apart by little."""
    index = pd.MultiIndex.from_product([range(4), [0]], names=["seed", "fold"])
    table = pd.DataFrame({arm: 0.2 * np.arange(4) + gap for arm, gap in gaps.items()}, index=index)
    if missing:
        table.loc[(missing[1], 0), missing[0]] = np.nan
    return table


GAPS = {"a": 0.03, "b": 0.02, "c": 0.01}


def test_ranks_over_tasks_are_paired(found: tuple[Arms, Findings]) -> None:
    """The best arm lacks the easiest seed of every task: its plain mean would be the worst."""
    _, findings = found
    ranking = _over_tasks({(f"task {t}", "b"): blocks(GAPS, ("a", 3)) for t in range(6)}, findings)
    assert ranking.arms == ["a", "b", "c"] and ranking.mean_ranks == [1, 2, 3] and ranking.blocks == 6


def test_backbones_are_no_blocks(found: tuple[Arms, Findings]) -> None:
    """Of the first backbone the best is a, of the other by more c: averaged, c leads on every task."""
    _, findings = found
    turned = {"a": 0.01, "b": 0.02, "c": 0.09}
    tables = {(f"task {t}", b): blocks(gaps) for t in range(4) for b, gaps in (("nano", GAPS), ("pico", turned))}
    ranking = _over_tasks(tables, findings)
    assert ranking.blocks == 4 and ranking.over == "tasks" and ranking.mean_ranks == [2.5, 2.5, 1]
    one = _over_tasks({("task", f"backbone {b}"): blocks(GAPS) for b in range(6)}, findings)
    assert one.refused == "there are no two tasks"


def test_a_race_is_not_ranked(found: tuple[Arms, Findings]) -> None:
    _, findings = found
    raced = findings.model_copy(update={"plan": findings.plan.model_copy(update={"anytime": True})})
    tables = {(f"task {t}", "b"): blocks(GAPS) for t in range(6)}
    assert "race" in _over_tasks(tables, raced).refused and "race" in _over_seeds(tables["task 0", "b"], raced).refused


def test_ranks_have_the_level_of_the_study(found: tuple[Arms, Findings]) -> None:
    arms, findings = found
    lax = findings.model_copy(update={"plan": findings.plan.model_copy(update={"confidence": 0.8})})
    tables = {(f"task {t}", "b"): blocks(GAPS) for t in range(6)}
    ours, usual = _over_tasks(tables, lax), _over_tasks(tables, findings)
    assert (ours.alpha, usual.alpha, arms.ranking.alpha) == (0.2, 0.05, 0.05)
    assert ours.critical_difference == pytest.approx(critical_difference(3, 6, 0.2))
    assert usual.critical_difference == pytest.approx(critical_difference(3, 6))


def test_no_runs_are_no_blocks() -> None:
    empty = blocks(GAPS).iloc[:0]
    assert _by_seed(empty).empty


def test_folds_of_one_seed_are_one_block(tmp_path: Path) -> None:
    arms, _ = arms_of(write_results(tmp_path, Options(folds=3, failed=())))
    assert arms.ranking.blocks == 5
    assert all(p.runs == 5 for p in arms.profiles.profiles)


def test_validation_goes_with_test(found: tuple[Arms, Findings]) -> None:
    arms, _ = found
    scatter = next(s for s in arms.scatters if s.kind == "validation")
    assert len(scatter.x) == 7 * 5 - 2  # one failed, one diverged
    assert scatter.within is not None and scatter.within[0] > 0.999  # the fixture adds 0.002 to every one
    saved = next(r for r in arms.resources if r.arm == "linear-probe").saved
    assert saved is not None and saved.interval is not None
    assert saved.interval[0] < saved.mean < saved.interval[1]


def test_the_interval_of_memory_saved_covers_what_is_saved(found: tuple[Arms, Findings], tmp_path: Path) -> None:
    """600 studies of 5 seeds; the process, which is the machine's, is no part of the ratio."""
    generator, trials, hits, share = np.random.default_rng(1), 600, 0, 0.3
    frame: Any = types.SimpleNamespace(folder=tmp_path)
    arms: Any = [
        types.SimpleNamespace(label=label, baseline=label == "full", total=None, task="t", backbone="b")
        for label in "a full".split()
    ]
    rows = pd.DataFrame({"label": ["full"] * 5 + ["a"] * 5, "seed": [*range(5)] * 2, "fold": 0, "train_s": 1.0})
    rows["folder"] = rows["label"] + rows["seed"].astype(str)
    record: Any = types.SimpleNamespace(results=types.SimpleNamespace(memory={"measured": {"process": 600.0}}))
    records: Any = dict.fromkeys(rows["folder"], record)
    for _ in range(trials):
        base = 60 * np.exp(0.3 * generator.normal(size=5))
        mine = base * (1 - share + 0.1 * generator.normal(size=5))
        table = rows.assign(measured_peak_mb=600.0 + np.concatenate([base, mine]))
        saved = _resources(frame, found[1], table, arms, records)[0].saved
        assert saved is not None and saved.interval is not None
        hits += saved.interval[0] <= share <= saved.interval[1]
    assert hits / trials == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / trials))
