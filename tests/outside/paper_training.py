"""A whole training as a paper writes it: W = W0 + update in every forward pass of the library's plain model, AdamW by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftlab.nn.hooks import TrainingHook
from peftlab.training.loop import Trainer
from peftlab.training.passes import Passes
from tests.outside.paper_adamw import PaperAdamW, clip

Parts = dict[str, dict[str, Tensor]]


class PaperRun:
    """Float64 parameters of its own, a plain model whose weights it never changes, and an optimizer of its own."""

    def __init__(
        self,
        plain: nn.Module,
        frozen: Mapping[str, Tensor],
        parts: Parts,
        head: Mapping[str, Tensor],
        update: Callable[[dict[str, Tensor]], Tensor],
        *,
        decay: float,
        clip_norm: float,
    ) -> None:
        """``frozen``: layer -> its weight; ``parts``: layer -> its trained tensors; ``update``: [d_out, d_in] of them."""
        self.plain, self.frozen, self.update, self.clip_norm = plain.double().eval(), frozen, update, clip_norm
        self.parts = {n: {k: t.detach().double().clone().requires_grad_() for k, t in p.items()} for n, p in parts.items()}
        self.head = {n: t.detach().double().clone().requires_grad_() for n, t in head.items()}
        self.weights = {f"{n}/{k}": t for n, p in self.parts.items() for k, t in p.items()} | self.head
        self.optimizer = PaperAdamW(
            self.weights,
            decay={n: 0.0 if n.endswith("bias") else decay for n in self.weights},
            betas=(0.9, 0.999),
            eps=1e-8,
        )

    def logits(self, pixels: Tensor) -> Tensor:
        """Of the plain model with the weights that the method stands for."""
        weights: dict[str, Tensor] = {f"{name}.weight": value for name, value in self.frozen.items()} | self.head
        for name, parts in self.parts.items():
            base = self.frozen[name] if name in self.frozen else self.plain.get_submodule(name).weight.detach()
            weights[f"{name}.weight"] = base + self.update(parts)  # pyright: ignore
        return torch.func.functional_call(self.plain, weights, (pixels.double(),)).logits

    def step(self, pixels: Tensor, labels: Tensor, rate: float, penalty: Tensor | float = 0.0) -> tuple[float, dict[str, Tensor]]:
        """One update; the loss and the gradients before clipping."""
        picked = torch.log_softmax(self.logits(pixels), dim=-1)[torch.arange(len(labels)), labels]
        loss = -picked.mean() + penalty
        found = torch.autograd.grad(loss, [*self.weights.values()])
        gradients = dict(zip(self.weights, found, strict=True))
        clipped = clip(gradients, self.clip_norm)
        self.optimizer.step(clipped, rate)
        return float(loss.detach()), clipped


class Kept(TrainingHook):
    """What is trained, after each step; runs behind the method's own hooks."""

    name = "kept"

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.steps: list[dict[str, Tensor]] = []

    def after_step(self, step: int, updated: bool = True) -> None:
        assert self.trainer is not None
        self.steps.append({n: p.detach().clone() for n, p in self.trainer.trainable.items()})


class Double(Passes):
    """Float64 through the whole model."""

    def outputs(self, adapted: Any, inputs: Mapping[str, Tensor]) -> Any:
        return super().outputs(adapted, {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()})


def in_double(trainer: Trainer) -> Trainer:
    """The same trainer, computing in float64."""
    trainer.adapted.module.double()
    trainer.passes = Double()
    return trainer


def batches(trainer: Trainer) -> list[tuple[Tensor, Tensor, float]]:
    """Pixels, labels and learning rate of every step that the trainer is going to make."""
    found = []
    for step in range(trainer.schedule.total):
        (indices,) = trainer.schedule.micro_batches(step, trainer.splits.train, trainer.seed)
        batch = trainer.task.batch(indices, None)
        found.append((trainer.task.inputs(batch)["pixel_values"], batch["labels"], trainer.schedule.rate(step)))
    return found
