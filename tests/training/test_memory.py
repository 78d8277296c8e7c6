"""Measured memory: against sizes known beforehand, and without influence on any result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from peftlab.errors import Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.training.loop import Cadence
from peftlab.training.memory import LAST_STEP, PARTS, MemoryMeter, split_peak, tensor_mb
from peftlab.training.resident import reset_peak
from tests.training.conftest import Lab

CPU = torch.device("cpu")


@given(st.floats(0, 1e4), st.lists(st.floats(0, 1e4), min_size=len(PARTS) - 1, max_size=len(PARTS) - 1))
def test_parts_are_never_negative_and_sum_to_the_peak(peak: float, sizes: list[float]) -> None:
    parts = split_peak(peak, dict(zip(PARTS[:-1], sizes, strict=True)))
    assert tuple(parts) == PARTS
    assert min(parts.values()) >= 0.0
    assert sum(parts.values()) == pytest.approx(peak)


def test_shared_storages_count_once() -> None:
    whole = torch.zeros(1000, 250)
    assert tensor_mb([whole, whole[:10], whole.T, None]) == pytest.approx(1.0)


def measured(lab: Lab, folder: Path, adapter: str, **train: Any) -> tuple[dict[str, Any], Any]:
    meter = MemoryMeter(CPU)
    trainer = lab.trainer(folder, adapter, train={"max_steps": 6, **train})
    trainer.hooks.append(meter.hook(trainer.adapted))
    with meter:
        trainer.fit()
        meter.sample()
    return meter.result(trainer.adapted, trainer.optimizer), trainer


@pytest.mark.parametrize("adapter", ["full", "linear-probe", "lora"])
def test_tensors_are_reported_to_the_byte(lab: Lab, tmp_path: Path, adapter: str) -> None:
    found, trainer = measured(lab, tmp_path, adapter)
    tensors, parts = found["tensors_mb"], found["measured"]
    trainable = 4 * sum(p.numel() for p in trainer.trainable.values()) / 1e6
    frozen = 4 * sum(p.numel() for p in trainer.adapted.module.parameters() if not p.requires_grad) / 1e6
    assert tensors["adapter"] == pytest.approx(trainable, abs=1e-5)
    assert tensors["weights"] >= frozen - 1e-5  # buffers come on top
    assert tensors["optimizer"] == pytest.approx(2 * trainable + 4e-6 * len(trainer.trainable), abs=1e-5)
    assert tensors["gradients"] == pytest.approx(trainable, abs=1e-5)
    assert sum(parts.values()) == pytest.approx(found["measured_peak_mb"], abs=0.01)
    assert found["process_peak_mb"] >= found["measured_peak_mb"]
    json.dumps(found, allow_nan=False)


class Releases(TrainingHook):
    """Gives a buffer back before that step, as a schedule of quantization does with float weights."""

    name = "releases"

    def __init__(self, module: nn.Module, at: int, meter: MemoryMeter) -> None:
        self.module, self.at, self.meter = module, at, meter

    def before_step(self, step: int) -> None:
        if step == self.at:
            self.module.register_buffer("ballast", None, persistent=False)

    def after_step(self, step: int, updated: bool = True) -> None:
        self.meter.sample()


@pytest.mark.parametrize("at", [LAST_STEP - 1, LAST_STEP, LAST_STEP + 1])
def test_weights_that_go_after_the_peak_are_part_of_it(lab: Lab, tmp_path: Path, at: int) -> None:
    meter = MemoryMeter(CPU)
    trainer = lab.trainer(tmp_path, "lora", train={"max_steps": LAST_STEP + 2})
    module = trainer.adapted.module
    module.register_buffer("ballast", torch.ones(1_000_000), persistent=False)
    for hook in (meter.hook(trainer.adapted), Releases(module, at, meter)):
        trainer.hooks.append(hook)
    with meter:
        trainer.fit()
    found = meter.result(trainer.adapted, trainer.optimizer)
    assert module.ballast is None
    assert found["measured"]["weights"] == pytest.approx(found["tensors_mb"]["weights"] + 4.0, abs=1e-3)


def test_measuring_changes_no_result(lab: Lab, tmp_path: Path) -> None:
    plain = lab.trainer(tmp_path / "a", "lora", train={"max_steps": 6})
    plain.fit()
    _, metered = measured(lab, tmp_path / "b", "lora")
    for name, parameter in plain.trainable.items():
        assert torch.equal(parameter, metered.trainable[name]), name


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_runs_shorter_than_the_measurement_are_measured_too(lab: Lab, tmp_path: Path, steps: int) -> None:
    found, _ = measured(lab, tmp_path, "lora", max_steps=steps)
    assert found["measured_peak_mb"] > 0
    assert found["tensors_mb"]["activations"] > 0


@pytest.fixture
def parted(lab: Lab, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Measurements of a run of ``total`` steps whose processes stop after so many steps each, the last at its end."""

    def go(*left: int, forget: bool = False, total: int = 6) -> list[dict[str, Any]]:
        found = []
        for steps in (*left, None):
            meter, asked = MemoryMeter(CPU), iter(range(10_000))
            trainer = lab.trainer(
                tmp_path, train={"max_steps": total}, cadence=Cadence(steps=1, seconds=float("inf")),
                should_stop=lambda steps=steps, asked=asked: next(asked) + 1 == steps,
            )  # fmt: skip
            hook = meter.hook(trainer.adapted)
            if forget:
                hook.state = dict
            trainer.hooks.append(hook)
            with meter, contextlib.suppress(Stopped):
                trainer.fit()
                meter.sample()
            found.append(meter.result(trainer.adapted, trainer.optimizer))
        return found

    return go


def test_a_run_continued_at_its_end_has_the_peak_of_the_process_that_trained(parted: Callable[..., Any]) -> None:
    """The last process only takes up the last checkpoint."""
    first, last = parted(6)
    assert last["measured_peak_mb"] == first["measured_peak_mb"] and last["measured"] == first["measured"]
    assert last["tensors_mb"] == first["tensors_mb"] and last["tensors_mb"]["activations"] > 0
    assert last["mean_mb"] is not None and not last["notes"]


@pytest.mark.parametrize("peaks", [(900.0, 800.0), (800.0, 900.0)])
def test_the_peak_of_a_continued_run_is_the_largest_of_its_processes(
    parted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, peaks: tuple[float, float]
) -> None:
    meters: list[MemoryMeter] = []

    def peak(self: MemoryMeter) -> float:
        meters.extend([self] * (self not in meters))
        return peaks[meters.index(self)]

    monkeypatch.setattr(MemoryMeter, "_peak", peak)
    first, last = parted(LAST_STEP, total=2 * LAST_STEP)
    assert (first["measured_peak_mb"], last["measured_peak_mb"]) == (peaks[0], 900.0)
    assert last["process_peak_mb"] >= 900.0


@pytest.mark.parametrize(("left", "forget"), [((3,), False), ((5,), True)])
def test_where_no_process_took_the_steps_there_is_no_peak(parted: Callable[..., Any], left: Any, forget: bool) -> None:
    """Also not where the checkpoint does not say what was measured before."""
    last = parted(*left, forget=forget)[-1]
    assert last["measured_peak_mb"] is last["measured"] is last["tensors_mb"]["activations"] is None
    assert last["tensors_mb"]["weights"] > 0 and last["process_peak_mb"] > 0
    assert "the run was continued" in last["notes"][-1]
    json.dumps(last, allow_nan=False)


def test_activations_are_what_autograd_keeps(lab: Lab, tmp_path: Path) -> None:
    """One step's saved tensors, counted by PyTorch's graph itself: each node's ``_saved_*`` attributes."""
    found, trainer = measured(lab, tmp_path, "full", max_steps=2)
    batch = trainer.task.batch(trainer.splits.train[: trainer.schedule.batch])
    loss = trainer._loss(batch)
    kept: dict[int, int] = {}
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [following for following, _ in node.next_functions]
        for name in dir(node):
            value = getattr(node, name) if name.startswith("_saved_") else None
            for tensor in value if isinstance(value, tuple | list) else [value]:
                if torch.is_tensor(tensor):
                    kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    for tensor in trainer.adapted.module.parameters():
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    assert found["tensors_mb"]["activations"] == pytest.approx(sum(kept.values()) / 1e6, rel=0.02)


def test_accumulation_counts_what_one_micro_batch_keeps(lab: Lab, tmp_path: Path) -> None:
    alone, _ = measured(lab, tmp_path / "a", "full", batch_size=8, max_steps=2)
    summed, _ = measured(lab, tmp_path / "b", "full", batch_size=8, effective_batch_size=32, max_steps=2)
    assert summed["tensors_mb"]["activations"] == pytest.approx(alone["tensors_mb"]["activations"], rel=0.01)


def test_a_step_that_raises_leaves_no_hooks_behind(lab: Lab, tmp_path: Path) -> None:
    meter = MemoryMeter(CPU)
    hook = meter.hook(lab.trainer(tmp_path).adapted)
    hook.start(1, torch.optim.SGD([nn.Parameter(torch.zeros(1))]))
    with pytest.raises(MemoryError), meter:
        hook.before_step(0)
        raise MemoryError
    counted = meter.saved_mb
    (torch.ones(1000, requires_grad=True) ** 2).sum().backward()
    assert meter.saved_mb == counted
    assert getattr(hook, "hooks", None) is None
    reset_peak()
