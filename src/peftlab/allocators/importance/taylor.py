"""How much the loss would change if a module's update were taken away, to first order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch

from peftlab.allocators.importance._meters import Mean, by_direction, of_directions
from peftlab.allocators.importance.contract import Importance, Meter
from peftlab.nn.parts import Part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Taylor(Importance):
    """|sum of w g| over the weights of the module, in units of the loss, mean over the steps.

    With a gate z = 1 on the update z s B A this is |dL/dz|: how much the loss changes, to first order, where the gate closes
    (the root of Molchanov et al. 2019, equation 8). Of direction i: the gate is on column i of B times row i of A. The sum over
    A, over B and over singular values between them is the same number, and their mean is taken. Unlike the sensitivity, products
    w g of opposite signs cancel. Of a weight of the base: the gate is on W; zero, but for rounding, where a normalisation follows
    that takes away any factor.
    """

    name: ClassVar[str] = "taylor"
    citation: ClassVar[str] = """@inproceedings{molchanov2019importance,
  title = {Importance Estimation for Neural Network Pruning},
  author = {Molchanov, Pavlo and Mallya, Arun and Tyree, Stephen and Frosio, Iuri and Kautz, Jan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition}, year = {2019},
  url = {https://arxiv.org/abs/1906.10771}
}"""

    def meter(self, parts: Mapping[str, Part]) -> Meter:
        return Mean(parts, _value)


def _value(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    sums = [by_direction(tensor * tensor.grad, dim) for tensor, dim in part.tensors if tensor.grad is not None]
    gates = torch.stack(sums).mean(dim=0) if sums else part.tensors[0][0].new_zeros(max(1, part.directions))
    return gates.sum().abs(), of_directions(part, gates.abs())
