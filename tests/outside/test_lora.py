"""LoRA through our training loop is PEFT in a plain loop: every trained tensor after every step."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from tests.contracts.tiny import make
from tests.outside.paper_training import Kept, batches, in_double
from tests.training.conftest import Lab, Lines

TRAIN = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-2, "weight_decay": 0.02, "clip_norm": 0.5}
RANK = 3
#: family -> our targets, PEFT's pattern
TARGETS = {
    "vit": ("standard", r".*attention\.(q|v)(_proj)?|.*attention\.attention\.(query|value)"),
    "timm": ("fused", r".*attn\.qkv"),
}


def in_evaluation(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pixels are float32 there, which timm, unlike transformers, does not convert."""
    return tuple(value.double() if torch.is_tensor(value) else value for value in arguments)


@pytest.mark.parametrize("family", TARGETS)
def test_every_step_of_a_training_is_that_of_peft_in_a_plain_loop(lab: Lab, tmp_path: Path, family: str) -> None:
    """Initial values, the order of the data and learning rates are ours; model, layers, AdamW and clipping are the libraries'."""
    targets, pattern = TARGETS[family]
    if family != "vit":
        lab = dataclasses.replace(lab, backbone=str(make(family, tmp_path / family)))
    kept, lines = Kept(), Lines()
    lora = {"name": "lora", "rank": RANK, "targets": targets, "dropout": 0.0}
    trainer = in_double(lab.trainer(tmp_path / "ours", lora, train=TRAIN, hooks=(kept,), listener=lines))
    kept.trainer = trainer
    trainer.adapted.module.register_forward_pre_hook(in_evaluation)
    plain: Any = copy.deepcopy(lab.trainer(tmp_path / "plain", "full").adapted.module).requires_grad_(False)
    head = sorted(
        {name.split(".modules_to_save")[0].rpartition(".")[2] for name in trainer.trainable if "modules_to_save" in name}
    )
    options = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=pattern, modules_to_save=head)
    model = peft.get_peft_model(plain, options).double().train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == trainer.trainable.keys()
    for name, parameter in trained.items():
        parameter.data.copy_(trainer.trainable[name])
    groups = [
        {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": TRAIN["weight_decay"]},
        {"params": [p for p in trained.values() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    steps = batches(trainer)
    trainer.fit()
    moved = 0.0
    for t, (pixels, labels, rate) in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate
        before = {name: parameter.detach().clone() for name, parameter in trained.items()}
        outputs = model(pixels.double())
        loss = torch.nn.functional.cross_entropy(getattr(outputs, "logits", outputs), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), TRAIN["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        assert loss.item() == pytest.approx(lines.losses[t], rel=1e-6), f"step {t}"  # our loss takes logits in float32
        for name, parameter in trained.items():
            torch.testing.assert_close(kept.steps[t][name], parameter.detach(), rtol=1e-4, atol=1e-7, msg=f"step {t}, {name}")
            moved = max(moved, float((parameter.detach() - before[name]).abs().max()))
    assert len(steps) == 18 and moved > 1e-2
