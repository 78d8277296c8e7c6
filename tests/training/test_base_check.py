"""What is recorded of the frozen base: its size, that its bytes stayed, that nothing frozen holds a gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.errors import BaseChanged
from peftlab.nn.hooks import TrainingHook
from tests.training.conftest import Lab

GROUPS = {"name": "groupwise", "type": "int4", "group_size": 8}


@pytest.mark.parametrize("adapter", ["lora", "full", "linear-probe"])
def test_every_frozen_tensor_is_counted(lab: Lab, tmp_path: Path, adapter: str) -> None:
    trainer = lab.trainer(tmp_path, adapter)
    trainer.fit()
    frozen = [p for p in trainer.adapted.module.parameters() if not p.requires_grad]
    found = trainer.base_check
    assert (found["tensors"], found["bytes"]) == (len(frozen), 4 * sum(p.numel() for p in frozen))
    assert found["unchanged"] and found["with_gradient"] == 0 and len(found["sha256"]) == 64


def test_codes_and_scales_count(lab: Lab, tmp_path: Path) -> None:
    plain, packed = lab.trainer(tmp_path / "a", "linear-probe"), lab.trainer(tmp_path / "b", "linear-probe", quantizer=GROUPS)
    plain.fit()
    packed.fit()
    assert packed.base_check["tensors"] == plain.base_check["tensors"] + 2 * 12  # codes, scale and zero point for one weight
    assert packed.base_check["bytes"] < plain.base_check["bytes"] and packed.base_check["sha256"] != plain.base_check["sha256"]


def test_a_gradient_on_a_frozen_tensor_is_an_error(lab: Lab, tmp_path: Path) -> None:
    class Leak(TrainingHook):
        def after_step(self, step: int, updated: bool = True) -> None:
            parameter = next(p for p in trainer.adapted.module.parameters() if not p.requires_grad)
            parameter.grad = torch.zeros_like(parameter)

    trainer: Any = lab.trainer(tmp_path, "lora", hooks=(Leak(),))
    with pytest.raises(BaseChanged):
        trainer.fit()
    assert trainer.base_check == {}
