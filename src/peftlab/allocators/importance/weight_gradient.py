"""How much the loss would change without a weight, by the mean gradient: GoRA's importance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from peftlab.allocators.importance._meters import by_direction, of_directions
from peftlab.allocators.importance.contract import Importance, Meter, Scores
from peftlab.nn.parts import Part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightGradient(Importance):
    """Mean of |w G| over the weights of a module, with w now and G its mean gradient over the steps (He et al. 2025, section 3).

    Of direction i: the mean over its row of A and its column of B. Unlike the sensitivity, gradients of opposite sign cancel.
    """

    name: ClassVar[str] = "weight_gradient"
    copies_weights: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{he2025gora,
  title = {{GoRA}: Gradient-driven Adaptive Low Rank Adaptation},
  author = {He, Haonan and Ye, Peng and Ren, Yuchen and Yuan, Yuan and Zhou, Luyang and Ju, Shucun and Chen, Lei},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2025},
  url = {https://arxiv.org/abs/2502.12171}
}"""

    def meter(self, parts: Mapping[str, Part]) -> Meter:
        return _Accumulated(parts)


class _Accumulated(Meter):
    """The sum of all gradients in one vector."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.parts = dict(parts)
        self.tensors = [tensor for part in self.parts.values() for tensor, _ in part.tensors]
        self.reset()

    def reset(self) -> None:
        self.steps = 0
        self.gradients = self.tensors[0].new_zeros(sum(tensor.numel() for tensor in self.tensors)).detach()

    @torch.no_grad()
    def observe(self) -> None:
        gradients = [t.grad if t.grad is not None else torch.zeros_like(t) for t in self.tensors]
        now = torch.cat([gradient.flatten() for gradient in gradients])
        if not bool(now.sum().isfinite()):
            return
        self.gradients += now
        self.steps += 1

    @torch.no_grad()
    def scores(self) -> dict[str, Scores]:
        means = iter((self.gradients / max(1, self.steps)).split([t.numel() for t in self.tensors]))
        found = {}
        for name, part in self.parts.items():
            sums = torch.stack([by_direction((t * next(means).view_as(t)).abs(), dim) for t, dim in part.tensors]).sum(dim=0)
            weights = sum(tensor.numel() for tensor, _ in part.tensors)
            found[name] = Scores(float(sums.sum() / weights), of_directions(part, sums * len(sums) / weights))
        return found

    def state(self) -> dict[str, Any]:
        return {"gradients": self.gradients, "steps": self.steps}

    def load_state(self, state: dict[str, Any]) -> None:
        if state:
            self.reset()  # ranks may have changed since the start
            self.gradients.copy_(state["gradients"])
            self.steps = state["steps"]
