"""The gradient-flow probe: values against naive ones, no influence on training, exact resume, ranks that change, divergence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab.analysis.stability import stops_at
from peftlab.errors import Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.probes.gradient_flow import POINTS, SPACING, GradientFlow, points
from peftlab.records.gradient_flow import FILE, Flow
from peftlab.training.loop import Trainer
from tests.probes.conftest import view
from tests.training.conftest import Lab, Lines
from tests.training.test_loop import same, stop_after, weights

LORA = {"name": "lora", "rank": 4, "targets": "all-linear", "dropout": 0.1}
ADALORA = {"name": "adalora", "budget": {"ranks": 20}, "initial_steps": 0, "final_steps": 2, "every": 1}
ARMS = [(LORA, None), ({"name": "svd", "rank": 4, "targets": "all-linear"}, ADALORA), ("full", None)]
TRAIN = {"epochs": 4, "batch_size": 16, "clip_norm": 0.1}  # 24 steps, every one clipped


class Keeper(TrainingHook):
    """Keeps every gradient as the backward pass gives it."""

    trainer: Any

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, np.ndarray]] = {}

    def after_backward(self, step: int) -> None:
        grads = ((name, p.grad) for name, p in self.trainer.trainable.items())
        self.kept[step + 1] = {name: g.double().numpy().copy() for name, g in grads if g is not None}


def watched(lab: Lab, folder: Path, arm: tuple[Any, Any], *more: Any, due: list[int] | None = None, **options: Any):
    trainer = lab.trainer(folder, arm[0], allocator=arm[1], train=TRAIN, **options)
    hook: Any = GradientFlow().hook(trainer.adapted, view(trainer))
    if due:
        hook.start = lambda total, optimizer: setattr(hook, "due", due)
    for other in more:
        other.trainer = trainer
    trainer.hooks = [*trainer.hooks, *more, hook]
    trainer.chain.hooks = trainer.hooks
    return trainer, hook


@given(total=st.integers(0, 10_000))
def test_points_are_spread_over_the_run(total: int) -> None:
    found = points(total)
    assert len(found) <= POINTS and (found[:1], found[-1:]) == (([1], [total]) if total else ([], []))
    if len(found) > 2:
        gaps = np.diff(found)
        assert np.ptp(gaps) <= 1 and gaps.min() >= SPACING


@pytest.mark.parametrize("arm", ARMS, ids=["lora", "adalora", "full"])
def test_values_are_those_of_a_naive_computation_and_nothing_changes(lab: Lab, tmp_path: Path, arm: tuple[Any, Any]) -> None:
    plain, keeper = lab.trainer(tmp_path / "plain", arm[0], allocator=arm[1], train=TRAIN), Keeper()
    trainer, hook = watched(lab, tmp_path / "watched", arm, keeper, due=[1, 5, 24])
    assert plain.fit().selected.metrics == trainer.fit().selected.metrics
    assert same(weights(plain), weights(trainer))
    content = hook.report()[FILE]
    json.dumps(content, allow_nan=False)
    assert content["steps"] == [1, 5, 24] and Flow.model_validate(content)
    for number, step in enumerate(content["steps"]):
        unseen = set(trainer.trainable)
        for module, values in sorted(content["modules"].items(), key=lambda item: -len(item[0])):
            names = [n for n in unseen if f".{'classifier' if module == 'head' else module}." in f".{n}."]
            unseen -= set(names)
            kept = keeper.kept[step]
            g = np.concatenate([np.ravel(kept.get(n, np.zeros(trainer.trainable[n].shape))) for n in names])
            expected = {
                "norm": np.linalg.norm(g),
                "mean": np.abs(g).mean(),
                "max": np.abs(g).max(),
                "zeros": (g == 0).mean(),
                "non_finite": 0.0,
            }
            for field, value in expected.items():
                assert values[field][number] == pytest.approx(value, rel=2e-5, abs=1e-12), (module, field)
        assert not unseen


def test_modules_say_where_they_lie(lab: Lab, tmp_path: Path) -> None:
    trainer, hook = watched(lab, tmp_path, ("ln-tuning", None), due=[1])
    trainer.fit()
    modules = hook.report()[FILE]["modules"]
    assert [(m["block"], m["role"]) for m in modules.values()] == [(0, "other")] * 2 + [(1, "other")] * 2 + [
        (None, "other"),
        (None, "head"),
    ]


def test_a_resumed_run_leaves_the_same_file(lab: Lab, tmp_path: Path) -> None:
    quiet, whole = watched(lab, tmp_path / "quiet", ARMS[1])
    quiet.fit()
    with pytest.raises(Stopped):
        watched(lab, tmp_path / "cut", ARMS[1], should_stop=stop_after(5))[0].fit()
    resumed, hook = watched(lab, tmp_path / "cut", ARMS[1])
    resumed.fit()
    assert hook.report() == whole.report()


def test_ranks_may_change_and_vanish(lab: Lab, tmp_path: Path) -> None:
    class Resizer(TrainingHook):
        trainer: Any

        def after_step(self, step: int, updated: bool = True) -> None:
            low = self.trainer.adapted.adapter.low_rank(self.trainer.adapted)
            next(iter(low.values())).resize(max(0, 2 - step), torch.Generator(), self.trainer.optimizer)

    trainer, hook = watched(lab, tmp_path, (LORA, None), Resizer(), due=[1, 2, 8])
    trainer.fit()
    content = hook.report()[FILE]
    first, *others = content["modules"].values()
    assert first["norm"][0] is not None and first["norm"][2] is None and first["zeros"][2] is None
    assert all(None not in other["norm"] for other in others) and content["events"] == []


def test_a_gradient_that_is_not_finite_is_seen_where_it_is(lab: Lab, tmp_path: Path) -> None:
    class Breaker(TrainingHook):
        trainer: Any

        def after_backward(self, step: int) -> None:
            if step == 6:
                next(iter(self.trainer.trainable.values())).grad[0, :3] = float("nan")

    trainer, hook = watched(lab, tmp_path, (LORA, None), Breaker(), due=[1, 12])
    assert trainer.fit().diverged_at == 6
    content = hook.report()[FILE]
    name, first = next(iter(content["modules"].items()))
    assert content["steps"] == [1, 7] and content["events"] == [{"kind": "non-finite", "module": name, "step": 7}]
    size = sum(p.numel() for n, p in trainer.trainable.items() if f".{name}." in f".{n}.")
    assert first["norm"][1] is None and first["non_finite"][1] == pytest.approx(3 / size, rel=1e-5)
    assert all(m["norm"][1] > 0 and m["non_finite"][1] == 0 for m in list(content["modules"].values())[1:])


def test_a_step_that_float16_left_out_is_a_point_and_no_event(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the first step is finite, and a part of its gradient is none."""
    plain = Trainer._loss

    def loss(self: Trainer, batch: Any) -> torch.Tensor:
        nothing = (0 * next(iter(self.trainable.values()))).abs().sum().sqrt()
        return plain(self, batch) + (nothing if self.step == 0 else 0)

    monkeypatch.setattr(Trainer, "_loss", loss)
    trainer, hook = watched(lab, tmp_path / "cut", (LORA, None), precision="float16", should_stop=stop_after(3))
    with pytest.raises(Stopped):
        trainer.fit()
    trainer, hook = watched(lab, tmp_path / "cut", (LORA, None), precision="float16")
    trainer.fit()
    content = hook.report()[FILE]
    assert (content["steps"][0], content["left_out"], content["events"]) == (1, [1], [])
    assert any(module["norm"][0] is None for module in content["modules"].values())
    flow = Flow.model_validate({key: value for key, value in content.items() if key != "events"})
    assert flow.left_out == [1]


def test_early_stopping_as_the_analysis_replays_it(lab: Lab, tmp_path: Path) -> None:
    lines = Lines()
    train = {"epochs": 30, "batch_size": 30, "learning_rate": 0.05, "select": "best", "early_stopping": {"patience": 2}}
    fitted = lab.trainer(tmp_path, "linear-probe", train=train, listener=lines).fit()
    values = [line["accuracy"] for line in lines.lines if line["split"] == "validation"]
    assert fitted.steps < 90 and stops_at(values, 2) == len(values) - 1
