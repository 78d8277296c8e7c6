"""Layer importance: every metric of every adapted module at snapshots spread over the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.allocators.importance.contract import Importance, Meter
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.parts import Part
from peftlab.nn.roles import Site
from peftlab.probes.contract import Probe, View
from peftlab.registry import components

FILE = "importance.json"
SNAPSHOTS = 20  #: at most, spread evenly over the run
SPACING = 10  #: steps between two snapshots, at least
STEPS_PER_THOUSAND = 1  #: observed before a snapshot, for every thousand steps of the run
LONGEST = 5  #: steps observed before a snapshot, at most


def snapshots(total: int) -> list[int]:
    """Steps done when a snapshot is taken: evenly spread, the last one at the end of a run of ``total`` steps."""
    number = max(1, min(SNAPSHOTS, total // SPACING))
    return [round(total * k / number) for k in range(1, number + 1)]


def window(total: int) -> int:
    """Steps that are observed before each snapshot."""
    return max(1, min(LONGEST, STEPS_PER_THOUSAND * total // 1000))


def metrics_for(parts: Mapping[str, Part]) -> dict[str, Importance]:
    """The metrics that these modules have: properties of an update of those with directions, and what copies weights where they
    are not those of the base."""
    found: dict[str, Importance] = {name: cls() for name, cls in components("importance").items()}  # pyright: ignore
    directed = all(part.directions for part in parts.values())
    small = directed or all(sum(t.numel() for t, _ in part.tensors) < part.d_in * part.d_out for part in parts.values())
    return {n: m for n, m in found.items() if (directed or not m.of_update) and (small or not m.copies_weights)}


class _Hook(TrainingHook):
    name = "layer_importance"

    def __init__(self, adapted: Adapted) -> None:
        self.parts = adapted.adapter.parts(adapted)
        self.metrics = metrics_for(self.parts)
        names = self.parts.keys() | adapted.ranks.keys()
        priced = rank_costs(adapted)
        self.sites = {s.name: described(s) | priced.get(s.name, {}) for s in adapted.backbone.roles.sites if s.name in names}
        self.due: Sequence[int] = []
        self.window = 1
        self.steps: list[int] = []
        self.values: dict[str, dict[str, list[float | None]]] = {m: {site: [] for site in self.parts} for m in self.metrics}
        self.meters: dict[str, Meter] = {}  #: empty between two windows
        self.shapes: list[torch.Size] = []
        self.seen = 0  #: steps in this window

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        if self.parts:
            self.due, self.window = snapshots(total_steps), window(total_steps)

    def after_backward(self, step: int) -> None:
        if self._watches(step):
            self.shapes = self._shapes()

    def after_step(self, step: int, updated: bool = True) -> None:
        if not self._watches(step):
            return
        if not self.meters:
            self._open()
        self._observe(updated)
        if step + 1 >= self.due[len(self.steps)] and self.seen:
            self._take(step + 1)

    def _watches(self, step: int) -> bool:
        return len(self.steps) < len(self.due) and step + 1 > self.due[len(self.steps)] - self.window

    def _open(self) -> None:
        self.meters, self.seen = {name: metric.meter(self.parts) for name, metric in self.metrics.items()}, 0

    def _shapes(self) -> list[torch.Size]:
        return [tensor.shape for part in self.parts.values() for tensor, _ in part.tensors]

    def _observe(self, updated: bool) -> None:
        """A step that changed a rank has lost its gradients: observation begins again after it."""
        if self._shapes() != self.shapes:
            for meter in self.meters.values():
                meter.reset()
            self.seen = 0
        elif updated:
            for meter in self.meters.values():
                meter.observe()
            self.seen += 1

    def _take(self, done: int) -> None:
        self.steps.append(done)
        for name, meter in self.meters.items():
            for site, scores in meter.scores().items():
                self.values[name][site].append(scores.module if math.isfinite(scores.module) else None)
        self.meters = {}

    def state(self) -> dict[str, Any]:
        meters = {name: meter.state() for name, meter in self.meters.items()}
        return {"steps": self.steps, "values": self.values, "seen": self.seen, "open": bool(self.meters), "meters": meters}

    def load_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self.steps, self.values = list(state["steps"]), state["values"]
        # a checkpoint of an earlier version knows fewer metrics: a value for some of the snapshots would be none
        self.metrics = {name: metric for name, metric in self.metrics.items() if name in self.values}
        if state["open"]:
            self._open()
            for name, meter in self.meters.items():
                meter.load_state(state["meters"].get(name) or {})
            self.seen = state["seen"]

    def report(self) -> dict[str, Any]:
        if not self.steps:
            return {}
        return {FILE: {"sites": self.sites, "steps": self.steps, "window": self.window, "metrics": self.values}}


def described(site: Site) -> dict[str, Any]:
    """What later readers, who have no model, need to know of a module."""
    return {"block": site.block, "role": site.role, "d_in": site.d_in, "d_out": site.d_out}


def rank_costs(adapted: Adapted) -> dict[str, dict[str, Any]]:
    """Site name -> ``largest_rank``, and ``cost`` of ranks in trainable parameters; empty where the adapter has no ranks.

    ``cost``: of the first rank, of the second, and by how much every further one is dearer than the one before; so r of them cost
    c0 + (r - 1) c1 + (r - 1)(r - 2)/2 c2, which every adapter's formula is (LoRA: n, n, 0 with n = d_in + d_out; DoRA: the first
    with its magnitudes; LoRA-XS, r^2: 1, 3, 2). The adapter's own site is not always the layer: QA-LoRA's has d_in/g inputs.
    """
    found, adapter, backbone = {}, adapted.adapter, adapted.backbone
    for site in adapter.sites(backbone) if adapter.has_rank else ():
        one, two, three = (adapter.count(backbone, [site], {site.name: rank}) for rank in (1, 2, 3))
        cost = [one, two - one, three - 2 * two + one]
        found[site.name] = {"cost": cost, "largest_rank": min(site.d_in, site.d_out)}
    return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerImportance(Probe):
    """Every importance metric per adapted module, with its default options, at 20 snapshots (in short runs every 10 steps).

    Before each snapshot a window of 1 to 5 steps is observed and nothing in between, so that training is hardly slowed. Of LoRA
    (DoRA as well) the factors A and B are looked at; of full fine-tuning the weights of the linear layers, by the metrics that
    keep no copy of them. Written as ``importance.json``: ``sites`` (where a module lies, and what ranks cost there),
    ``steps`` (optimizer steps done), ``metrics`` by site; no file where no module is adapted. The snapshots follow training:
    the last is of the last step, not of a selected one.
    """

    name: ClassVar[str] = "layer_importance"

    def hook(self, adapted: Adapted, view: View) -> TrainingHook:
        return _Hook(adapted)
