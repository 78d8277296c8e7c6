"""How metrics are followed over steps: a mean of something read at every step, or a reading at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from peftlab.allocators.importance.contract import Meter, Scores
from peftlab.nn.parts import Part

#: importance of a module (a scalar) and of its directions [r], now
Value = Callable[[Part], tuple[torch.Tensor, torch.Tensor]]


class Mean(Meter):
    """The mean of a value over the steps observed."""

    def __init__(self, parts: Mapping[str, Part], value: Value) -> None:
        self.parts, self.value = dict(parts), value
        self.reset()

    def reset(self) -> None:
        self.steps = 0
        self.modules: torch.Tensor | None = None
        self.directions: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def observe(self) -> None:
        values = {name: self.value(part) for name, part in self.parts.items()}
        now = torch.stack([module for module, _ in values.values()])
        if not bool(now.sum().isfinite()):
            return
        self.steps += 1
        self.modules = now if self.modules is None else self.modules + now
        for name, (_, directions) in values.items():
            self.directions[name] = self.directions[name] + directions if name in self.directions else directions.clone()

    def scores(self) -> dict[str, Scores]:
        if self.modules is None:
            return {name: Scores(0.0, torch.zeros(part.directions)) for name, part in self.parts.items()}
        modules = (self.modules / self.steps).tolist()
        return {
            name: Scores(module, self.directions[name] / self.steps) for name, module in zip(self.parts, modules, strict=True)
        }

    def state(self) -> dict[str, Any]:
        return {} if self.modules is None else {"steps": self.steps, "modules": self.modules, "directions": self.directions}

    def load_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        device = next(iter(self.parts.values())).tensors[0][0].device
        self.steps, self.modules = state["steps"], state["modules"].to(device)
        self.directions = {name: tensor.to(device) for name, tensor in state.get("directions", {}).items()}


class Reading(Meter):
    """A value read when it is asked for: for what changes slowly and is dear to compute."""

    def __init__(self, parts: Mapping[str, Part], value: Value) -> None:
        self.parts, self.value = dict(parts), value

    def observe(self) -> None: ...

    def reset(self) -> None: ...

    @torch.no_grad()
    def scores(self) -> dict[str, Scores]:
        values = {name: self.value(part) for name, part in self.parts.items()}
        return {name: Scores(float(module), directions) for name, (module, directions) in values.items()}


def by_direction(tensor: torch.Tensor, dim: int | None) -> torch.Tensor:
    """Sum over the entries of each direction [r]; of a tensor without directions, over all entries [1]."""
    if dim is None:
        return tensor.sum().reshape(1)
    return tensor.sum(dim=[other for other in range(tensor.dim()) if other != dim])


def squared_gradients(part: Part) -> torch.Tensor:
    """Sum of g^2 per direction [r], over all tensors of a module; [1] where it has no directions."""
    sums = [by_direction(t.grad.square(), dim) for t, dim in part.tensors if t.grad is not None]
    return torch.stack(sums).sum(dim=0) if sums else part.tensors[0][0].new_zeros(max(1, part.directions))


def of_directions(part: Part, values: torch.Tensor) -> torch.Tensor:
    """``values`` of directions; empty for a module without them."""
    return values if part.directions else values[:0]
