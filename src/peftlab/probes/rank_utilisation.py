"""Rank utilisation: how much of the rank a module was given its update really uses."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch

from peftlab.adapters.contract import Adapted
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.parts import Part
from peftlab.probes.contract import Probe, View

FILE = "rank_utilisation.json"
ENERGY = 0.9


def utilisation(part: Part) -> dict[str, Any]:
    """Singular values of the update s B A, its effective ranks, and the share of the allotted rank in use.

    The rank is the number of directions that are not switched off. With p_i = sigma_i^2 / sum sigma^2: effective rank exp(H) with
    H = -sum p_i ln p_i, and the least number of singular values that hold 90 % of the energy sum sigma^2. Where a part was taken
    out of W0 the update, s (B A - B0 A0), has up to twice as many of them as the rank allotted, and the share may be above 1.
    """
    down, up = (factor.double() for factor in part.update_factors())
    rank = _switched_on(*part.factors())
    core = torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T
    values = part.scale * torch.linalg.svdvals(core)[: _switched_on(down, up)]
    energy = values.square()
    total = energy.sum()
    if not bool(total > 0) or not bool(total.isfinite()):
        return {"rank": rank, "singular_values": [], "effective_rank": None, "rank_90": None, "share_in_use": None}
    effective = float(torch.special.entr(energy / total).sum().exp())
    needed = int((energy.cumsum(0) < ENERGY * total * (1 - 1e-12)).sum()) + 1
    return {
        "rank": rank,
        "singular_values": values.tolist(),
        "effective_rank": effective,
        "rank_90": needed,
        "share_in_use": effective / rank,
    }


def _switched_on(down: torch.Tensor, up: torch.Tensor) -> int:
    return int(((down.double().norm(dim=1) * up.double().norm(dim=0)) > 0).sum())


class _Hook(TrainingHook):
    name = "rank_utilisation"

    def __init__(self, adapted: Adapted) -> None:
        self.sites = {site.name: site for site in adapted.sites}
        self.parts = {name: part for name, part in adapted.adapter.parts(adapted).items() if part.directions}

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        if not self.parts:
            return {}
        about = {n: {"block": self.sites[n].block, "role": self.sites[n].role, **utilisation(p)} for n, p in self.parts.items()}
        return {FILE: {"sites": about}}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankUtilisation(Probe):
    """Singular values of the update at the end, effective rank (entropy and 90 % energy), share of the allotted rank in use.

    Read once, after the weights that are tested have been selected; written as ``rank_utilisation.json``. The entropy form is the
    effective rank of Roy & Vetterli (2007), on energies instead of singular values.
    """

    name: ClassVar[str] = "rank_utilisation"
    citation: ClassVar[str] = """@inproceedings{roy2007effective,
  title = {The effective rank: A measure of effective dimensionality},
  author = {Roy, Olivier and Vetterli, Martin},
  booktitle = {15th European Signal Processing Conference}, pages = {606--610}, year = {2007}
}"""

    def hook(self, adapted: Adapted, view: View) -> TrainingHook:
        return _Hook(adapted)
