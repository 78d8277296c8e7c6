"""A look at the base before training: gradients of its own weights over the first batches, and the report of what they said."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from peftlab.allocators._budget import BudgetOption
from peftlab.allocators._static import Report
from peftlab.allocators.contract import Allocator, BaseProbe
from peftlab.errors import NonFinite, OptionError, RecordError
from peftlab.nn.modes import same_modes
from peftlab.nn.quantized import is_quantized
from peftlab.nn.roles import Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a look at the base found."""

    importance: Mapping[str, float]  #: by site
    batches: int
    seconds: float
    gradient_bytes: int = 0  #: of the gradients that were held at once
    gradients: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)  #: by site, [d_out, d_in]

    @property
    def silent(self) -> bool:
        """Nothing mattered, so that ranks are equal."""
        return not any(self.importance.values())


def check_batches(batches: int) -> None:
    if batches < 1:
        raise OptionError(f"batches must be at least 1, got {batches}", where="batches", remedy="e.g. 8")


@contextlib.contextmanager
def trainable_weights(base: BaseProbe, sites: Sequence[Site]) -> Iterator[dict[str, nn.Parameter]]:
    """Site name -> its weight. Inside, these and no other tensors ask for gradients; outside, the backbone is as it was.

    Raises:
        OptionError: a weight is quantized.
    """
    module = base.backbone.module
    layers = {site.name: module.get_submodule(site.name) for site in sites}
    quantized = next((name for name, layer in layers.items() if is_quantized(layer)), None)
    if quantized is not None:
        raise OptionError(
            f"{quantized} is quantized: its weight has no gradient", where="allocator", remedy="measure on a float backbone"
        )
    weights: dict[str, nn.Parameter] = {name: layer.weight for name, layer in layers.items()}  # pyright: ignore
    asked = {parameter: parameter.requires_grad for parameter in module.parameters()}
    with same_modes(module):
        try:
            for parameter in asked:
                parameter.requires_grad_(False)
            for weight in weights.values():
                weight.requires_grad_(True)
            yield weights
        finally:
            for parameter, before in asked.items():
                parameter.requires_grad_(before)
                parameter.grad = None


def backward(base: BaseProbe, batches: int, each: Callable[[], None] = lambda: None) -> tuple[int, float]:
    """The loss of each of the first batches taken back to the weights, then ``each``; gradients add up unless that drops them.

    Returns:
        The number of batches (a step of training may have several), and the seconds they took.

    Raises:
        NonFinite: a loss that is not finite.
    """
    begin, number = time.perf_counter(), 0
    for number, batch in enumerate(base.batches(batches), start=1):
        loss = base.loss(batch)
        if not math.isfinite(loss.item()):
            raise NonFinite(
                f"the loss of the backbone on probe batch {number} is not finite",
                where="allocator",
                remedy="look at the data",
            )
        loss.backward()
        each()
    return number, time.perf_counter() - begin


def drop(weights: Mapping[str, nn.Parameter]) -> None:
    """Free the gradients."""
    for weight in weights.values():
        weight.grad = None


def gradient_bytes(weights: Mapping[str, nn.Parameter]) -> int:
    return sum(weight.nbytes for weight in weights.values())


def note(allocator: str, sites: Sequence[Site], batches: int, copies: int) -> tuple[str, ...]:
    """For a plan: that ranks are not known yet, and the memory that finding out takes besides weights and activations.

    ``copies``: float32 tensors of the size of each adapted weight that are held at once.
    """
    megabytes = copies * sum(4 * site.d_in * site.d_out for site in sites) / 1e6
    held = f", which takes {megabytes:.1f} MB for gradients before training starts" if copies else ""
    return (f"{allocator}: planned with equal ranks; a probe of {batches} batches decides{held}",)


class ProbeReport(Report):
    """Writes what was decided and why. When a run goes on, the probe was repeated: it must have said the same."""

    def __init__(self, allocator: Allocator, adapted, budget: BudgetOption | None, measured: Measured) -> None:
        super().__init__(allocator, adapted, budget)
        ranks, importance = self.content["ranks"], dict(measured.importance)
        self.content["probe"] = {
            "batches": measured.batches,
            "seconds": round(measured.seconds, 4),
            "gradient_mb": round(measured.gradient_bytes / 1e6, 3),
        }
        if importance:
            self.content["importance"] = importance
            self.content["equal_because_nothing_mattered"] = measured.silent
        self.content["history"] = [{"step": 0, "ranks": ranks, "importance": importance}]

    def state(self) -> dict[str, Any]:
        return {"ranks": self.content["ranks"], "probe": self.content["probe"]}

    def load_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        if state["ranks"] != self.content["ranks"]:
            raise RecordError(
                "the probe gives other ranks now than when the run began",
                where="allocator",
                remedy="data, libraries or machine changed, or the device is not deterministic; move the run's folder away",
            )
        self.content["probe"] = state["probe"]
