"""How much the loss depends on a module, by the diagonal of the empirical Fisher information."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch

from peftlab.allocators.importance._meters import Mean, of_directions, squared_gradients
from peftlab.allocators.importance.contract import Importance, Meter
from peftlab.nn.parts import Part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fisher(Importance):
    """Mean of g^2 over the weights of a module and over the steps.

    The batch approximation of the diagonal of the empirical Fisher information (the diagonal of Kirkpatrick et al. 2017,
    section 2.1): g is the gradient of a batch's mean loss, so values of different batch sizes do not compare. Of direction i:
    the mean over its row of A and its column of B.
    """

    name: ClassVar[str] = "fisher"
    citation: ClassVar[str] = """@article{kirkpatrick2017overcoming,
  title = {Overcoming catastrophic forgetting in neural networks},
  author = {Kirkpatrick, James and Pascanu, Razvan and Rabinowitz, Neil and Veness, Joel and others},
  journal = {Proceedings of the National Academy of Sciences}, volume = {114}, number = {13}, pages = {3521--3526},
  year = {2017}, doi = {10.1073/pnas.1611835114}
}"""

    def meter(self, parts: Mapping[str, Part]) -> Meter:
        return Mean(parts, _value)


def _value(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    squares = squared_gradients(part)
    weights = sum(tensor.numel() for tensor, _ in part.tensors)
    return squares.sum() / weights, of_directions(part, squares * len(squares) / weights)
