"""The adapter-norms probe: against numpy, over time, resumed, with ranks that change, and of adapters without factors."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab.errors import Stopped
from peftlab.probes import adapter_norms
from peftlab.probes.adapter_norms import FILE, POINTS, AdapterNorms, points
from tests.probes.conftest import view, watch
from tests.training.conftest import Lab
from tests.training.test_loop import same, stop_after, weights

ADALORA = {"name": "adalora", "budget": {"ranks": 20}, "initial_steps": 0, "final_steps": 2, "every": 1}
PRODUCTS = [
    ({"name": "lora", "rank": 4, "targets": "all-linear"}, None, "none"),
    ({"name": "svd", "rank": 4, "targets": "all-linear"}, ADALORA, "none"),
    ({"name": "lora", "rank": 4, "init": "pissa"}, None, "none"),
    ({"name": "pooled", "rank": 2}, None, {"name": "groupwise", "type": "int4", "group_size": 8}),
]


@given(total=st.integers(0, 10_000))
def test_points_are_spread_over_the_run_and_end_with_it(total: int) -> None:
    found = points(total)
    assert len(found) == min(POINTS, total) and found[-1:] == ([total] if total else [])
    assert not total or np.ptp(np.diff([0, *found])) <= 1


@pytest.mark.parametrize(("adapter", "allocator", "quantizer"), PRODUCTS, ids=["lora", "adalora", "pissa", "qa-lora"])
def test_the_end_is_what_merging_changes(lab: Lab, tmp_path: Path, adapter: Any, allocator: Any, quantizer: Any) -> None:
    arm = {"allocator": allocator, "quantizer": quantizer, "train": {"epochs": 4, "batch_size": 16}}
    plain = lab.trainer(tmp_path / "plain", adapter, **arm)
    base = lab.trainer(tmp_path / "base", "linear-probe", quantizer=quantizer).adapted.module
    trainer = lab.trainer(tmp_path / "watched", adapter, **arm)
    hook = watch(trainer, AdapterNorms())
    assert plain.fit().selected == trainer.fit().selected and same(weights(plain), weights(trainer))
    content = hook.report()[FILE]
    json.dumps(content, allow_nan=False)
    merged = trainer.adapted.adapter.merge(trainer.adapted)
    assert content["steps"] == [0, *points(24)] and len(content["modules"]) == len(trainer.adapted.sites)
    for name, module in content["modules"].items():
        before, after = (_dense(model, name) for model in (base, merged))
        assert module["weight"] == pytest.approx(np.linalg.norm(before), rel=1e-4)
        assert module["end"]["update"] == pytest.approx(np.linalg.norm(after - before), rel=2e-3, abs=1e-6)
        assert module["end"]["relative"] == pytest.approx(module["end"]["update"] / module["weight"])
        assert module["update"][0] == pytest.approx(0, abs=1e-5) and module["update"][-1] == module["end"]["update"]
        assert len(module["A"]) == len(content["steps"]) and module["A"][0] > 0


def _dense(model: Any, name: str) -> np.ndarray:
    from peftlab.nn.quantized import dense_weight

    return dense_weight(model.get_submodule(name)).detach().double().numpy()


def test_factors_are_those_of_peft_and_the_summary_is_over_modules(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, PRODUCTS[0][0])
    hook = watch(trainer, AdapterNorms())
    trainer.fit()
    content = hook.report()[FILE]
    for name, module in content["modules"].items():
        for factor in "AB":
            kept = trainer.trainable[f"base_model.model.{name}.lora_{factor}.default.weight"].detach().numpy()
            assert module["end"][factor] == pytest.approx(np.linalg.norm(kept), rel=1e-5)
    keys = [m["end"]["relative"] for m in content["modules"].values() if m["role"] == "k"]
    expected = {"n": 2, "mean": statistics.fmean(keys), "sd": statistics.stdev(keys)}
    assert content["summary"]["by_role"]["k"]["relative"] == pytest.approx(expected)
    assert content["summary"]["all"]["A"]["n"] == 12 and set(content["summary"]["by_block"]) == {"0", "1"}


def test_a_resumed_run_leaves_the_same_file(lab: Lab, tmp_path: Path) -> None:
    quiet = lab.trainer(tmp_path / "quiet", PRODUCTS[2][0])
    whole = watch(quiet, AdapterNorms())
    quiet.fit()
    cut = lab.trainer(tmp_path / "cut", PRODUCTS[2][0], should_stop=stop_after(5))
    watch(cut, AdapterNorms())
    with pytest.raises(Stopped):
        cut.fit()
    resumed = lab.trainer(tmp_path / "cut", PRODUCTS[2][0])
    hook = watch(resumed, AdapterNorms())
    resumed.fit()
    assert hook.report() == whole.report()


@pytest.mark.parametrize("adapter", ["full", "bitfit", {"name": "bottleneck", "width": 4}], ids=str)
def test_without_factors_it_is_how_far_weights_moved(lab: Lab, tmp_path: Path, adapter: Any) -> None:
    trainer = lab.trainer(tmp_path / "run", adapter)
    start = weights(trainer)
    hook = watch(trainer, AdapterNorms(), fresh=lambda: lab.trainer(tmp_path / "fresh", adapter).adapted)
    trainer.fit()
    content = hook.report()[FILE]
    end = weights(trainer)
    moved = sum(float((end[n] - start[n]).double().square().sum()) for n in end if not trainer.adapted.is_head(n))
    found = sum(module["end"]["update"] ** 2 for module in content["modules"].values())
    assert found == pytest.approx(moved, rel=1e-6) and moved > 0
    assert content["of"] == "weights" and content["steps"] == []
    json.dumps(content, allow_nan=False)


def test_a_model_made_anew_must_fit_into_memory(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_norms, "memory_mb", lambda device: (1000.0, 0.1))
    assert "were free" in watch(lab.trainer(tmp_path, "full"), AdapterNorms()).report()[FILE]["left_out"]


def test_a_head_alone_is_not_watched(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, "linear-probe")
    assert AdapterNorms().hook(trainer.adapted, view(trainer)) is None


def test_norms_follow_a_rank_that_changes(lab: Lab, tmp_path: Path) -> None:
    rule = {"name": "proportional", "min_rank": 1, "warmup_steps": 4, "every": 4, "hysteresis": 0.0}
    trainer = lab.trainer(tmp_path, {"name": "lora", "rank": 4}, allocator=rule, train={"epochs": 4, "learning_rate": 3e-2})
    hook = watch(trainer, AdapterNorms())
    trainer.fit()
    factors = trainer.adapted.adapter.low_rank(trainer.adapted)
    assert len({low.rank for low in factors.values()}) > 1
    for name, low in factors.items():
        expected = torch.linalg.matrix_norm(low.scale * (low.B @ low.A)).item()
        assert hook.report()[FILE]["modules"][name]["end"]["update"] == pytest.approx(expected, rel=1e-4)
