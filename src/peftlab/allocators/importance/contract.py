"""What an importance metric is: how much a module, or one of its rank-1 directions, matters.

Shape legend: r directions of a module.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from peftlab.nn.parts import Part
from peftlab.registry import Component


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """Importance of one module, and of each of its directions [r] (empty where it has none)."""

    module: float
    directions: torch.Tensor


class Meter(ABC):
    """Follows the modules of one run. Its state lets a run continue bit for bit."""

    @abstractmethod
    def observe(self) -> None:
        """After each backward pass and optimizer step, while gradients are there.

        A step with a gradient that is not finite (float16) is left out.
        """

    @abstractmethod
    def scores(self) -> dict[str, Scores]:
        """Module name -> importance over the steps observed since the last :meth:`reset`."""

    @abstractmethod
    def reset(self) -> None:
        """Forget what was observed; the modules may have other ranks now."""

    def state(self) -> dict[str, Any]:
        """Tensors and JSON values to be kept in a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        return


class Importance(Component, ABC):
    """A configured importance metric."""

    of_update: ClassVar[bool] = False  #: a property of the update B A, which is zero at the base
    copies_weights: ClassVar[bool] = False  #: its meter holds values of every weight: too much for a whole backbone

    @abstractmethod
    def meter(self, parts: Mapping[str, Part]) -> Meter:
        """A meter over these modules. Parts keep their parameter objects; their shapes may change at a :meth:`Meter.reset`."""
