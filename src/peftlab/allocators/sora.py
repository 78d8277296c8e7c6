"""SoRA: gates on the rank-1 parts of an update shrink to zero where the loss does not hold them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F

from peftlab.adapters.contract import Adapted
from peftlab.allocators._budget import BudgetOption, amount_of, check_budget, equal_ranks
from peftlab.allocators._report import ranks_report
from peftlab.allocators.contract import HOOK, Allocator
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.roles import Site
from peftlab.nn.seeding import generator
from peftlab.nn.triplets import TripletLinear
from peftlab.study.schema import Train

#: xi between its first and its last value, as the authors' ``lambda_schedule``: evenly spaced after this function
_SPACING: Mapping[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "linear": (lambda x: x, lambda x: x),
    "log_linear": (math.exp, math.log),
    "exp_linear": (math.log, math.exp),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sora(Allocator):
    """dW = s B diag(g) A with a gate g [r]; after each optimizer step g <- T_xi(g) (Ding et al. 2023, section 3.2).

    T_xi(x) = sign(x) max(|x| - xi, 0) is the proximal operator of xi |x|; directions with g_i = 0 are left out of the export.
    With ``adapter: svd``: B = P, A = Q, g = lambda. As in the authors' code B = 0, A is Kaiming-uniform, g ~ N(0, 1); weight
    decay leaves the gates alone; xi does not follow the learning rate; the loss gets ``l1`` times the mean |g| besides. A gate at
    zero has a gradient and can come back while training lasts. A is uniform in +-1/sqrt(d_in) where it sees sums over groups of
    the d_in inputs, too, so that A x is as large there.

    Where paper and code differ: T_xi is the paper's. The code shrinks and then zeroes what is below xi *afterwards*, so that
    it cuts off all |x| < 2 xi, which is no proximal step. The paper has no L1 term beside the proximal step (``l1: 0``). The code
    trains each value of the sparsifying schedule in a run of its own that continues the last; here they share one run equally.
    """

    name: ClassVar[str] = "sora"
    needs_triplets: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{ding2023sparse,
  title = {Sparse Low-rank Adaptation of Pre-trained Language Models},
  author = {Ding, Ning and Lv, Xingtai and Wang, Qiaosen and Chen, Yulin and Zhou, Bowen and Liu, Zhiyuan and Sun, Maosong},
  booktitle = {Proceedings of the 2023 Conference on Empirical Methods in Natural Language Processing}, year = {2023},
  url = {https://arxiv.org/abs/2311.11696}
}"""

    budget: BudgetOption | None = (
        None  #: at the start: {ranks: 64}, {parameters: N}, "match ARM"; default the adapter's rank everywhere
    )
    threshold: float = 3e-4  #: xi; with a schedule its first value
    max_threshold: float | None = None  #: last value of xi; default: xi is constant
    levels: int = 7  #: values of xi from the first to the last, each for an equal part of the run
    schedule: Literal["linear", "log_linear", "exp_linear"] = "linear"  #: how the values lie between
    l1: float = 10.0  #: weight of the mean |g| in the training loss

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if self.threshold < 0 or (self.threshold == 0 and self.max_threshold is None):
            raise OptionError(f"must be positive, got {self.threshold}", where="threshold", remedy="e.g. 3e-4")
        if self.max_threshold is not None and self.max_threshold <= self.threshold:
            raise OptionError(
                f"max_threshold {self.max_threshold} is not above threshold {self.threshold}",
                where="max_threshold",
                remedy="raise it, or leave it out",
            )
        if self.threshold == 0 and self.schedule == "exp_linear":
            raise OptionError("exp_linear cannot start at 0", where="threshold", remedy="e.g. 1e-5")
        if self.levels < 2:
            raise OptionError(f"levels must be at least 2, got {self.levels}", where="levels", remedy="e.g. 7")
        if self.l1 < 0:
            raise OptionError("must not be negative", where="l1", remedy="e.g. 10, or 0 as in the paper")

    def thresholds(self, total: int) -> list[float]:
        """xi of each step."""
        if self.max_threshold is None:
            return [self.threshold] * total
        into, back = _SPACING[self.schedule]
        first, last = into(self.threshold), into(self.max_threshold)
        values = [back(first + (last - first) * i / (self.levels - 1)) for i in range(self.levels)]
        return [values[step * self.levels // total] for step in range(total)]

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        return equal_ranks(sites, self.budget or {"ranks": rank * len(sites)}, cost=cost)

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        if self.max_threshold is not None and total_steps < self.levels:
            raise OptionError(
                f"{self.levels} values of the threshold do not fit into {total_steps} steps",
                where="allocator.levels",
                remedy="lower levels, or train longer",
            )
        if self.max_threshold is not None and train.select == "best":
            raise OptionError(
                "the best weights on validation may come from before the last threshold",
                where="train.select",
                remedy="use `select: last` with this schedule",
            )
        reach = sum(self.thresholds(total_steps)) + (total_steps * train.learning_rate if self.l1 else 0.0)
        expected = sum(ranks.values()) * math.erf(reach / math.sqrt(2))  # of gates drawn from N(0, 1), those with |g| < reach
        if expected < 1:
            raise OptionError(
                f"no gate is likely to become zero: all {total_steps} steps together move one by about {reach:.2g}, and of "
                f"{sum(ranks.values())} gates {expected:.2g} are expected to start so near to zero",
                where="allocator.threshold",
                remedy="raise it, or train longer",
            )

    def initialise(self, adapted: Adapted, measured: Any) -> None:
        for site in adapted.sites:
            layer: TripletLinear = adapted.module.get_submodule(site.name)  # pyright: ignore
            random = generator(adapted.seed, "sora", site.name)
            uniform = 2 * torch.rand(layer.Q.shape, generator=random) - 1
            inputs = layer.Q.shape[1] * (adapted.adapter.shared_inputs or 1)  # of the layer, whether or not Q sees sums of them
            with torch.no_grad():
                layer.P.zero_()
                layer.Q.copy_(uniform / math.sqrt(inputs))  # Kaiming-uniform with a = sqrt(5)
                layer.singular_values.copy_(torch.randn(layer.singular_values.shape, generator=random))

    def hook(self, adapted: Adapted) -> TrainingHook:
        return _Proximal(self, adapted)


class _Proximal(TrainingHook):
    """Shrinks the gates of one adapted model."""

    name = HOOK

    def __init__(self, allocator: Sora, adapted: Adapted) -> None:
        self.allocator, self.sites = allocator, list(adapted.sites)
        layers: dict[str, TripletLinear] = {s.name: adapted.module.get_submodule(s.name) for s in self.sites}  # pyright: ignore
        self.scale = next(iter(layers.values())).scale
        self.gates = {name: layer.singular_values for name, layer in layers.items()}
        self.start_ranks = {name: gate.numel() for name, gate in self.gates.items()}
        self.history: list[dict[str, Any]] = []
        self.steps_done = 0
        self.diverged = False

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.total, self.thresholds = total_steps, self.allocator.thresholds(total_steps)
        gates = {id(gate) for gate in self.gates.values()}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in gates]
        optimizer.add_param_group({"params": list(self.gates.values()), "weight_decay": 0.0})

    def penalty(self) -> torch.Tensor | None:
        if not self.allocator.l1:
            return None
        return self.allocator.l1 * torch.cat([gate.flatten() for gate in self.gates.values()]).abs().mean()

    @torch.no_grad()
    def after_step(self, step: int, updated: bool = True) -> None:
        self.steps_done = step + 1
        if updated:
            for gate in self.gates.values():
                gate.copy_(F.softshrink(gate, self.thresholds[step]))
        if self.steps_done % max(1, self.total // 100) == 0 or self.steps_done == self.total:
            self.history.append(
                {
                    "step": self.steps_done,
                    "threshold": self.thresholds[step],
                    "ranks": self._ranks(),
                    "importance": {name: float(gate.abs().sum()) for name, gate in self.gates.items()},
                }
            )

    def _ranks(self) -> dict[str, int]:
        return {name: int(gate.count_nonzero()) for name, gate in self.gates.items()}

    def non_finite(self, step: int) -> None:
        self.diverged = True

    def finish(self) -> None:
        """Raises DidNothing if every gate of what is tested is zero, unless the run diverged: that is an outcome of its own."""
        if not self.diverged and not any(self._ranks().values()):
            raise DidNothing(
                "every gate became zero: nothing is adapted", where="allocator.threshold", remedy="lower it, or lower l1"
            )

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "steps_done": self.steps_done}

    def load_state(self, state: dict[str, Any]) -> None:
        if state:
            self.history, self.steps_done = list(state["history"]), state["steps_done"]

    def report(self) -> dict[str, Any]:
        budget = self.allocator.budget
        unit, amount = amount_of(budget) if budget else ("ranks", sum(self.start_ranks.values()))
        return ranks_report(
            self.allocator,
            self.sites,
            scale=self.scale,
            budget={unit: amount},
            start=self.start_ranks,
            ranks=self._ranks(),
            history=self.history,
        )
