"""Directions that are added during training begin as new parameters do, inside tensors that have been training for long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from peftlab.nn.triplets import TripletLinear

#: (step in which lambda began to train, step in which P and Q did) of a direction; None: from the start of the run
Born = list[int | None]


class OwnRate:
    """Gives late directions AdamW steps of their own: bias correction and learning rate count from their first step.

    The rate rises linearly over ``warmup`` steps to the learning rate of the study and falls linearly to 0 at the end of the run
    (the restart warm-up of IncreLoRA's code, a linear schedule for each new parameter group). An AdamW step is
    -rate (m' / (sqrt(v') + eps) + decay p), so it is enough to scale what the optimizer did to the rows and columns concerned.
    (eps is thereby scaled by the ratio of the second moments' corrections.) Rates go by steps, corrections by updates.
    """

    def __init__(self, layers: Mapping[str, TripletLinear], optimizer: torch.optim.Optimizer, total: int, warmup: int) -> None:
        self.layers, self.total, self.warmup = layers, total, warmup
        self.peak: float = optimizer.param_groups[0]["lr"]
        self.groups: dict[int, dict[str, Any]] = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self.born: dict[str, list[Born]] = {name: [[None, None] for _ in range(layer.rank)] for name, layer in layers.items()}
        self.before: dict[str, list[torch.Tensor]] = {}
        self.left_out: list[int] = []  #: steps that were no updates

    def append(self, name: str, number: int, born: int | None) -> None:
        """Directions whose P and Q begin in step ``born``, and lambda not yet."""
        self.born[name] += [[None, born] for _ in range(number)]

    def free(self, name: str, first: int, number: int, born: int) -> None:
        """Lambda of these directions begins in step ``born``."""
        for direction in self.born[name][first : first + number]:
            direction[0] = born

    def truncate(self, name: str, rank: int) -> None:
        self.born[name] = self.born[name][:rank]

    def rate(self, step: int, born: int) -> float:
        """Learning rate of what began in step ``born``."""
        own, length = step - born, self.total - born
        if own < self.warmup:
            return self.peak * (own + 1) / (self.warmup + 1)
        return self.peak * (1 - (own - self.warmup) / (length - self.warmup))

    def _updates(self, born: int, step: int) -> int:
        """From step ``born`` to ``step``, both among them."""
        return step - born + 1 - sum(left >= born for left in self.left_out)

    def before_step(self) -> None:
        """Remember the weights of modules with late directions."""
        self.before = {
            name: [p.detach().clone() for p, _, _ in _tensors(self.layers[name])]
            for name, born in self.born.items()
            if any(part is not None for direction in born for part in direction)
        }

    def leave_out(self, step: int) -> None:
        """It was no update."""
        self.left_out.append(step)

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        for name, before in self.before.items():
            for (parameter, dim, part), old in zip(_tensors(self.layers[name]), before, strict=True):
                self._correct(parameter, old, [direction[part] for direction in self.born[name]], dim, step)
        self.before = {}

    def _correct(self, parameter: torch.Tensor, old: torch.Tensor, born: list[int | None], dim: int, step: int) -> None:
        group = self.groups[id(parameter)]
        rate, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        late = [i for i, b in enumerate(born) if b is not None]
        if not late:
            return
        own, scaled, done = [], [], self._updates(0, step)
        for b in (born[i] for i in late):
            assert b is not None
            count = self._updates(b, step)
            own.append(self.rate(step, b))
            first = (1 - beta1**done) / (1 - beta1**count)
            second = math.sqrt((1 - beta2**count) / (1 - beta2**done))
            scaled.append(own[-1] / rate * first * second)
        where = torch.tensor(late, device=parameter.device)
        shape = [-1, 1] if dim == 0 else [1, -1]
        kept, factor = (parameter.new_tensor(x).view(shape) for x in ([1 - o * decay for o in own], scaled))
        start = old.index_select(dim, where)
        moved = parameter.index_select(dim, where) - (1 - rate * decay) * start
        parameter.index_copy_(dim, where, kept * start + factor * moved)


def _tensors(layer: TripletLinear) -> tuple[tuple[torch.Tensor, int, int], ...]:
    """(tensor, its dimension of directions, which of :data:`Born` it goes by)."""
    return (layer.P, 1, 1), (layer.singular_values, 0, 0), (layer.Q, 0, 1)
