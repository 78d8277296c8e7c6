"""Intruder dimensions: leading singular vectors of a tuned weight that are unlike every one of the weight before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.errors import OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.memory import MB, memory_mb
from peftlab.nn.quantized import dense_weight, parameter_sizes
from peftlab.nn.roles import Site
from peftlab.probes.contract import Probe, View

FILE = "intruder_dimensions.json"
FLOAT_BYTES = 4
COPIES = 3  #: the merged model, the model made anew, and that one merged
MEMORY = 0.5  #: share of the free memory that they may take


def similarities(before: torch.Tensor, after: torch.Tensor, leading: int) -> torch.Tensor:
    """For each of the ``leading`` left singular vectors u_j of ``after``: max_i |u_j . v_i| over those of ``before``, in [0, 1].

    Shapes: before, after [d_out, d_in], float64; v_i has all min(d_out, d_in) of them.
    """
    known, _, _ = torch.linalg.svd(before, full_matrices=False)
    found, _, _ = torch.linalg.svd(after, full_matrices=False)
    return (known.T @ found[:, :leading]).abs().amax(dim=0).clamp(max=1.0)


def weight_of(plain: nn.Module, site: Site) -> torch.Tensor:
    """W [d_out, d_in] that a layer of a plain model, or a slice of a fused one, multiplies with; float64, on the CPU.

    Of a packed layer too, whose parameter of that name are the codes, which a merge into zero points leaves as they are.
    """
    weight = dense_weight(plain.get_submodule(site.parent or site.name))
    return weight[site.offset : site.offset + site.d_out].cpu().double()


def single(sites: Sequence[Site]) -> list[Site]:
    """The layers of all blocks; of a fused one its slices, where they are known."""
    sliced = {site.parent for site in sites if site.parent is not None}
    return [site for site in sites if site.block is not None and site.name not in sliced]


class _Hook(TrainingHook):
    name = "intruder_dimensions"

    def __init__(self, probe: IntruderDimensions, adapted: Adapted, view: View) -> None:
        self.probe, self.adapted, self.view = probe, adapted, view

    def report(self) -> dict[str, Any]:
        """When training, its evaluation and the measurement of its memory are over."""
        needed = COPIES * FLOAT_BYTES * sum(parameter_sizes(self.adapted.module).values()) / MB
        _, free = memory_mb(self.view.device.type)
        if needed > MEMORY * free:
            return {FILE: {"left_out": f"copies need {needed:.0f} MB and {MEMORY:g} of the free {free:.0f} MB were allowed"}}
        with torch.no_grad():
            before, after = self._plain(self.view.fresh()), self._plain(self.adapted)
            return {FILE: self._compared(before, after)}

    @staticmethod
    def _plain(adapted: Adapted) -> nn.Module:
        return adapted.adapter.merge(adapted)

    def _compared(self, before: nn.Module, after: nn.Module) -> dict[str, Any]:
        sites = single(self.adapted.backbone.roles.sites)
        changed = [site for site in sites if not torch.equal(weight_of(before, site), weight_of(after, site))]
        places = np.linspace(0, len(changed) - 1, min(self.probe.layers, len(changed))).round().astype(int)
        layers: dict[str, Mapping[str, Any]] = {}
        for site in (changed[place] for place in places):
            old, new = weight_of(before, site), weight_of(after, site)
            if bool(new.isfinite().all()):
                values = similarities(old, new, self.probe.leading)
                number = int((values < self.probe.threshold).sum())
                layers[site.name] = {
                    "role": site.role, "block": site.block, "intruders": number, "leading": len(values),
                    "similarity": values.tolist(),
                }  # fmt: skip
        return {
            "layers_changed": len(changed),
            "layers_compared": len(layers),
            "intruders": sum(found["intruders"] for found in layers.values()),
            "intruders_per_layer": sum(found["intruders"] for found in layers.values()) / len(layers) if layers else None,
            "threshold": self.probe.threshold,
            "layers": layers,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IntruderDimensions(Probe):
    """How many leading singular vectors of the tuned weights are unlike all of the weights before (Shuttleworth et al. 2024, 4).

    With W0 = U0 S0 V0' the weight as training began and W = U S V' the one that is tested, update merged in: u_j, of the
    ``leading`` largest singular values, is an intruder dimension if max_i |u_j . u0_i| < ``threshold``. Full fine-tuning is
    said to have hardly any, LoRA at high learning rates many, with more forgotten of what the model knew. Weights that did not
    change are passed over; of those that did at most ``layers`` are looked at, spread evenly over depth, after the test. Of
    adapters that cannot merge there is nothing; of quantized weights W0 and W are what the layers multiply with. Written as
    ``intruder_dimensions.json``.
    """

    name: ClassVar[str] = "intruder_dimensions"
    citation: ClassVar[str] = (
        "@article{shuttleworth2024lora, title={{LoRA} vs Full Fine-tuning: An Illusion of Equivalence}, "
        "author={Shuttleworth, Reece and Andreas, Jacob and Torralba, Antonio and Sharma, Pratyusha}, "
        "journal={arXiv preprint arXiv:2410.21228}, year={2024}}"
    )
    in_tuning: ClassVar[bool] = False
    needs_whole: ClassVar[bool] = True

    layers: int = 0  #: at most so many are looked at, e.g. 8; 0: none (two decompositions each, in every run)
    leading: int = 10  #: singular vectors of each, those of the largest singular values
    threshold: float = 0.5  #: cosine below which one is an intruder

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise OptionError(f"must be at least 0, got {self.layers}", where="layers", remedy="e.g. 8")
        if self.leading < 1:
            raise OptionError(f"must be at least 1, got {self.leading}", where="leading", remedy="e.g. 10")
        if not 0 < self.threshold <= 1:
            raise OptionError(f"must be above 0 and at most 1, got {self.threshold:g}", where="threshold", remedy="e.g. 0.5")

    def hook(self, adapted: Adapted, view: View) -> TrainingHook | None:
        return _Hook(self, adapted, view) if self.layers and adapted.adapter.mergeable else None
