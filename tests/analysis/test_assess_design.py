"""Findings of several tasks, several factors and single test examples, from folders of records."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from peftlab.analysis.assess import assess
from peftlab.analysis.assess_design import _over_tasks
from peftlab.analysis.crossed import crossed_mean
from peftlab.analysis.design import design
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import load_frame
from peftlab.records.record import RunConfig
from tests.report.fixtures import STUDY, Options, write_results

ARMS: dict[str, Any] = {
    "full": {"adapter": "full", "learning_rate": 3e-4},
    "lora": {"adapter": {"name": "lora", "rank": [2, 4, 8], "targets": ["standard", "all-linear"]}},
}
LEVELS = {"full": (0.97, 0.003, 450_000, 66.0, 11.0)} | {
    f"lora[rank={rank},targets={targets}]": (0.90 + 0.01 * step + bonus, 0.003, 1000 * rank, 40.0, 8.0)
    for step, rank in enumerate((2, 4, 8))
    for targets, bonus in (("standard", 0.0), ("all-linear", 0.02))
}


def study(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(STUDY), "arms": ARMS, "tune": None, **changes}


def folder(root: Path, raw: dict[str, Any], **options: Any) -> Path:
    raw = {key: value for key, value in raw.items() if value is not None}
    return write_results(root, Options(study=raw, levels=LEVELS, failed=(), diverged=(), flags={}, **options))


@pytest.fixture(scope="module")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return assess(load_frame(folder(tmp_path_factory.mktemp("factors"), study())))


def test_rank_and_targets_and_how_they_depend_on_each_other(factors: Findings) -> None:
    effects, (interaction,) = factors.of("effect"), factors.of("interaction")
    by_factor = {f.details["contrasts"][0]["factor"]: f for f in effects}
    assert set(by_factor) == {"adapter.rank", "adapter.targets"}
    rank, targets = by_factor["adapter.rank"], by_factor["adapter.targets"]
    assert rank.estimate == pytest.approx(0.01, abs=0.002) and rank.verdict == "better" and rank.details["contexts"] == 2
    assert targets.estimate == pytest.approx(0.02, abs=0.003) and targets.details["contexts"] == 3
    assert interaction.interval is not None and interaction.interval[0] < 0.0 < interaction.interval[1]
    assert interaction.verdict == "no interaction shown" and "not evidence that it does not" in interaction.sentence
    assert rank.p is not None and rank.p_adjusted is not None and rank.p_adjusted >= rank.p
    assert "rank (per doubling): +" in rank.sentence and "averaged over 2 combinations" in rank.sentence
    assert any("Holm over all effects" in line for line in factors.plan.further)


def test_what_differs_in_two_things_is_no_factor(tmp_path: Path) -> None:
    arms = {
        "full": ARMS["full"],
        "a": {"adapter": {"name": "lora", "rank": 2}},
        "b": {"adapter": {"name": "lora", "rank": 8}, "epochs": 9},
    }
    levels = dict.fromkeys(arms, LEVELS["full"])
    raw = {key: value for key, value in study(arms=arms).items() if value is not None}
    found = assess(load_frame(write_results(tmp_path, Options(study=raw, levels=levels, failed=(), diverged=(), flags={}))))
    assert found.of("effect") == found.of("interaction") == [] and found.plan.further == []


def matrix(tasks: int, seeds: int) -> dict[str, Any]:
    sizes = [{"kind": "image-classification", "data": "digits", "image_size": 32 + 8 * i} for i in range(tasks)]
    return study(matrix={"task": sizes}, seeds=list(range(seeds)), arms={"full": ARMS["full"], "lora": {"adapter": "lora"}})


def over(root: Path, tasks: int, seeds: int, backbones: tuple[str, ...] = ()) -> Findings:
    raw = {key: value for key, value in matrix(tasks, seeds).items() if value is not None}
    if backbones:
        raw["matrix"]["backbone"] = list(backbones)
    levels = {"full": LEVELS["full"], "lora": (0.955, 0.003, 9000, 40.0, 8.0)}
    return assess(load_frame(write_results(root, Options(study=raw, levels=levels, failed=(), diverged=(), flags={}))))


def test_over_tasks_and_for_new_ones(tmp_path: Path) -> None:
    found = over(tmp_path, 6, 3)
    (fixed,), (new,), (share,) = found.of("over_tasks"), found.of("new_tasks"), found.of("improvement")
    by_arm = {a.label: [] for a in found.arms}
    for arm in found.arms:
        by_arm[arm.label].append(arm.values)
    expected = np.mean(np.array(by_arm["lora"], dtype=float) - np.array(by_arm["full"], dtype=float))
    assert fixed.estimate == pytest.approx(expected) and new.estimate == pytest.approx(expected)
    assert fixed.n == 3 and new.n == 6 and fixed.p_sign_flip == 2 / 2**3  # three draws, whatever the number of tasks
    assert new.details["p_signed_rank"] == pytest.approx(2 / 2**6) and new.details["seeds"] == 3
    assert share.estimate is not None and 0 <= share.estimate < 0.2
    assert {f.arms[0] for f in found.of("interquartile_mean")} == {"full", "lora"}
    assert "of which 6 are a sample" in new.sentence and "too narrow with few seeds" in share.sentence
    assert "these 6 tasks:" in fixed.sentence and "no smaller one is possible than 0.25" in fixed.sentence
    assert "on a task drawn from these 6 (" in share.sentence


def test_two_tasks_and_one_seed_say_what_cannot_be_tested(tmp_path: Path) -> None:
    found = over(tmp_path, 2, 1)
    (fixed,), (new,) = found.of("over_tasks"), found.of("new_tasks")
    assert fixed.verdict == new.verdict == "cannot be tested" and fixed.interval is None
    assert "nothing says how much it varies" in fixed.sentence
    assert "2 tasks do not show how much tasks vary; it takes 3." in new.sentence and new.n == 2
    (new,) = over(tmp_path / "three", 3, 1).of("new_tasks")
    assert new.verdict == "cannot be tested" and "two seeds" in new.sentence


def test_arms_and_tasks_without_a_run_yet_are_members_of_every_family(tmp_path: Path) -> None:
    """A study that is half done must not say of its first arm what it would take back when the others are there."""
    raw = matrix(3, 4)
    raw = {key: value for key, value in raw.items() if value is not None} | {"arms": ARMS}
    later = [label for label in LEVELS if label not in ("full", "lora[rank=8,targets=standard]")]
    skip = tuple((label, seed) for label in later for seed in range(4))
    options = Options(study=raw, levels=LEVELS, failed=(), diverged=(), flags={}, skip=skip)
    half = write_results(tmp_path, options)
    found, arms = assess(load_frame(half)), len(LEVELS) - 1
    assert found.plan.family_size == 3 * arms
    for kind, times in {
        "difference": 3 * arms, "non_inferiority": 3 * arms, "over_tasks": arms, "new_tasks": arms,
        "non_inferiority_everywhere": arms,
    }.items():  # fmt: skip
        made = found.of(kind)
        smallest = min(made, key=lambda one: one.p if one.p is not None else 2.0)
        assert made and {one.arms[0] for one in made} == {"lora[rank=8,targets=standard]"}
        assert smallest.p is not None and smallest.p_adjusted == pytest.approx(min(1.0, times * smallest.p))
    of_one = [p.parent for p in (half / "runs").glob("*/*/config.json") if json.loads(p.read_text())["task"]["image_size"] == 48]
    for run in of_one:  # nor is a task left out that no run has reached
        shutil.rmtree(run)
    assert of_one and assess(load_frame(half)).plan.family_size == 3 * arms


BACKBONES = ("bundled:vit-nano", "bundled:vit-pico")


def test_backbones_are_no_tasks(tmp_path: Path) -> None:
    one, three = over(tmp_path / "one", 1, 5, BACKBONES), over(tmp_path / "three", 3, 5, BACKBONES)
    (fixed,), (new,), (share,) = one.of("over_tasks"), one.of("new_tasks"), one.of("improvement")
    assert new.verdict == "cannot be tested" and new.n == 1 and "one task does not show" in new.sentence
    assert "backbones are no tasks" in new.sentence
    assert fixed.n == 5 and "these 2 backbones of one task" in fixed.sentence and "on a backbone drawn" in share.sentence
    (fixed,), (new,), (share,) = three.of("over_tasks"), three.of("new_tasks"), three.of("improvement")
    assert new.n == 3 and new.details["p_signed_rank"] is None and "of which 3 are a sample" in new.sentence
    assert "mixed model, 3 tasks x 5 seeds" in new.sentence and new.verdict == "worse"
    assert "these 3 tasks, the backbones of each averaged" in fixed.sentence and fixed.details["settings"] == 6
    assert "on a pair of task and backbone drawn from these 6 (" in share.sentence
    assert all("of 6 pairs of task and backbone (" in f.sentence for f in three.of("interquartile_mean"))
    values = {(a.label, a.task, a.backbone): np.array(a.values, dtype=float) for a in three.arms}
    gaps = [v - values["full", task, backbone] for (arm, task, backbone), v in values.items() if arm == "lora"]
    assert fixed.estimate == new.estimate == pytest.approx(np.mean(gaps))


def test_new_tasks_raise_no_more_alarms_than_they_may(factors: Findings) -> None:
    """No difference on tasks in general, one on each (sd 1) that its three backbones share: they must not count as nine tasks."""
    generator, alarms, as_nine, trials = np.random.default_rng(3), 0, 0, 150
    for _ in range(trials):
        shifts = generator.normal(size=3)
        tables = {
            (f"task {t}", f"backbone {b}"): pd.DataFrame(
                {"full": generator.normal(0, 0.1, 4), "lora": shift + generator.normal(0, 0.1, 4)}
            )
            for t, shift in enumerate(shifts)
            for b in range(3)
        }
        (new,) = (f for f in _over_tasks(tables, factors.plan, generator, 1) if f.kind == "new_tasks")
        alarms += new.verdict in ("better", "worse")
        nine = crossed_mean([table["lora"] - table["full"] for table in tables.values()])
        as_nine += nine is not None and nine.p is not None and nine.p <= 0.05
    assert alarms / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    assert as_nine / trials > 0.25  # docs/statistics.md: about every third time


def test_bootstrap_intervals_have_the_declared_confidence(factors: Findings) -> None:
    generator = np.random.default_rng(5)
    tables = {(f"task {t}", "b"): pd.DataFrame(generator.normal(size=(9, 2)), columns=pd.Index(["full", "lora"])) for t in (0, 1)}

    def widths(confidence: float) -> list[float]:
        found = _over_tasks(tables, factors.plan.model_copy(update={"confidence": confidence}), np.random.default_rng(6), 1)
        return [f.interval[1] - f.interval[0] for f in found if f.kind in ("interquartile_mean", "improvement") and f.interval]

    assert len(widths(0.95)) == 3
    assert all(narrow < 0.75 * wide for narrow, wide in zip(widths(0.6), widths(0.95), strict=True))


def predictions(folder: Path, rates: dict[str, float], items: int = 400) -> None:
    generator = np.random.default_rng(8)
    label = generator.integers(0, 10, items)
    hard = generator.random(items)
    for path in folder.glob("runs/*/*/results.json"):
        right = hard < rates[path.parents[1].name] + 0.02 * generator.normal(size=items)
        np.savez(path.with_name("predictions.npz"), label=label, prediction=np.where(right, label, (label + 1) % 10))


@pytest.mark.parametrize("seeds", [1, 3])
def test_test_examples_are_a_sample_too(tmp_path: Path, seeds: int) -> None:
    raw = study(seeds=list(range(seeds)), arms={"full": ARMS["full"], "lora": {"adapter": "lora"}})
    raw = {key: value for key, value in raw.items() if value is not None}
    levels = {"full": LEVELS["full"], "lora": LEVELS["full"]}
    made = write_results(tmp_path, Options(study=raw, levels=levels, failed=(), diverged=(), flags={}))
    assert assess(load_frame(made)).of("sampling") == []  # no single predictions were kept
    predictions(made, {"full": 0.9, "lora": 0.8})
    (found,) = assess(load_frame(made)).of("sampling")
    assert found.estimate == pytest.approx(-0.1, abs=0.03) and found.details["examples"] == 400
    if seeds == 1:
        assert found.interval is None and "these two models" in found.sentence and "McNemar" in found.sentence
    else:
        assert found.interval is not None and found.interval[1] < 0 and found.verdict == "estimated"


def documents(folder: Path, losses: dict[str, float], items: int = 300) -> None:
    """What runs of a language model keep: a sum of losses and the number of predicted tokens of each document."""
    generator = np.random.default_rng(8)
    tokens, hard = generator.integers(5, 50, items), generator.gamma(4, 0.25, items)
    for path in folder.glob("runs/*/*/results.json"):
        each = losses[path.parents[1].name] * hard + 0.05 * generator.normal(size=items)
        np.savez(path.with_name("predictions.npz"), loss=each * tokens, tokens=tokens, correct=tokens // 2)


@pytest.mark.parametrize("seeds", [1, 4])
def test_other_metrics_count_test_examples_where_scores_of_each_are_kept(tmp_path: Path, seeds: int) -> None:
    arms = {"full": ARMS["full"], "lora": {"adapter": "lora"}}
    raw = study(seeds=list(range(seeds)), arms=arms, analysis={**STUDY["analysis"], "metric": "loss"})
    raw = {key: value for key, value in raw.items() if value is not None}
    levels = dict.fromkeys(arms, LEVELS["full"])
    made = write_results(tmp_path, Options(study=raw, levels=levels, failed=(), diverged=(), flags={}))
    predictions(made, {"full": 0.9, "lora": 0.8})
    (none,) = assess(load_frame(made)).of("sampling")
    assert none.verdict == "cannot be tested" and none.arms == [] and none.estimate is None
    assert "keep no score of loss for each example" in none.sentence and "seeds alone" in none.sentence
    documents(made, {"full": 0.5, "lora": 0.6})
    found = assess(load_frame(made)).of("sampling")
    if seeds == 1:
        assert found == []  # McNemar's test is for what is right or wrong
        return
    (one,) = found
    assert one.estimate == pytest.approx(0.1, abs=0.03) and one.interval is not None and one.interval[0] > 0
    assert one.details["bootstrap"][0] == pytest.approx(one.interval[0], abs=0.02)
    assert "bootstrap of seeds and examples [" in one.sentence and "too narrow with few seeds" in one.sentence


def test_damaged_predictions_do_no_harm(tmp_path: Path) -> None:
    raw = study(seeds=[0, 1, 2], arms={"full": ARMS["full"], "lora": {"adapter": "lora"}})
    raw = {key: value for key, value in raw.items() if value is not None}
    levels = {"full": LEVELS["full"], "lora": LEVELS["full"]}
    made = write_results(tmp_path, Options(study=raw, levels=levels, failed=(), diverged=(), flags={}))
    predictions(made, {"full": 0.9, "lora": 0.8})
    first, second, _ = sorted(made.glob("runs/lora/*/predictions.npz"))
    first.write_bytes(second.read_bytes()[:500])
    (found,) = assess(load_frame(made)).of("sampling")
    assert found.n == 2
    np.savez(second, label=np.zeros((3, 2)), prediction=np.zeros(3))
    assert assess(load_frame(made)).of("sampling") == []


@pytest.mark.parametrize("broken", ["lora", "full"])
@pytest.mark.parametrize("seeds", [2, 3])
def test_survivors_are_not_compared_as_if_nothing_had_diverged(tmp_path: Path, broken: str, seeds: int) -> None:
    arms = {"full": ARMS["full"], "lora": {"adapter": "lora"}, "bitfit": {"adapter": "bitfit"}}
    raw = {key: value for key, value in study(seeds=list(range(seeds)), arms=arms).items() if value is not None}
    levels = dict.fromkeys(arms, LEVELS["full"])
    made = write_results(tmp_path, Options(study=raw, levels=levels, failed=(), diverged=((broken, 1),), flags={}))
    predictions(made, {"full": 0.9, "lora": 0.8, "bitfit": 0.8})
    found = assess(load_frame(made))
    assert [f.arms for f in found.of("sampling")] == ([["bitfit", "full"]] if broken == "lora" else [])
    assert any("Arms with diverged runs" in line for line in found.plan.further) == (broken == "lora")


def test_mcnemars_test_is_for_two_arms_of_one_run_each(tmp_path: Path) -> None:
    """One pair of an arm with one run and a baseline with three says nothing of the other two."""
    raw = study(seeds=[0, 1, 2], arms={"full": ARMS["full"], "lora": {"adapter": "lora"}})
    raw = {key: value for key, value in raw.items() if value is not None}
    levels, skip = {"full": LEVELS["full"], "lora": LEVELS["full"]}, (("lora", 1), ("lora", 2))
    made = write_results(tmp_path, Options(study=raw, levels=levels, failed=(), diverged=(), skip=skip, flags={}))
    predictions(made, {"full": 0.9, "lora": 0.8})
    assert assess(load_frame(made)).of("sampling") == []


def config(adapter: dict[str, Any], quantizer: dict[str, Any], **more: Any) -> RunConfig:
    return RunConfig(
        study="s", arm="a", label="a", slug="a", backbone="b", backbone_fingerprint="", task={}, data_fingerprint="",
        adapter=adapter, quantizer=quantizer, train={"epochs": 1, "learning_rate": 1e-3}, seed=0, **more,
    )  # fmt: skip


def test_options_of_different_components_become_words_of_theirs() -> None:
    search = {"name": "top_k", "importance": {"name": "x"}}
    found = design(
        {
            "lora": config({"name": "lora", "rank": 8}, {"name": "none"}),
            "qlora": config({"name": "lora", "rank": 8}, {"name": "bnb", "bits": 4}, tuned={"learning_rate": 1e-3}),
            "search": config({"name": "lora", "rank": 8}, {"name": "none"}, allocator=search),
        }
    )
    assert found["lora"]["quantizer"] == "none" and found["qlora"]["quantizer"] == "bnb (bits 4)"
    assert found["search"]["allocator"] == "top_k (importance x)" and found["lora"]["allocator"] == "none"
    assert found["lora"]["adapter.rank"] == "8"


def test_words_of_one_component_say_what_sets_them_apart() -> None:
    """Not what all groupwise quantizers of the study share, nor what was left open."""
    shared = {"name": "groupwise", "group_size": 16, "end": None}
    found = design(
        {
            "float": config({"name": "pooled"}, {"name": "none"}),
            "nf4": config({"name": "pooled"}, {**shared, "type": "nf4", "start": None}),
            "int8": config({"name": "pooled"}, {**shared, "type": "int8", "start": 3}),
        }
    )
    assert found["nf4"]["quantizer"] == "groupwise (type nf4)"
    assert found["int8"]["quantizer"] == "groupwise (type int8, start 3)"
    alone = design({"float": config({"name": "pooled"}, {"name": "none"}), "nf4": config({"name": "pooled"}, shared)})
    assert alone["nf4"]["quantizer"] == "groupwise (group_size 16)"


GRID: dict[str, Any] = {
    "full": ARMS["full"],
    "fixed": {"adapter": {"name": "lora", "rank": 4}},
    "allocated": {
        "adapter": {"name": "lora", "rank": 4},
        "allocator": {
            "name": ["proportional", "threshold", "top_k"], "importance": ["magnitude", "fisher"], "budget": {"ranks": 48}
        },
    },
}  # fmt: skip


def test_importance_and_rule_are_factors_among_arms_that_have_them(tmp_path: Path) -> None:
    """A baseline without an allocator, of the same adapter, must not hide them."""
    raw = {key: value for key, value in study(arms=GRID).items() if value is not None}
    grid = [(r, i) for r in ("proportional", "threshold", "top_k") for i in ("magnitude", "fisher")]
    labels = {f"allocated[name={r},importance={i}]": (r, i) for r, i in grid}
    plain = dict.fromkeys(("full", "fixed"), LEVELS["full"])
    gain = {"proportional": 0.0, "threshold": 0.01, "top_k": 0.0, "magnitude": 0.0, "fisher": 0.02}
    levels = plain | {name: (0.93 + gain[r] + gain[i], 0.002, 9000, 40.0, 8.0) for name, (r, i) in labels.items()}
    found = assess(load_frame(write_results(tmp_path, Options(study=raw, levels=levels, failed=(), diverged=(), flags={}))))
    told = {
        tuple((c["factor"], c["words"]) for c in f.details["contrasts"]): f for f in found.findings if f.details.get("contrasts")
    }
    importance = told[("allocator.importance", "fisher against magnitude"),]
    assert importance.estimate == pytest.approx(0.02, abs=0.003) and importance.verdict == "better"
    assert importance.details["contexts"] == 3  # averaged over the rules
    rule = told[("allocator", "threshold against proportional"),]
    assert rule.estimate == pytest.approx(0.01, abs=0.003) and rule.details["contexts"] == 2
    both = told[("allocator", "threshold against proportional"), ("allocator.importance", "fisher against magnitude")]
    assert both.kind == "interaction" and both.details["contexts"] == 1
    against = [
        words for key in told if len(key) == 1 for factor, words in key if factor == "allocator" and words.endswith("none")
    ]
    assert len(against) == 6  # and each combination against equal ranks
    assert len(told) == 6 + 1 + 2 + 2


def test_data_sets_and_layers(tmp_path: Path) -> None:
    """Whether what the layers do depends on the data set; the data set alone is no treatment."""
    arms = {"full": ARMS["full"], "lora": {"adapter": {"name": "lora", "targets": ["q,v", "q,v,blocks:0-1"]}}}
    raw = study(arms=arms, matrix={"task": tasks_of(2)})
    levels = {"full": LEVELS["full"]}
    levels |= {f"lora[targets={t}]": (0.95, 0.003, 9000, 40.0, 8.0) for t in arms["lora"]["adapter"]["targets"]}
    made = {key: value for key, value in raw.items() if value is not None}
    found = assess(load_frame(write_results(tmp_path, Options(study=made, levels=levels, failed=(), diverged=(), flags={}))))
    between = [f for f in (*found.of("effect"), *found.of("interaction")) if not f.task and f.details["adapter"] == "lora"]
    (one,) = between
    assert [c["factor"] for c in one.details["contrasts"]] == ["adapter.targets", "data"]
    assert one.verdict == "no interaction shown" and len(found.of("effect")) == 2


def test_backbone_size_and_rank(tmp_path: Path) -> None:
    """Between settings: the backbone as a factor, and whether the effect of the rank depends on it; data only in interactions."""
    arms = {"full": ARMS["full"], "lora": {"adapter": {"name": "lora", "rank": [2, 8]}}}
    raw = study(arms=arms, matrix={"backbone": ["bundled:vit-nano", "bundled:vit-pico"]})
    raw = {key: value for key, value in raw.items() if value is not None and key != "backbone"} | {"backbone": "bundled:vit-nano"}
    levels = {"full": LEVELS["full"], "lora[rank=2]": (0.92, 0.003, 9, 4.0, 8.0), "lora[rank=8]": (0.95, 0.003, 9, 4.0, 8.0)}
    found = assess(load_frame(write_results(tmp_path, Options(study=raw, levels=levels, failed=(), diverged=(), flags={}))))
    between = [f for f in (*found.of("effect"), *found.of("interaction")) if not f.task]
    told = {tuple(c["factor"] for c in f.details["contrasts"]): f for f in between if f.details["adapter"] == "lora"}
    assert set(told) == {("backbone",), ("adapter.rank", "backbone")}
    assert told["adapter.rank", "backbone"].verdict == "no interaction shown" and told["backbone",].details["contexts"] == 2


def tasks_of(count: int) -> list[dict[str, Any]]:
    return [{"kind": "image-classification", "data": "digits", "image_size": 32 + 8 * i} for i in range(count)]


@pytest.mark.parametrize("tasks", [1, 2, 3, 6])
def test_options_over_tasks_and_for_new_ones(tmp_path: Path, tasks: int) -> None:
    made = folder(tmp_path, study(matrix={"task": tasks_of(tasks)} if tasks > 1 else None))
    found = assess(load_frame(made))
    over = found.of("effect_over_tasks")
    warned = [line for line in found.warnings if "degrees of freedom" in line or "do not show" in line]
    if tasks == 1:
        assert over == found.of("interaction_over_tasks") == warned == []
        return
    by_factor = {f.details["contrasts"][0]["factor"]: f for f in over}
    (interaction,) = found.of("interaction_over_tasks")
    assert set(by_factor) == {"adapter.rank", "adapter.targets"} and len(warned) == (tasks < 6)
    rank = by_factor["adapter.rank"]
    single = [f.estimate for f in found.of("effect") if f.task and f.details["contrasts"][0]["factor"] == "adapter.rank"]
    assert rank.details["these"]["estimate"] == pytest.approx(np.mean(np.array(single, dtype=float)))
    assert rank.n == tasks and sorted(rank.details["by_task"].values()) == pytest.approx(np.sort(np.array(single, dtype=float)))
    assert f"mean over these {tasks} tasks: +" in rank.sentence
    assert not rank.sentence.startswith("all tasks")
    if tasks == 2:
        assert rank.verdict == interaction.verdict == "cannot be tested" and rank.estimate is rank.interval is None
        assert "2 tasks do not show how much it varies; it takes 3" in rank.sentence and "nothing is claimed" in warned[0]
        return
    assert rank.estimate == pytest.approx(0.01, abs=0.002) and rank.verdict == "better" and rank.interval is not None
    assert rank.p is not None and rank.p_adjusted is not None and rank.p_adjusted >= rank.p
    assert interaction.verdict == "no interaction shown" and "not evidence that it does not" in interaction.sentence
    assert f"of which {tasks} are a sample" in rank.sentence and f"mixed model, {tasks} tasks x " in rank.sentence
    assert any("in which tasks and seeds cross" in line and "Factors" in line for line in found.plan.further)
    if tasks == 3:
        assert "rest on 3 tasks" in warned[0] and "2 degrees of freedom" in warned[0]


def test_options_over_tasks_are_of_arms_that_every_task_has(tmp_path: Path) -> None:
    raw = study(matrix={"task": tasks_of(3)})
    made = folder(tmp_path, raw, skip=tuple(("lora[rank=8,targets=standard]", seed) for seed in range(9)))
    found = {f.details["contrasts"][0]["factor"]: f for f in assess(load_frame(made)).of("effect_over_tasks")}
    assert found["adapter.targets"].details["contexts"] == 2  # ranks 2 and 4
    assert found["adapter.rank"].details["contexts"] == 1
