"""The layer-importance probe: values against naive ones, no influence on training, exact resume, ranks that change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab import registry
from peftlab.errors import Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.probes.layer_importance import FILE, SNAPSHOTS, SPACING, LayerImportance, rank_costs, snapshots, window
from peftlab.registry import components
from peftlab.training.loop import Trainer
from tests.contracts.conftest import Sample, samples
from tests.probes.conftest import view
from tests.training.conftest import Lab
from tests.training.test_loop import same, stop_after, weights

ADALORA = {"name": "adalora", "budget": {"ranks": 20}, "initial_steps": 0, "final_steps": 2, "every": 1}
ARMS = [
    ({"name": "lora", "rank": 4, "targets": "all-linear", "dropout": 0.1}, None),
    ({"name": "lora", "rank": 4, "dora": True}, None),
    ({"name": "svd", "rank": 4, "targets": "all-linear"}, ADALORA),
    ("full", None),
]
TRAIN = {"epochs": 4, "batch_size": 16}  # 24 steps, snapshots after 12 and 24


def watched(lab: Lab, folder: Path, arm: tuple[Any, Any], *more: TrainingHook, wide: bool = False, **options: Any):
    trainer = lab.trainer(folder, arm[0], allocator=arm[1], train=TRAIN, **options)
    hook: Any = LayerImportance().hook(trainer.adapted, view(trainer))
    if wide:
        hook.start = lambda total, optimizer: (setattr(hook, "due", [5, 6, 17, 24]), setattr(hook, "window", 4))
    trainer.hooks = [*trainer.hooks, *more, hook]
    trainer.chain.hooks = trainer.hooks
    return trainer, hook


@given(total=st.integers(1, 10_000))
def test_snapshots_are_spread_over_the_run_and_end_with_it(total: int) -> None:
    found = snapshots(total)
    gaps = np.diff([0, *found])
    assert found[-1] == total and len(found) <= SNAPSHOTS
    assert gaps.min() >= min(total, SPACING) and np.ptp(gaps) <= 1
    assert 1 <= window(total) <= gaps.min()


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_it_changes_no_result(lab: Lab, tmp_path: Path, arm: tuple[Any, Any]) -> None:
    plain = lab.trainer(tmp_path / "plain", arm[0], allocator=arm[1], train=TRAIN)
    trainer, hook = watched(lab, tmp_path / "watched", arm)
    assert plain.fit().selected.metrics == trainer.fit().selected.metrics
    assert same(weights(plain), weights(trainer))
    content = hook.report()[FILE]
    assert content["steps"] == [12, 24]
    assert all(len(v) == 2 and None not in v for metric in content["metrics"].values() for v in metric.values())
    json.dumps(content, allow_nan=False)


def test_values_are_those_of_a_naive_computation(lab: Lab, tmp_path: Path) -> None:
    class Keeper(TrainingHook):
        kept: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]] = {}

        def after_step(self, step: int, updated: bool = True) -> None:
            self.kept[step + 1] = {
                name: (p.detach().double().numpy().copy(), p.grad.double().numpy().copy())
                for name, p in trainer.trainable.items()
                if p.grad is not None
            }

    trainer, hook = watched(lab, tmp_path, ARMS[0], Keeper())
    trainer.fit()
    content = hook.report()[FILE]
    assert len(content["sites"]) == 12 and content["sites"].keys() == content["metrics"]["fisher"].keys()
    for number, step in enumerate(content["steps"]):
        for site in content["sites"]:
            kept = [Keeper.kept[step][f"base_model.model.{site}.lora_{x}.default.weight"] for x in "AB"]
            (a, ga), (b, gb) = kept
            squares = (ga**2).sum() + (gb**2).sum()
            expected = {
                "gradient_norm": squares**0.5,
                "fisher": squares / (a.size + b.size),
                "magnitude": 2 * np.sqrt(((b @ a) ** 2).mean()),
                # one step from zero: I_bar = 0.15 |wg|, U_bar = 0.15 (1 - 0.15) |wg|
                "sensitivity": sum(0.15 * 0.15 * 0.85 * ((w * g) ** 2).mean() for w, g in kept),
            }
            for metric, value in expected.items():
                assert content["metrics"][metric][site][number] == pytest.approx(value, rel=2e-4), (metric, site)
    about = {"block": 0, "role": "up", "d_in": 32, "d_out": 64, "cost": [96, 96, 0], "largest_rank": 32}
    assert about in content["sites"].values()


@pytest.mark.parametrize("arm", [ARMS[0], ARMS[2]], ids=["lora", "adalora"])
def test_a_resumed_run_leaves_the_same_file(lab: Lab, tmp_path: Path, arm: tuple[Any, Any]) -> None:
    quiet, whole = watched(lab, tmp_path / "quiet", arm, wide=True)
    quiet.fit()
    for stop in (3, 1, 11):  # within the first window, between windows, within a later one
        with pytest.raises(Stopped):
            watched(lab, tmp_path / "cut", arm, wide=True, should_stop=stop_after(stop))[0].fit()
    resumed, hook = watched(lab, tmp_path / "cut", arm, wide=True)
    resumed.fit()
    assert hook.report() == whole.report()
    assert hook.report()[FILE]["steps"] == [5, 6, 17, 24]


def test_a_checkpoint_of_a_version_without_a_metric_goes_on_without_it(lab: Lab, tmp_path: Path) -> None:
    trainer, hook = watched(lab, tmp_path, ARMS[0])
    known = {name: sites for name, sites in hook.state()["values"].items() if name != "fisher"}
    hook.load_state({**hook.state(), "values": known})
    trainer.fit()
    content = hook.report()[FILE]
    assert content["metrics"].keys() == known.keys() and "spectral" in known
    assert all(len(values) == len(content["steps"]) == 2 for sites in content["metrics"].values() for values in sites.values())


def test_a_change_of_rank_begins_the_window_anew(lab: Lab, tmp_path: Path) -> None:
    class Resizer(TrainingHook):
        trainer: Trainer

        def after_step(self, step: int, updated: bool = True) -> None:
            if step + 1 in (10, 12):  # within a window, and when its snapshot is due
                low = next(iter(self.trainer.adapted.adapter.low_rank(self.trainer.adapted).values()))
                low.resize(low.rank - 1, torch.Generator(), self.trainer.optimizer)

    resizer = Resizer()
    resizer.trainer, hook = watched(lab, tmp_path, ARMS[0], resizer)
    hook.start = lambda total, optimizer: (setattr(hook, "due", [12, 24]), setattr(hook, "window", 4))
    resizer.trainer.fit()
    content = hook.report()[FILE]
    assert content["steps"] == [13, 24]
    assert all(value > 0 for metric in content["metrics"].values() for values in metric.values() for value in values)


def test_a_step_that_float16_left_out_is_not_observed(lab: Lab, tmp_path: Path) -> None:
    trainer, hook = watched(lab, tmp_path, ARMS[0], wide=True)
    hook.start(24, trainer.optimizer)
    for parameter in trainer.trainable.values():
        parameter.grad = torch.ones_like(parameter)
    for step, updated in enumerate([True, False, True, False, False]):
        hook.after_backward(step)
        hook.after_step(step, updated)
        if step == 3:
            assert hook.seen == 1, "of steps 1 to 3, the window of the first snapshot so far"
    assert hook.steps == [5] and not hook.meters


def test_of_lora_xs_it_is_that_of_its_one_small_matrix(lab: Lab, tmp_path: Path) -> None:
    """R has no directions of its own, so no metric of an update; the smoothed ones copy r x r weights, which is little."""
    trainer, hook = watched(lab, tmp_path, ({"name": "lora-xs", "rank": 4, "targets": "all-linear"}, None))
    trainer.fit()
    content = hook.report()[FILE]
    expected = {name for name, metric in components("importance").items() if not metric.of_update}  # pyright: ignore
    assert {*content["metrics"]} == expected and {"sensitivity", "fisher", "weight_gradient"} <= expected
    assert {*content["sites"]} == {site.name for site in trainer.adapted.sites}
    assert all(value is not None and value > 0 for site in content["metrics"]["sensitivity"].values() for value in site)
    assert all(site["cost"] == [1, 3, 2] for site in content["sites"].values())


def test_full_fine_tuning_keeps_no_copy_of_its_weights(lab: Lab, tmp_path: Path) -> None:
    trainer, hook = watched(lab, tmp_path, ARMS[3])
    trainer.fit()
    found: dict[str, Any] = components("importance")
    wanted = {name for name, metric in found.items() if not (metric.of_update or metric.copies_weights)}
    assert set(hook.report()[FILE]["metrics"]) == wanted >= {"fisher", "gradient_norm"}
    assert len(hook.parts) == 12


RANKED: list[Sample] = [
    sample
    for sample in samples("adapter")
    if registry.components("adapter")[sample.name].has_rank and "vit" not in sample.not_on  # pyright: ignore
]


@pytest.mark.parametrize("sample", RANKED, ids=str)
def test_what_a_rank_costs_is_the_formula_of_the_adapter(lab: Lab, tmp_path: Path, sample: Sample) -> None:
    """Of its own sites, whatever they are: every rank up to the largest from three numbers."""
    adapted = lab.trainer(tmp_path, {**sample.spec, "rank": 2}).adapted
    found = rank_costs(adapted)
    assert found.keys() == {site.name for site in adapted.sites}
    for site in adapted.sites:
        first, second, growth = found[site.name]["cost"]
        assert found[site.name]["largest_rank"] == min(site.d_in, site.d_out)
        for rank in range(1, min(site.d_in, site.d_out) + 1):
            cost = first + (rank - 1) * second + (rank - 1) * (rank - 2) // 2 * growth
            assert cost == adapted.adapter.count(adapted.backbone, [site], {site.name: rank})
    spent = sum(found[site.name]["cost"][0] + found[site.name]["cost"][1] for site in adapted.sites)
    trained = sum(p.numel() for name, p in adapted.trainable().items() if not adapted.is_head(name))
    assert spent == trained, "two ranks everywhere are what trains"


def test_of_qa_lora_ranks_have_the_price_of_group_means(lab: Lab, tmp_path: Path) -> None:
    """d_in/g inputs, not the layer's; and modules without ranks of their own have no price."""
    trainer = lab.trainer(tmp_path / "qa", {"name": "pooled", "rank": 2}, quantizer={"name": "groupwise", "group_size": 8})
    sites = LayerImportance().hook(trainer.adapted, view(trainer)).sites  # pyright: ignore
    assert {(s["d_in"], s["d_out"], *s["cost"], s["largest_rank"]) for s in sites.values()} == {(32, 32, 36, 36, 0, 4)}
    full = lab.trainer(tmp_path / "full", "full")
    assert all("cost" not in s for s in LayerImportance().hook(full.adapted, view(full)).sites.values())  # pyright: ignore


def test_modules_left_without_rank_are_named(lab: Lab, tmp_path: Path) -> None:
    trainer, hook = watched(lab, tmp_path, ({"name": "lora", "targets": "extended"}, {"name": "selective", "keep": "blocks:1"}))
    trainer.fit()
    content = hook.report()[FILE]
    assert len(content["sites"]) == 8 and len(content["metrics"]["fisher"]) == 4


@pytest.mark.parametrize("adapter", ["linear-probe", "bitfit", {"name": "bottleneck", "width": 8}], ids=str)
def test_arms_without_adapted_layers_leave_no_file(lab: Lab, tmp_path: Path, adapter: Any) -> None:
    trainer, hook = watched(lab, tmp_path, (adapter, None))
    trainer.fit()
    assert hook.report() == {}
