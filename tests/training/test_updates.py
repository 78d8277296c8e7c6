"""Steps that float16 leaves out: no updates, not many in a row, counted, told to hooks, and the same after a resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftlab.errors import DidNothing, NonFinite, Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.updates import MOST_IN_A_ROW, Updates
from tests.training.conftest import Lab, Lines

CPU = torch.device("cpu")


def updates(precision: Any = "float16", total: int = 100) -> tuple[Updates, nn.Parameter]:
    parameter = nn.Parameter(torch.ones(3))
    return Updates(torch.optim.AdamW([parameter], lr=0.1, fused=True), precision, CPU, total), parameter


def take(taker: Updates, parameter: nn.Parameter, step: int, gradient: float) -> bool:
    parameter.grad = taker.scale(torch.full((3,), gradient))
    taker.unscale()
    return taker.take(step, 1.0, gradient)


def test_a_gradient_that_overflows_updates_nothing() -> None:
    taker, parameter = updates()
    assert not take(taker, parameter, 0, float("inf"))
    assert torch.equal(parameter.detach(), torch.ones(3))
    assert take(taker, parameter, 1, 1.0)
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.9), rtol=0, atol=2e-3)  # AdamW's first step is the rate
    assert (taker.left_out, taker.in_a_row) == (1, 0)


@pytest.mark.parametrize("gradient", [float("inf"), float("nan")])
def test_more_in_a_row_than_the_scale_can_answer_for_are_divergence(gradient: float) -> None:
    taker, parameter = updates()
    for step in range(MOST_IN_A_ROW):
        assert not take(taker, parameter, step, gradient)
    assert taker.scaler.get_scale() == 1.0, "from here on the scale is not what makes it overflow"
    with pytest.raises(NonFinite, match="step 17 and the 16 before it, with the loss scaled by 1") as raised:
        take(taker, parameter, MOST_IN_A_ROW, gradient)
    assert "float32 or bfloat16" in raised.value.remedy and "lower the learning rate" in raised.value.remedy
    assert taker.left_out == MOST_IN_A_ROW, "the step that ends the run is none of it"


def test_a_scale_that_had_grown_changes_nothing_about_it() -> None:
    taker, parameter = updates()
    taker.scaler.scale(torch.zeros(()))
    taker.scaler.update(2.0**30)
    for step in range(MOST_IN_A_ROW):
        assert not take(taker, parameter, step, float("nan"))
    with pytest.raises(NonFinite):
        take(taker, parameter, MOST_IN_A_ROW, float("nan"))


def test_every_second_step_left_out_comes_to_an_end_too() -> None:
    """Until the scale is below 1, where the gradient of the loss itself overflows."""
    taker, parameter = updates(total=1000)
    with pytest.raises(NonFinite, match="step 33,"):
        for step in range(100):
            take(taker, parameter, step, 1.0 if step % 2 else float("nan"))
    assert taker.left_out == 16


@pytest.mark.parametrize("total", [1, 5])
def test_a_run_without_any_update_is_divergence(total: int) -> None:
    taker, parameter = updates(total=total)
    with pytest.raises(NonFinite, match=f"step {total}"):
        for step in range(total):
            assert not take(taker, parameter, step, float("nan"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_loss_that_is_not_finite_is_divergence_at_once(precision: str) -> None:
    taker, parameter = updates(precision)
    parameter.grad = taker.scale(torch.ones(3))
    taker.unscale()
    with pytest.raises(NonFinite, match="not finite in step 8"):
        taker.take(7, float("nan"), 1.0)


def test_float32_leaves_nothing_out() -> None:
    taker, parameter = updates("float32")
    assert take(taker, parameter, 0, 1.0)
    with pytest.raises(NonFinite, match="step 2"):
        take(taker, parameter, 1, float("inf"))
    assert taker.flags(2) == taker.notes(2) == []


def test_what_a_reader_is_told() -> None:
    taker, _ = updates()
    taker.left_out = 4
    assert taker.notes(100) == ["4 of 100 steps were no updates: gradients passed the range of float16"]
    assert taker.flags(100) == []
    assert taker.flags(80) == ["float16 left out 5 % of the steps or more"]
    taker.in_a_row = 2
    assert "4 of 100 steps were no updates, the last 2 among them" in taker.notes(100)[0]


def test_state_goes_on_and_that_of_earlier_versions_too() -> None:
    taker, parameter = updates()
    for step in range(3):
        take(taker, parameter, step, float("inf"))
    later, _ = updates()
    later.load_state(taker.state())
    assert (later.left_out, later.in_a_row, later.scaler.get_scale()) == (3, 3, 2.0**13)
    old = {key: value for key, value in taker.state().items() if key not in ("left_out", "in_a_row")}
    oldest, _ = updates()
    oldest.load_state(old)
    assert (oldest.left_out, oldest.in_a_row, oldest.scaler.get_scale()) == (0, 0, 2.0**13)
    plain, _ = updates("float32")
    plain.load_state({})
    assert plain.left_out == 0


class _Broken(TrainingHook):
    """Makes gradients that are no numbers, of a loss that is finite: the derivative of a root at zero. Keeps what it is told."""

    def __init__(self, first: int = 10**9, last: int = 10**9) -> None:
        self.broken = range(first, last)
        self.trainer: Trainer | None = None
        self.step = -1
        self.told: list[bool] = []

    def before_step(self, step: int) -> None:
        self.step = step

    def penalty(self) -> torch.Tensor | None:
        assert self.trainer is not None
        tensors = self.trainer.trainable.values()
        return sum((0 * (0 * p).abs().sum().sqrt() for p in tensors), torch.zeros(())) if self.step in self.broken else None

    def after_step(self, step: int, updated: bool = True) -> None:
        self.told.append(updated)


def trainer(lab: Lab, folder: Path, first: int, last: int = 10**9, **changes: Any) -> tuple[Trainer, _Broken]:
    hook = _Broken(first, last)
    settings = {"precision": "float16", "train": {"epochs": 4, "weight_decay": 0.0}, **changes}
    made = lab.trainer(folder, "lora", hooks=(hook,), **settings)
    hook.trainer = made
    return made, hook


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_start_that_is_left_out_belongs_to_a_sound_run(lab: Lab, tmp_path: Path, decay: float) -> None:
    made, hook = trainer(lab, tmp_path, 0, 5, train={"epochs": 4, "weight_decay": decay})
    fitted = made.fit()
    assert hook.told == [False] * 5 + [True] * 19
    assert (fitted.steps, fitted.diverged_at) == (24, None)
    assert fitted.notes == ["5 of 24 steps were no updates: gradients passed the range of float16"]
    assert fitted.flags == ["float16 left out 5 % of the steps or more"]


def test_steps_left_out_between_the_two_updates_of_the_proof(lab: Lab, tmp_path: Path) -> None:
    made, hook = trainer(lab, tmp_path, 1, 3)
    assert made.fit().diverged_at is None
    assert hook.told[:5] == [True, False, False, True, True]


def test_a_step_left_out_counts_as_one_of_the_schedule(lab: Lab, tmp_path: Path) -> None:
    made, hook = trainer(lab, tmp_path, 2, 3)
    rates = []
    hook.after_backward = lambda step: rates.append(made.schedule.rate(step))  # pyright: ignore
    made.fit()
    assert made.optimizer.param_groups[0]["lr"] == made.schedule.rate(23) == rates[-1]
    assert made.step == 24 and hook.told.count(True) == 23
    assert {float(state["step"]) for state in made.optimizer.state.values()} == {23.0}


def test_gradients_that_stay_broken_are_divergence(lab: Lab, tmp_path: Path) -> None:
    made, _ = trainer(lab, tmp_path, 5)
    fitted = made.fit()
    assert fitted.diverged_at == 5 + MOST_IN_A_ROW == fitted.steps
    assert "step 22 and the 16 before it" in fitted.notes[0] and "use float32 or bfloat16" in fitted.notes[0]
    assert all(torch.isfinite(p).all() for p in made.trainable.values())


def stop_after(steps: int) -> Any:
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize(("first", "last"), [(0, 6), (3, 8), (5, 10**9)], ids=["at the start", "later", "to the end"])
def test_stopped_among_steps_left_out_and_resumed_equals_uninterrupted(lab: Lab, tmp_path: Path, first: int, last: int) -> None:
    quiet, _ = trainer(lab, tmp_path / "quiet", first, last)
    wanted = quiet.fit()
    kept: Any = {"listener": Lines()}
    for stop in (4, 3):
        cut, _ = trainer(lab, tmp_path / "cut", first, last, should_stop=stop_after(stop), cadence=Cadence(steps=1), **kept)
        with pytest.raises(Stopped):
            cut.fit()
    resumed, _ = trainer(lab, tmp_path / "cut", first, last, **kept)
    found = resumed.fit()
    assert (found.steps, found.diverged_at, found.flags) == (wanted.steps, wanted.diverged_at, wanted.flags)
    assert found.notes == wanted.notes
    assert resumed.updates.state() == quiet.updates.state()
    assert all(torch.equal(quiet.trainable[n].detach(), p.detach()) for n, p in resumed.trainable.items())


def test_a_run_that_is_resumed_before_its_second_update_is_still_proved(lab: Lab, tmp_path: Path) -> None:
    """Weights that no gradient reaches: all steps so far were left out, and that is no reason to leave the proof out."""
    stopped, _ = trainer(lab, tmp_path, 0, 6, should_stop=stop_after(5))
    with pytest.raises(Stopped):
        stopped.fit()
    resumed, hook = trainer(lab, tmp_path, 0, 6)
    dead = next(p for n, p in resumed.trainable.items() if "lora_A" in n)
    name = next(n for n, p in resumed.trainable.items() if p is dead)
    hook.after_backward = lambda step: dead.grad.zero_() if step >= 6 else None  # pyright: ignore
    with pytest.raises(DidNothing) as raised:
        resumed.fit()
    assert name in raised.value.where
