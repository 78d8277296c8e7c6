"""How far a module has moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch

from peftlab.allocators.importance._meters import Mean
from peftlab.allocators.importance.contract import Importance, Meter
from peftlab.nn.parts import Part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude(Importance):
    """||s B A||_F / sqrt(d_in d_out): the root mean square change of a weight of the module, mean over the steps.

    Of direction i: s ||b_i|| ||a_i|| / sqrt(d_in d_out), with b_i a column of B and a_i a row of A (as |lambda_i| in
    Zhang et al. 2023, section 3.2). Where W0 gave up a part s B0 A0 at the start (PiSSA, OLoRA) the change is
    s (B A - B0 A0), and a direction still what would go with it.
    """

    name: ClassVar[str] = "magnitude"
    of_update: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{zhang2023adalora,
  title = {Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning},
  author = {Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu
    and Zhao, Tuo},
  booktitle = {International Conference on Learning Representations}, year = {2023},
  url = {https://openreview.net/forum?id=lq62uWRJjiY}
}"""

    def meter(self, parts: Mapping[str, Part]) -> Meter:
        return Mean(parts, _value)


def _value(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    ups, downs = changed = _grams(*part.update_factors())
    whole = (ups * downs).sum().clamp_min(0).sqrt()  # ||B A||_F^2 = sum of (B^T B) * (A A^T)
    ups, downs = changed if part.taken_out is None else _grams(*part.factors())
    directions = (ups.diagonal() * downs.diagonal()).sqrt()
    return part.per_weight(whole), part.per_weight(directions)


def _grams(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return b.T @ b, a @ a.T
