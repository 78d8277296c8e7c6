"""AdaLoRA through our training loop is AdaLoRA written from the paper, after every step: triplets, lambda, budget, head, loss."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from peftlab.nn.triplets import TripletLinear
from tests.outside.paper_adalora import Module, budget, mask, penalty
from tests.outside.paper_training import Kept, PaperRun, batches, in_double
from tests.training.conftest import Lab, Lines

START, TARGET, WARMUP, FINAL, EVERY, TOTAL = 4, 6, 3, 6, 2, 24
ADALORA = {
    "name": "adalora",
    "budget": {"ranks": TARGET},
    "initial_rank": START,
    "initial_steps": WARMUP,
    "final_steps": FINAL,
    "every": EVERY,
    "orthogonality": 0.1,
}
TRAIN = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-2, "weight_decay": 0.02, "clip_norm": 0.5}
SCALE = 2.0  # alpha / r0, as of our LoRA


def test_every_step_of_a_training_is_the_papers(lab: Lab, tmp_path: Path) -> None:
    """Learning rate, order of the data and initial values are ours; all else is computed twice."""
    kept, lines = Kept(), Lines()
    svd = {"name": "svd", "targets": "standard"}
    trainer = in_double(lab.trainer(tmp_path, svd, train=TRAIN, allocator=ADALORA, hooks=(kept,), listener=lines))
    kept.trainer = trainer
    plain = copy.deepcopy(lab.trainer(tmp_path / "plain", "full").adapted.module)
    names = [site.name for site in trainer.adapted.sites]
    layers: dict[str, TripletLinear] = {n: trainer.adapted.module.get_submodule(n) for n in names}  # pyright: ignore
    theirs = PaperRun(
        plain,
        {},
        {n: {"P": layer.P, "L": layer.singular_values, "Q": layer.Q} for n, layer in layers.items()},
        {n: p for n, p in trainer.trainable.items() if trainer.adapted.is_head(n)},
        lambda part: SCALE * (part["P"] * part["L"].T) @ part["Q"],
        decay=0.02,
        clip_norm=0.5,
    )
    modules = {n: Module(part["P"], part["L"].detach().view(-1), part["Q"]) for n, part in theirs.parts.items()}
    assert len(modules) == 4 and trainer.schedule.total == TOTAL
    steps = batches(trainer)
    trainer.fit()

    masks: list[frozenset[int]] = []
    for t, (pixels, labels, rate) in enumerate(steps):
        loss, gradients = theirs.step(pixels, labels, rate, 0.1 * penalty([*modules.values()]))
        assert loss == pytest.approx(lines.losses[t], rel=1e-6), f"step {t}"  # our loss takes logits in float32
        if t < TOTAL - FINAL:
            for name, module in modules.items():
                module.observe({key: gradients[f"{name}/{key}"] for key in "PLQ"})
        if t > TOTAL - FINAL or (t > WARMUP and t % EVERY == 0):
            keep = budget(t, first=START * len(modules), last=TARGET, warmup=WARMUP, final=FINAL, total=TOTAL)
            mask([*modules.values()], keep)
            on = torch.cat([m.lam for m in modules.values()]).nonzero().flatten()
            masks.append(frozenset(on.tolist()))
            assert len(on) == keep
        for name in names:
            for key, ours in (("P", "P"), ("L", "singular_values"), ("Q", "Q")):
                found, wanted = kept.steps[t][f"{name}.{ours}"], theirs.parts[name][key].detach()
                assert torch.equal(found == 0, wanted == 0), f"other triplets are off after step {t} in {name}"
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7, msg=f"step {t}, {name}, {key}")
        for name, wanted in theirs.head.items():
            torch.testing.assert_close(kept.steps[t][name], wanted.detach(), rtol=1e-4, atol=1e-7)
    assert len(set(masks)) > 4 and len(masks[-1]) == TARGET
    assert set(masks[-FINAL + 1 :]) == {masks[-1]}, "the mask holds in the final phase"
