"""Stacked and compiled steps on the accelerator: the numbers of plain ones, to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peftlab.training.compiled import Compiled
from peftlab.training.loop import Fitted
from tests.training.conftest import Lab
from tests.training.test_stack import together

pytestmark = pytest.mark.gpu


@pytest.mark.usefixtures("deterministic")
def test_stacked_runs_get_what_they_get_alone(lab: Lab, tmp_path: Path, device: torch.device) -> None:
    arms = [{"name": "lora", "rank": 4, "dropout": 0.1}, {"name": "lora", "rank": 2, "targets": "all-linear"}, {"name": "svd"}]
    alone, joint = (
        [lab.trainer(tmp_path / where / str(seed), arm, seed=seed, device=device) for seed, arm in enumerate(arms)]
        for where in ("alone", "joint")
    )
    for trainer in alone:
        trainer.fit()
    found, members = together(joint, device)
    assert all(isinstance(fitted, Fitted) for fitted in found), found
    assert all(member.joint == member.passes for member in members), [member.alone for member in members]
    for one, other in zip(alone, joint, strict=True):
        assert one.listener.losses == pytest.approx(other.listener.losses, rel=1e-3)  # pyright: ignore


@pytest.mark.usefixtures("deterministic")
def test_compiled_steps_give_what_plain_ones_give(lab: Lab, tmp_path: Path, device: torch.device) -> None:
    adapter = {"name": "lora", "dropout": 0.1}
    plain, made = (lab.trainer(tmp_path / name, adapter, device=device) for name in ("plain", "compiled"))
    passes = Compiled(tmp_path / "cache", device, "float32")
    batch = made.task.inputs(made.task.batch(made.splits.train[:16]))
    passes.prepare(made.adapted, {name: tensor.to(device) for name, tensor in batch.items()})
    assert passes.why == ""
    made.passes = passes
    plain.fit(), made.fit()
    assert passes.passes and made.listener.losses == pytest.approx(plain.listener.losses, rel=1e-3)  # pyright: ignore
