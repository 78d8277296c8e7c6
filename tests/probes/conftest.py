"""Probes are tested on the tiny trainer of the training tests, and on tiny models of texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from peftlab.adapters.contract import Adapted
from peftlab.execution.watching import amounts
from peftlab.nn.hooks import TrainingHook
from peftlab.probes.contract import Probe, View
from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.loop import Cadence, Trainer
from tests.tasks.texts import shared_bert, shared_gpt2, shared_instructions, shared_llama, write_sst2
from tests.training.conftest import Lab, cache, lab, tiny_backbone

TEXTS = {"bert": shared_bert, "gpt2": shared_gpt2, "llama": shared_llama}


def view(trainer: Trainer, fresh: Callable[[], Adapted] | None = None, zero_at_start: bool | None = None) -> View:
    """What the worker would give a probe; ``fresh`` is only needed by probes that ask for it."""
    known = trainer.adapted.adapter.zero_at_start if zero_at_start is None else zero_at_start
    return View(
        task=trainer.task, splits=trainer.splits, device=trainer.device, precision=trainer.precision,
        amount=amounts(trainer.task, trainer.splits, trainer.train, trainer.seed), zero_at_start=known,
        fresh=fresh or (lambda: pytest.fail("no model was to be made anew")),
    )  # fmt: skip


def watch(trainer: Trainer, probe: Probe, fresh: Callable[[], Adapted] | None = None) -> Any:
    """The probe's hook, acting on this trainer."""
    hook = probe.hook(trainer.adapted, view(trainer, fresh))
    assert hook is not None
    add(trainer, hook)
    return hook


def add(trainer: Trainer, *hooks: TrainingHook) -> None:
    trainer.hooks = [*trainer.hooks, *hooks]
    trainer.chain.hooks = trainer.hooks


@pytest.fixture(scope="session")
def text_trainer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any], Trainer]:
    """(kind of model, adapter) -> a trainer of four steps: two classes of short texts, of Llama packed instructions."""
    root = tmp_path_factory.mktemp("texts")
    classes = {"kind": "text-classification", "data": {"name": "sst2", "path": str(write_sst2(root / "data", 100, 40))}}
    packed = {"kind": "instruction-tuning", "data": {"name": "alpaca", "path": str(shared_instructions())}}
    packed |= {"template": "{instruction} : {input} ."}

    def make(kind: str, adapter: Any) -> Trainer:
        ingredients = Ingredients.of(
            backbone=str(TEXTS[kind]()),
            task=packed if kind == "llama" else classes,
            adapter=adapter,
            allocator=None,
            quantizer={"name": "none"},
        )
        task = ingredients.task.prepare(ingredients.preprocessing(), root / "cache")
        return Trainer(
            adapted=ingredients.build(task.info.outputs, 0),
            task=task,
            splits=task.splits(0),
            train=Train(max_steps=4, batch_size=8, learning_rate=3e-2),
            seed=0,
            device=torch.device("cpu"),
            precision="float32",
            checkpoints=Checkpoints(tmp_path_factory.mktemp("run")),
            cadence=Cadence(seconds=float("inf")),
        )

    return make


__all__ = ["Lab", "cache", "lab", "tiny_backbone"]
