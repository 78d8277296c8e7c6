"""Adapter norms: how large the factors and the update of every adapted module grow, beside the weight they change."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.low_rank import product_norm
from peftlab.nn.memory import MB, memory_mb
from peftlab.nn.parts import Part
from peftlab.nn.quantized import dense_weight
from peftlab.probes._places import HEAD, Places
from peftlab.probes.contract import Probe, View

FILE = "adapter_norms.json"
POINTS = 10  #: besides the start
FIELDS = ("A", "B", "update", "relative")
_Norms = dict[str, dict[str, float | None]]  #: module -> field -> value


def points(total: int) -> list[int]:
    """Steps done when norms are taken: evenly spread, the last one at the end of a run of ``total`` steps."""
    number = min(POINTS, total)
    return sorted({round(total * k / number) for k in range(1, number + 1)}) if number else []


class _Factors(TrainingHook):
    """Of adapters whose update is s B A."""

    name = "adapter_norms"

    def __init__(self, adapted: Adapted, parts: Mapping[str, Part]) -> None:
        self.adapted, self.parts, self.places = adapted, parts, Places(adapted)
        self.due: Sequence[int] = []
        self.steps: list[int] = []
        self.values: dict[str, dict[str, list[float | None]]] = {name: {f: [] for f in FIELDS} for name in parts}
        self.weights: dict[str, float] = {}
        self.end: _Norms = {}

    @torch.no_grad()
    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.due = points(total_steps)
        for name, part in self.parts.items():
            weight = self._weight(name)
            if part.taken_out is not None:
                down, up = part.taken_out
                weight = weight + part.scale * (up @ down).to(weight)
            self.weights[name] = float(torch.linalg.vector_norm(weight))
        self._take(0)

    def _weight(self, site: str) -> torch.Tensor:
        layer = self.adapted.backbone.module.get_submodule(site)
        return dense_weight(layer.base_layer if hasattr(layer, "base_layer") else layer)  # pyright: ignore

    def after_step(self, step: int, updated: bool = True) -> None:
        if step + 1 in self.due:
            self._take(step + 1)

    def finish(self) -> None:
        self.end = self._now()

    def _take(self, done: int) -> None:
        self.steps.append(done)
        for name, found in self._now().items():
            for field in FIELDS:
                self.values[name][field].append(found[field])

    def _now(self) -> _Norms:
        return {name: self._of(name, part) for name, part in self.parts.items()}

    def _of(self, name: str, part: Part) -> dict[str, float | None]:
        down, up = factors(part)
        norms = {"A": float(torch.linalg.vector_norm(down)), "B": float(torch.linalg.vector_norm(up))}
        down, up = part.update_factors()
        norms["update"] = part.scale * product_norm(up, down)
        return _finite({**norms, "relative": norms["update"] / self.weights[name] if self.weights[name] else math.nan})

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}

    def load_state(self, state: dict[str, Any]) -> None:
        if state:
            self.steps, self.values = list(state["steps"]), state["values"]

    def report(self) -> dict[str, Any]:
        modules = {
            name: {**self.places.about(name), "weight": self.weights.get(name), **self.values[name], "end": self.end.get(name)}
            for name in self.parts
        }
        return {FILE: {"of": "product", "steps": self.steps, "modules": modules, "summary": summary(self.places.about, self.end)}}


class _Weights(TrainingHook):
    """Of all others: how far the trained weights of every module moved, at the end, from a model made anew."""

    name = "adapter_norms"

    def __init__(self, adapted: Adapted, view: View) -> None:
        self.adapted, self.view, self.places = adapted, view, Places(adapted)

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        needed = 2 * sum(p.nbytes for p in self.adapted.module.parameters()) / MB  # it is loaded, and then built
        _, free = memory_mb("cpu")
        if needed > free:
            return {FILE: {"of": "weights", "left_out": f"{needed:.0f} MB were needed and {free:.0f} MB were free"}}
        began, squares = self.view.fresh().trainable(), defaultdict(lambda: [0.0, 0.0])
        for name, parameter in self.adapted.trainable().items():
            if (module := self.places.module(name)) != HEAD:
                before = began[name].detach().double()
                squares[module][0] += float((parameter.detach().cpu().double() - before).square().sum())
                squares[module][1] += float(before.square().sum())
        weights = {name: math.sqrt(found[1]) for name, found in squares.items()}
        end = {
            name: _finite({"update": math.sqrt(found[0]), "relative": math.sqrt(found[0] / found[1]) if found[1] else math.nan})
            for name, found in squares.items()
        }
        modules = {name: {**self.places.about(name), "weight": weights[name], "end": end[name]} for name in squares}
        return {FILE: {"of": "weights", "steps": [], "modules": modules, "summary": summary(self.places.about, end)}}


def factors(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """(A [r, d_in], B [d_out, r]) as an export has them: singular values in between count to B, which is zero at the start."""
    gates = [tensor.detach() for tensor, dim in part.tensors if dim == 0 and tensor[0].numel() == 1]
    (down,) = (tensor.detach() for tensor, dim in part.tensors if dim == 0 and tensor[0].numel() > 1)
    (up,) = (tensor.detach() for tensor, dim in part.tensors if dim == 1)
    return down, math.prod((gate.T for gate in gates), start=up)


def _finite(norms: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in norms.items()}


def summary(about: Callable[[str], Mapping[str, Any]], end: _Norms) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) over all modules, those of a role, those of a block, of every norm."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in end:
        place = about(name)
        groups["all", ""].append(name)
        groups["by_role", place["role"]].append(name)
        groups["by_block", str(place["block"]) if place["block"] is not None else "outside"].append(name)
    found: dict[str, Any] = {"all": {}, "by_role": {}, "by_block": {}}
    for (kind, key), names in groups.items():
        columns = {field: [v for n in names if (v := end[n].get(field)) is not None] for field in FIELDS}
        said = {
            field: {"n": len(v), "mean": statistics.fmean(v), "sd": statistics.stdev(v) if len(v) > 1 else None}
            for field, v in columns.items()
            if v
        }
        found[kind] = said if kind == "all" else {**found[kind], key: said}
    return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterNorms(Probe):
    """Frobenius norms of A, B and dW = s B A of every adapted module, and ||dW|| / ||W0||, at 11 points and as tested.

    The norm of a product comes from the factors, tr((B^T B)(A A^T)). Singular values between the factors count to B; where every
    entry of A stands for g inputs (QA-LoRA) dW counts them all. Where W0 gave up a part at the start (PiSSA, OLoRA), W0
    is with that part and dW = s (B A - B0 A0). DoRA's magnitudes are not in dW. Adapters without factors: the change of the
    trained weights of each module outside the head, ||w - w0|| and its share of ||w0||, at the end only, against a model made
    anew when training is over (so that none has to be kept in memory; left out where it would not fit). Written as
    ``adapter_norms.json``, with mean and standard deviation over modules, by role and by block.
    """

    name: ClassVar[str] = "adapter_norms"
    in_tuning: ClassVar[bool] = False
    needs_whole: ClassVar[bool] = True

    def hook(self, adapted: Adapted, view: View) -> TrainingHook | None:
        parts = adapted.adapter.parts(adapted)
        if parts and all(part.directions for part in parts.values()):
            return _Factors(adapted, parts)
        return None if all(map(adapted.is_head, adapted.trainable())) else _Weights(adapted, view)
