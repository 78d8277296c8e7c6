"""What an importance metric is: how much a module, or one of its rank-1 directions, matters.

Shape legend: r directions of a module.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from peftlab.registry import Component


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A module as a metric sees it.

    ``tensors``: its weights, each with the dimension that counts rank-1 directions, or None where it has none. Of a LoRA module:
    (A, 0), (B, 1); of a module of the base: (W, None). Gradients are theirs (``.grad``). ``scale``: factor of the update B A.
    """

    tensors: tuple[tuple[torch.Tensor, int | None], ...]
    d_in: int
    d_out: int
    scale: float = 1.0

    @property
    def directions(self) -> int:
        """r; 0 where there are no directions."""
        return next((tensor.shape[dim] for tensor, dim in self.tensors if dim is not None), 0)

    @property
    def switched_on(self) -> int:
        """Directions that no tensor [r, 1] multiplies by zero."""
        gates = [tensor.detach().flatten() != 0 for tensor, dim in self.tensors if dim == 0 and tensor[0].numel() == 1]
        return int(torch.stack(gates).all(dim=0).sum()) if gates else self.directions

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A [r, d_in], B [d_out, r]) of the update s B A, without gradient; a tensor [r, 1] in between counts to A."""
        up = next(tensor.detach() for tensor, dim in self.tensors if dim == 1)
        down = math.prod((tensor.detach() for tensor, dim in self.tensors if dim == 0), start=up.new_ones(()))
        return down, up

    def per_weight(self, norms: torch.Tensor) -> torch.Tensor:
        """Frobenius norms of updates as the root mean square change of one weight of the module."""
        return self.scale * norms / math.sqrt(self.d_in * self.d_out)


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
