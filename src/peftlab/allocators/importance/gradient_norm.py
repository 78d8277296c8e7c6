"""How strongly the loss pulls at a module."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch

from peftlab.allocators.importance._meters import Mean, of_directions, squared_gradients
from peftlab.allocators.importance.contract import Importance, Meter
from peftlab.nn.parts import Part
from peftlab.registry import OWN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GradientNorm(Importance):
    """||g||_2 over all trainable weights of the module (A and B; W at the base), mean over the steps.

    Of direction i: ||g||_2 over its row of A and its column of B. Gradients are those the optimizer saw, clipped. A baseline
    of our own.
    """

    name: ClassVar[str] = "gradient_norm"
    citation: ClassVar[str] = OWN

    def meter(self, parts: Mapping[str, Part]) -> Meter:
        return Mean(parts, _value)


def _value(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    squares = squared_gradients(part)
    return squares.sum().sqrt(), of_directions(part, squares.sqrt())
