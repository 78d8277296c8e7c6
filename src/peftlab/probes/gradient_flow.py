"""Gradient flow: what the backward pass gives every trained module, over the run."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.nn.hooks import TrainingHook
from peftlab.probes._places import Places
from peftlab.probes.contract import Probe, View
from peftlab.records.gradient_flow import FILE, events

POINTS = 50  #: at most, spread evenly over the run
SPACING = 4  #: steps between two points, at least: a point costs up to 6 % of a step of the smallest models
FIELDS = ("norm", "mean", "max", "zeros", "non_finite")


def points(total: int) -> list[int]:
    """Steps, counted from 1, at which gradients are looked at: the first, the last, and evenly between."""
    number = min(POINTS, max(2, total // SPACING))
    return sorted({1 + round((total - 1) * k / (number - 1)) for k in range(number)}) if total else []


class _Hook(TrainingHook):
    name = "gradient_flow"

    def __init__(self, adapted: Adapted) -> None:
        self.adapted = adapted
        self.places = Places(adapted)
        self.due: Sequence[int] = []
        self.steps: list[int] = []
        self.left_out: list[int] = []  #: of them, which float16 left out
        self.values: dict[str, dict[str, list[float | None]]] = {}  #: module -> field -> one value per step

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.due = points(total_steps)

    def after_backward(self, step: int) -> None:
        if step + 1 in self.due:
            self._take(step + 1)

    def after_step(self, step: int, updated: bool = True) -> None:
        if not updated and step + 1 in self.due:
            self.left_out.append(step + 1)

    def non_finite(self, step: int) -> None:
        if step + 1 not in self.steps:
            self._take(step + 1)

    @torch.no_grad()
    def _take(self, done: int) -> None:
        members: dict[str, list[_Tensor]] = defaultdict(list)
        trainable = self.adapted.trainable()
        for name, tensor in zip(trainable, _described(list(trainable.values())), strict=True):
            members[self.places.module(name)].append(tensor)
        for module in members:
            self.values.setdefault(module, {field: [None] * len(self.steps) for field in FIELDS})
        self.steps.append(done)
        for module, columns in self.values.items():
            found = _summary(members.get(module, []))
            for field in FIELDS:
                columns[field].append(found[field])

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values, "left_out": self.left_out}

    def load_state(self, state: dict[str, Any]) -> None:
        if state:
            self.steps, self.values = list(state["steps"]), state["values"]
            self.left_out = list(state.get("left_out", ()))  # earlier versions did not ask

    def report(self) -> dict[str, Any]:
        if not self.values:
            return {}
        order = dict.fromkeys(self.places.module(name) for name in self.adapted.trainable())  # a checkpoint does not keep it
        values = {name: self.values[name] for name in order if name in self.values}
        modules = {name: {**self.places.about(name), **columns} for name, columns in values.items()}
        left_out = {"left_out": self.left_out} if self.left_out else {}
        found = events(self.steps, values, self.left_out)
        return {FILE: {"steps": self.steps, "modules": modules, "events": found, **left_out}}


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    """What is known of the gradient of one tensor; not finite where it is not."""

    size: int
    norm: float = 0.0
    total: float = 0.0  #: sum of absolute values
    largest: float = 0.0
    nonzero: int = 0
    broken: int = 0  #: entries that are not finite


def _described(parameters: Sequence[torch.nn.Parameter]) -> list[_Tensor]:
    """Every trained tensor, in order. One that got no gradient has zeros."""
    gradients = [p.grad for p in parameters if p.grad is not None and p.grad.numel()]
    if not gradients:
        return [_Tensor(p.numel()) for p in parameters]
    norm_of = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]
    norms, totals, largest = (torch.stack(norm_of(gradients, order, torch.float32)).tolist() for order in (2, 1, math.inf))
    counts = torch.stack([g.count_nonzero() for g in gradients]).tolist()
    found = iter(
        _Tensor(g.numel(), n, t, x, c, 0 if math.isfinite(t) else int((~g.isfinite()).sum()))
        for g, n, t, x, c in zip(gradients, norms, totals, largest, counts, strict=True)
    )
    return [next(found) if p.grad is not None and p.grad.numel() else _Tensor(p.numel()) for p in parameters]


def _summary(tensors: Sequence[_Tensor]) -> dict[str, float | None]:
    size = sum(t.size for t in tensors)
    if not size:
        return dict.fromkeys(FIELDS)
    values = {
        "norm": math.hypot(*(t.norm for t in tensors)),
        "mean": sum(t.total for t in tensors) / size,
        "max": math.nan if any(math.isnan(t.largest) for t in tensors) else max(t.largest for t in tensors),
        "zeros": 1 - sum(t.nonzero for t in tensors) / size,
        "non_finite": sum(t.broken for t in tensors) / size,
    }
    return {key: float(f"{value:.6g}") if math.isfinite(value) else None for key, value in values.items()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GradientFlow(Probe):
    """Norms, zeros and non-finite entries of every trained module's gradient, before clipping.

    At up to 50 points from the first step to the last (in short runs every 4 steps), with g all entries of a module's trained
    tensors together: norm ||g||, mean of |g|, max of |g|, share of exact zeros, share of entries that are not finite. A module
    is an adapted layer, the head, or another layer that holds trained tensors (norms, embeddings). A run that breaks off
    because something is not finite has a last point there. What lies between two points is not seen. Points at steps that
    float16 left out are listed (``left_out``), and are no events. Written as
    ``gradient_flow.json`` with ``events``: the rules of :func:`peftlab.records.gradient_flow.events`.
    """

    name: ClassVar[str] = "gradient_flow"

    def hook(self, adapted: Adapted, view: View) -> TrainingHook:
        return _Hook(adapted)
