"""How much the loss would change without a weight, smoothed, times how unsure that is: AdaLoRA's importance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from peftlab.allocators.importance._meters import by_direction
from peftlab.allocators.importance.contract import Importance, Meter, Scores
from peftlab.errors import OptionError
from peftlab.nn.parts import Part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity(Importance):
    """s = I_bar U_bar per weight, with I = |w g| (Zhang et al. 2023, section 3.2, equations 8 to 10).

    I_bar = b1 I_bar + (1 - b1) I; U_bar = b2 U_bar + (1 - b2) |I - I_bar| with the updated I_bar. Of direction i: the sum over
    the module's tensors of the mean of s over the direction's entries. Of a module: the mean over its directions; without
    directions, over its weights.
    """

    name: ClassVar[str] = "sensitivity"
    copies_weights: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{zhang2023adalora,
  title = {Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning},
  author = {Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu
    and Zhao, Tuo},
  booktitle = {International Conference on Learning Representations}, year = {2023},
  url = {https://openreview.net/forum?id=lq62uWRJjiY}
}"""

    beta1: float = 0.85  #: smoothing of the sensitivity
    beta2: float = 0.85  #: smoothing of its uncertainty

    def __post_init__(self) -> None:
        for option in ("beta1", "beta2"):
            if not 0 < getattr(self, option) < 1:
                raise OptionError(f"must be between 0 and 1, got {getattr(self, option)}", where=option, remedy="e.g. 0.85")

    def meter(self, parts: Mapping[str, Part]) -> Meter:
        return _Smoothed(parts, self.beta1, self.beta2)


class _Smoothed(Meter):
    """I_bar and U_bar of all weights in two vectors: a handful of operations a step."""

    def __init__(self, parts: Mapping[str, Part], beta1: float, beta2: float) -> None:
        self.parts, self.beta1, self.beta2 = dict(parts), beta1, beta2
        self.tensors = [tensor for part in self.parts.values() for tensor, _ in part.tensors]
        self.reset()

    def reset(self) -> None:
        self.importance = self.tensors[0].new_zeros(sum(tensor.numel() for tensor in self.tensors)).detach()
        self.uncertainty = torch.zeros_like(self.importance)

    @torch.no_grad()
    def observe(self) -> None:
        gradients = [t.grad if t.grad is not None else torch.zeros_like(t) for t in self.tensors]
        now = torch.cat([(t * g).flatten() for t, g in zip(self.tensors, gradients, strict=True)]).abs_()
        if not bool(now.sum().isfinite()):
            return
        self.importance.mul_(self.beta1).add_(now, alpha=1 - self.beta1)
        self.uncertainty.mul_(self.beta2).add_((now - self.importance).abs_(), alpha=1 - self.beta2)

    def scores(self) -> dict[str, Scores]:
        products = iter((self.importance * self.uncertainty).split([t.numel() for t in self.tensors]))
        found = {}
        for name, part in self.parts.items():
            sums = []
            for tensor, dim in part.tensors:
                size = tensor.shape[dim] if dim is not None else 1
                sums.append(by_direction(next(products).view_as(tensor), dim) * size / tensor.numel())
            values = torch.stack(sums).sum(dim=0)
            found[name] = Scores(float(values.mean()), values if part.directions else values[:0])
        return found

    def state(self) -> dict[str, Any]:
        return {"importance": self.importance, "uncertainty": self.uncertainty}

    def load_state(self, state: dict[str, Any]) -> None:
        if state:
            self.reset()  # ranks may have changed since the start
            self.importance.copy_(state["importance"])
            self.uncertainty.copy_(state["uncertainty"])
