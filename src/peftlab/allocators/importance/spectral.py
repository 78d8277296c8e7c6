"""How far a module has moved, and in how many directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch

from peftlab.allocators.importance._meters import Reading
from peftlab.allocators.importance.contract import Importance, Meter
from peftlab.nn.parts import Part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spectral(Importance):
    """Root mean square change of a weight times the effective rank of the update, read at the time of a decision.

    With the singular values sigma_1 >= ... >= sigma_r of s B A: sqrt(sum sigma_i^2 / (d_in d_out)) exp(H), H the entropy of
    p_i = sigma_i^2 / sum sigma^2 (the effective rank of Roy & Vetterli 2007, on energies): a module that moves far in many
    directions needs rank, one that moves far in a single direction does not. Of the i-th strongest direction:
    sigma_i / sqrt(d_in d_out). Where W0 gave up a part s B0 A0 at the start (PiSSA, OLoRA) sigma are those of s (B A - B0 A0).
    """

    name: ClassVar[str] = "spectral"
    of_update: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{roy2007effective,
  title = {The effective rank: A measure of effective dimensionality},
  author = {Roy, Olivier and Vetterli, Martin},
  booktitle = {15th European Signal Processing Conference}, pages = {606--610}, year = {2007}
}"""

    def meter(self, parts: Mapping[str, Part]) -> Meter:
        return Reading(parts, _value)


def _value(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = part.update_factors()
    core = torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T  # the singular values of B A, from a small matrix
    values = part.per_weight(torch.linalg.svdvals(core))
    energy = values.square()
    shares = energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    effective = torch.special.entr(shares).sum().exp()
    strongest = values[: part.directions]
    padded = torch.cat([strongest, values.new_zeros(part.directions - len(strongest))])
    return energy.sum().sqrt() * effective, padded
