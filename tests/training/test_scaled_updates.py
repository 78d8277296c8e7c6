"""``scale_updates`` of a group-wise quantizer beside every allocator that acts during training.

Both have a say in each step: the quantizer in how far it goes, the allocator in what is left of it. A new allocator is tested by
being registered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab import registry
from peftlab.allocators.contract import HOOK
from peftlab.errors import Stopped
from peftlab.nn.hooks import TrainingHook
from peftlab.training.loop import Trainer
from tests.contracts.conftest import samples
from tests.training.conftest import Lab
from tests.training.test_loop import same, stop_after, weights

QUANTIZER = {"name": "groupwise", "type": "int2", "group_size": 8, "scale_updates": True}  # few codes: factors far below 1
TRAIN = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-2}  # 24 steps
LORA = {"name": "lora", "rank": 4, "targets": "all-linear"}
TRIPLETS = (
    {"name": "svd", "rank": 4, "targets": "all-linear"},
    {"name": "pooled", "form": "svd", "rank": 2, "targets": "all-linear"},
)
#: budgets that fit 12 modules, and schedules that fit 24 steps, where a sample's do not
FITTING: dict[str, dict[str, Any]] = {
    "adalora": {"budget": {"ranks": 20}, "initial_steps": 4, "final_steps": 12, "every": 3},
    "increlora": {"budget": {"ranks": 20}, "initial_steps": 3, "every": 4},
    "sora": {"threshold": 2e-2, "l1": 0.0},
}


def acting() -> list[Any]:
    """(adapter, allocator) for each option set of an allocator that changes the model while it trains."""
    found = []
    for sample in samples("allocator"):
        spec = {**sample.spec, **FITTING.get(sample.name, {})}
        allocator = registry.create("allocator", spec)
        if allocator.acts and not allocator.needs_probe:  # who looks at the base has decided before training
            adapters = TRIPLETS if allocator.needs_triplets else (LORA,)
            found += [pytest.param(adapter, spec, id=f"{adapter['name']}+{sample}") for adapter in adapters]
    return found


class Left(TrainingHook):
    """What the allocator left of each step, and what the next one begins with."""

    name = "left"

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.left, self.changed = trainer, {}, 0
        allocator = hook_of(trainer)
        act = allocator.after_step

        def after_step(step: int, updated: bool = True) -> None:
            before = self.now()
            act(step, updated)
            self.left = self.now()
            self.changed += not same(before, self.left)

        allocator.after_step = after_step

    def now(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.trainer.adapted.trainable().items()}

    def before_step(self, step: int) -> None:
        assert not self.left or same(self.left, self.now()), f"somebody changed the weights behind the allocator in step {step}"


def hook_of(trainer: Trainer) -> Any:
    return next(hook for hook in trainer.hooks if hook.name == HOOK)


@pytest.mark.parametrize(("adapter", "allocator"), acting())
def test_what_an_allocator_leaves_is_what_the_next_step_begins_with(
    lab: Lab, tmp_path: Path, adapter: dict[str, Any], allocator: dict[str, Any]
) -> None:
    trainer = lab.trainer(tmp_path, adapter, train=TRAIN, allocator=allocator, quantizer=QUANTIZER)
    watch = Left(trainer)
    trainer.chain.hooks = [*trainer.chain.hooks, watch]
    assert trainer.fit().steps == 24  # no DidNothing: budgets are met
    assert watch.changed or allocator["name"] == "dylora", "which leaves directions out of forward passes alone"


@pytest.mark.parametrize("name", ["adalora", "increlora"])
@pytest.mark.parametrize("adapter", TRIPLETS, ids=lambda spec: spec["name"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    lab: Lab, tmp_path: Path, adapter: dict[str, Any], name: str
) -> None:
    options: dict[str, Any] = {"train": TRAIN, "allocator": {"name": name, **FITTING[name]}, "quantizer": QUANTIZER}
    quiet = lab.trainer(tmp_path / "quiet", adapter, **options)
    quiet.fit()
    for stop in (2, 7, 9):  # after steps 2, 9 and 18: before, between and after additions and masks
        with pytest.raises(Stopped):
            lab.trainer(tmp_path / "cut", adapter, should_stop=stop_after(stop), **options).fit()
    resumed = lab.trainer(tmp_path / "cut", adapter, **options)
    assert resumed.fit().resumed == 3
    assert same(weights(quiet), weights(resumed))
    assert hook_of(quiet).report() == hook_of(resumed).report()
