"""Ranks by importance, measured once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from peftlab.adapters.contract import Adapted
from peftlab.allocators._adaptive import Adaptive, Task
from peftlab.allocators._budget import factors, share_out
from peftlab.allocators._probe import (
    Measured,
    ProbeReport,
    backward,
    check_batches,
    drop,
    gradient_bytes,
    note,
    trainable_weights,
)
from peftlab.allocators._static import Static
from peftlab.allocators._timing import EARLIEST
from peftlab.allocators.contract import Allocator, BaseProbe
from peftlab.allocators.importance.contract import Importance
from peftlab.errors import NonFinite, OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.parts import Part
from peftlab.nn.roles import Site
from peftlab.registry import create
from peftlab.study.schema import Train


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Empirical(Static):
    """r_m proportional to the importance of the frozen weight W_m over the first batches, by largest remainders.

    Gradients of the W_m are taken in evaluation mode, batch by batch, before the adapter is on. A metric of the update B A, which
    is zero then, is followed over as many steps of training with equal ranks instead; after them ranks move once, the function
    preserved, and stay. All importances zero: equal ranks.

    To give out ranks by a look at the base is of He et al. 2025 (GoRA), whose metric is ``weight_gradient``; the rest is our own.
    """

    name: ClassVar[str] = "empirical"
    acts: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{he2025gora,
  title = {{GoRA}: Gradient-driven Adaptive Low Rank Adaptation},
  author = {He, Haonan and Ye, Peng and Ren, Yuchen and Yuan, Yuan and Zhou, Luyang and Ju, Shucun and Chen, Lei},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2025},
  url = {https://arxiv.org/abs/2502.12171}
}"""

    importance: str | Mapping[str, Any] = "fisher"  #: a metric of allocators/importance, by name or with its options
    batches: int = 16  #: that are looked at; of a metric of the update, the steps before ranks move

    def __post_init__(self) -> None:
        self._check_options()
        check_batches(self.batches)
        if self.metric().of_update:
            if self.batches < EARLIEST:
                raise OptionError(
                    f"the update must be watched for {EARLIEST} steps at least, got {self.batches}",
                    where="batches",
                    remedy="e.g. 16",
                )
            self._later()

    def metric(self) -> Importance:
        """Raises OptionError: no such metric, or one without its options."""
        return create("importance", self.importance, where="importance")

    def _later(self) -> Adaptive:
        """The one reallocation that follows a metric of the update.

        Raises:
            OptionError: min_rank 0, for a module without rank has no update.
        """
        return _Once(
            owner=self,
            importance=self.importance,
            budget=self.budget,
            min_rank=self.min_rank,
            max_rank=self.max_rank,
            warmup_steps=self.batches,
            last_step=self.batches,
            hysteresis=0.0,
        )

    @property
    def needs_probe(self) -> bool:  # pyright: ignore
        return not self.metric().of_update

    @property
    def needs_gradients(self) -> bool:  # pyright: ignore
        return self.needs_probe

    @property
    def needs_resizing(self) -> bool:  # pyright: ignore
        return not self.needs_probe

    def weights(self, sites: Sequence[Site]) -> dict[str, float]:
        """Equal, as long as nothing is known."""
        return {site.name: 1.0 for site in sites}

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Measured | None = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        weights = measured.importance if measured is not None else self.weights(sites)
        budget = self.budget if self.budget is not None else {"ranks": rank * len(sites)}
        return dict(share_out(sites, weights, budget, low=self.min_rank, high=self.max_rank, cost=cost or factors).ranks)

    def measure(self, base: BaseProbe, sites: Sequence[Site], rank: int) -> Measured:
        with trainable_weights(base, sites) as weights:
            parts = {s.name: Part(tensors=((weights[s.name], None),), d_in=s.d_in, d_out=s.d_out) for s in sites}
            meter = self.metric().meter(parts)

            def each() -> None:
                meter.observe()
                drop(weights)

            count, seconds = backward(base, self.batches, each)
            importance = {name: scores.module for name, scores in meter.scores().items()}
            held = gradient_bytes(weights)
        odd = next((name for name, value in importance.items() if not math.isfinite(value)), None)
        if odd is not None:
            raise NonFinite("its importance is not finite", where=odd, remedy="look at the data, or use another metric")
        return Measured(importance=importance, batches=count, seconds=seconds, gradient_bytes=held)

    def initialise(self, adapted: Adapted, measured: Measured | None) -> None:
        if measured is not None:
            adapted.hooks.append(ProbeReport(self, adapted, self.budget, measured))

    def hook(self, adapted: Adapted) -> TrainingHook | None:
        return None if self.needs_probe else self._later().hook(adapted)

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        if self.needs_probe:
            return
        if self.batches >= total_steps:
            raise OptionError(
                f"ranks would move after step {self.batches}, and the run has {total_steps}",
                where="allocator.batches",
                remedy="train longer, or lower it",
            )
        self._later().check(sites, ranks, total_steps, train)

    def notes(
        self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None, scale: float | None = None
    ) -> tuple[str, ...]:
        found = Static.notes(self, sites, rank, cost, scale)
        if self.needs_probe:
            found += note(self.name, sites, self.batches, copies=3 if self.metric().copies_weights else 1)
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Once(Adaptive):
    """Ranks follow importance, one time. Goes by the options of its owner."""

    owner: Allocator

    def decide(self, task: Task) -> dict[str, int]:
        return task.proportional(task.importance)

    def spec(self, key: str = "name") -> dict[str, Any]:
        return self.owner.spec(key)
