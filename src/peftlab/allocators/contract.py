"""What an allocator is: who decides the rank of every adapted module, before or during training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from peftlab.nn.hooks import TrainingHook
from peftlab.nn.roles import Site
from peftlab.registry import Component
from peftlab.study.schema import Train


class Allocator(Component, ABC):
    """A configured allocator."""

    needs_triplets: ClassVar[bool] = False  #: acts on an adapter whose rank-1 parts can be switched off one by one

    @abstractmethod
    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        probe: Callable[[], Mapping[str, float]] | None = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        """Site name -> rank at the start of training; 0 = not adapted.

        ``rank`` is the adapter's own uniform rank; ``cost`` gives the adapter's trainable parameters at a site of a rank
        (default r (d_in + d_out)).

        Raises:
            OptionError: the budget cannot be met within the allowed ranks.
        """

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        """Asked when a run is planned, with the ranks of :meth:`initial`.

        Raises:
            OptionError: this schedule and the allocator do not go together (it would never act, ...).
        """
        return

    def notes(self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None) -> tuple[str, ...]:
        """What the reader of a plan should know."""
        return ()

    def hook(self, adapted) -> TrainingHook | None:
        """What acts during training; None where nothing does."""
        return None
