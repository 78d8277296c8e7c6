"""What an allocator is: who decides the rank of every adapted module, before or during training."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.roles import Site
from peftlab.registry import Component
from peftlab.study.schema import Train

HOOK = "allocator"  #: what the hook of every allocator is called: its seconds are found under this name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BaseProbe:
    """What an allocator may look at before the adapter is on: the plain backbone and the batches that training begins with.

    Every site is a layer of its own (slices of fused layers are taken apart). No parameter has a gradient.
    """

    backbone: Backbone
    batches: Callable[[int], Iterator[Mapping[str, torch.Tensor]]]  #: the first n training batches, on the backbone's device
    inputs: Callable[[Mapping[str, torch.Tensor]], Mapping[str, Any]]  #: of a batch: what the backbone is called with
    loss: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]  #: of a batch, in evaluation mode


class Allocator(Component, ABC):
    """A configured allocator."""

    needs_triplets: ClassVar[bool] = False  #: acts on an adapter whose rank-1 parts can be switched off one by one
    needs_resizing: ClassVar[bool] = False  #: acts on an adapter whose ranks can change during training
    zero_at_start: ClassVar[bool] = True  #: leaves the adapter without effect before the first update, if the adapter is
    acts: ClassVar[bool] = True  #: its hook changes the model during training
    needs_probe: ClassVar[bool] = False  #: decides after a look at the base (:meth:`measure`); planned with equal ranks
    needs_gradients: ClassVar[bool] = False  #: that look takes gradients of the base's weights, which must be in float
    needs_all_examples: ClassVar[bool] = False  #: looks at more than summed gradients: not where processes share a batch
    sets_factors: ClassVar[bool] = False  #: gives the adapter's A or B initial values of its own (:meth:`initialise`)

    @abstractmethod
    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        """Site name -> rank at the start of training; 0 = not adapted.

        ``rank`` is the adapter's own uniform rank; ``measured`` is what :meth:`measure` found, None when a run is planned;
        ``cost`` gives the adapter's trainable parameters at a site of a rank (default r (d_in + d_out)).

        Raises:
            OptionError: the budget cannot be met within the allowed ranks.
        """

    def measure(self, base: BaseProbe, sites: Sequence[Site], rank: int) -> Any:
        """Look at the plain backbone before it is adapted; asked where ``needs_probe``. The backbone is left as it was."""
        return None

    def initialise(self, adapted: Adapted, measured: Any) -> None:
        """Give the attached adapter other initial values; left out where a look was wanted and not taken (planning)."""
        return

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        """Asked when a run is planned, with the ranks of :meth:`initial`.

        Raises:
            OptionError: this schedule and the allocator do not go together (it would never act, ...).
        """
        return

    def notes(
        self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None, scale: float | None = None
    ) -> tuple[str, ...]:
        """What the reader of a plan should know.

        ``rank`` and ``cost`` as of :meth:`initial`; ``scale``: of every update, where the adapter keeps one whatever the rank.
        """
        return ()

    def hook(self, adapted: Adapted) -> TrainingHook | None:
        """What acts during training; None where nothing does."""
        return None
