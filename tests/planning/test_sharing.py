"""Whether runs share hidden states, decided as they are planned: how many share, what it saves, what is left to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.planning.estimate import Estimate
from peftlab.planning.plan import Plan, PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.planning.prefix import CHECK_BYTES_PER_S, READ_BYTES_PER_S, Decision, Shortcut
from peftlab.study.load import validate_study
from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients
from peftlab.training.prefix_store import Store
from peftlab.training.prefix_task import Prefix
from peftlab.training.schedule import Schedule
from tests.tasks.texts import shared_bert

ARMS = {
    "probe": {"adapter": "linear-probe"},
    "top": {"adapter": {"name": "lora", "rank": [2, 4], "targets": "q,v,blocks:2-3"}},
    "lora": {"adapter": "lora"},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    return measured(tmp_path_factory.mktemp("cache"))


def planned(cache: Path, *, prefix_cache_mb: float = 4000.0, **changes: Any) -> Plan:
    raw = {
        "study": "sharing",
        "backbone": "bundled:vit-nano",
        "task": {"kind": "image-classification", "data": "digits"},
        "seeds": [0, 1, 2],
        "train": {"epochs": 20},
        "arms": ARMS,
        "analysis": {"baseline": "lora"},
        **changes,
    }
    return make_plan(validate_study(raw), PlanOptions(cache=cache, prefix_cache_mb=prefix_cache_mb))


def first(plan: Plan, label: str) -> Any:
    return next(run for run in plan.runs if run.label == label)


def test_arms_that_are_cut_at_the_same_block_share(cache: Path) -> None:
    plan = planned(cache)
    found = {run.label: run.config.predicted.get("prefix", {}) for run in plan.runs if run.config}
    assert found["lora"] == {}
    assert (found["probe"]["cut"], found["probe"]["runs"], found["probe"]["why"]) == ("head", 3, "")
    for label in ("top[rank=2]", "top[rank=4]"):
        assert (found[label]["cut"], found[label]["runs"]) == ("block 2", 6)
    assert any(note.startswith("probe: what lies before its head is computed once for 3 runs") for note in plan.notes)


def test_without_it_runs_are_planned_whole(cache: Path) -> None:
    shared, whole = planned(cache), planned(cache, prefix_cache_mb=0.0)
    for label in ("probe", "top[rank=2]"):
        one, two = first(shared, label), first(whole, label)
        assert one.config.run_id == two.config.run_id, "it is no part of what a run is"
        assert "prefix" not in two.config.predicted
        assert one.predicted_s < two.predicted_s
        assert one.estimate.peak_mb <= two.estimate.peak_mb
    assert first(shared, "lora").predicted_s == first(whole, "lora").predicted_s


def test_a_single_short_run_computes_its_own(cache: Path) -> None:
    plan = planned(cache, seeds=[0], train={"epochs": 1}, arms={k: ARMS[k] for k in ("probe", "lora")})
    decided = first(plan, "probe").config.predicted["prefix"]
    assert "too little" in decided["why"]
    assert first(plan, "probe").predicted_s == pytest.approx(
        first(planned(cache, seeds=[0], train={"epochs": 1}, prefix_cache_mb=0.0), "probe").predicted_s
    )


def test_augmented_images_have_nothing_to_share(cache: Path) -> None:
    task = {"kind": "image-classification", "data": "digits", "augmentation": "crop"}
    assert "prefix" not in first(planned(cache, task=task), "probe").config.predicted


def test_dropout_is_seen_without_weights(cache: Path, tmp_path: Path) -> None:
    """On fake tensors nothing is drawn, and yet the plan knows what the run will find."""
    table = tmp_path / "texts.csv"
    table.write_text("text,label\n" + "".join(f"the {w} film,{i % 2}\n" for i, w in enumerate(["good", "bad"] * 30)))
    arms = {"probe": {"adapter": "linear-probe"}, "lora": {"adapter": "lora"}}
    task = {"kind": "text-classification", "data": str(table)}
    plan = planned(cache, backbone=str(shared_bert()), task=task, arms=arms, seeds=[0])
    assert "prefix" not in first(plan, "probe").config.predicted


def test_the_plan_cuts_where_the_run_cuts(cache: Path, tmp_path: Path) -> None:
    task = {"kind": "image-classification", "data": "digits"}
    for adapter, label in (({"name": "linear-probe"}, "probe"), ({"name": "lora", "targets": "q,v,blocks:2-3"}, "top[rank=4]")):
        parts = Ingredients.of(
            backbone="bundled:vit-nano", task=task, adapter=adapter, allocator=None, quantizer={"name": "none"}
        )
        prepared = parts.task.prepare(parts.preprocessing(), tmp_path)
        options: dict[str, Any] = {"device": torch.device("cpu"), "precision": "float32", "about": {}, "store": Store(tmp_path)}
        prefix = Prefix.of(parts.build(10, 0), prepared, prepared.splits(0), **options)
        decided = first(planned(cache), label).config.predicted["prefix"]
        assert decided["cut"] == prefix.cut.name
        assert decided["mb"] == pytest.approx(prefix.size / 1e6, abs=1e-3)


def _estimate(example_s: float) -> Estimate:
    return Estimate(parts_mb={}, evaluate_peak_mb=0, step_flops=0, step_time_s=0, evaluate_time_per_example_s=example_s)


def _decide(runs: int, *, epochs: int = 3, example_s: float = 0.01, row_bytes: int = 1000, limit_mb: float = 100.0) -> Decision:
    schedule = Schedule.of(Train(epochs=epochs, batch_size=10), 1000)
    shortcut = Shortcut(cut="head", blocks=4, row_bytes=row_bytes, estimate=_estimate(0.001))
    sizes = {"train": 1000, "validation": 200, "test": 300}
    return shortcut.decide(_estimate(example_s), 1.0, schedule, sizes, runs, limit_mb)


def test_what_is_saved_is_what_is_not_sent_through_the_prefix_less_what_reading_costs() -> None:
    found, prefix_s, sent = _decide(4), 0.009, 3 * 1000 + 3 * 200 + 300
    use_s = sent * 1000 / READ_BYTES_PER_S + 1500 * 1000 / CHECK_BYTES_PER_S
    assert found.fill_s == pytest.approx(1500 * prefix_s)
    assert found.saved_s == pytest.approx(4 * sent * prefix_s - 1500 * prefix_s - 4 * use_s)
    assert found.mb == pytest.approx(1.5) and found.why == ""


def test_what_does_not_pay_or_fit_is_left() -> None:
    assert "too little" in _decide(1, epochs=1, row_bytes=10).why  # 1,500 examples sent, 1,500 kept
    assert not _decide(2, epochs=1, row_bytes=10).why
    assert "too little" in _decide(4, example_s=0.00101).why
    assert "more than the 1 MB" in _decide(4, limit_mb=1.0).why
