"""LoRA in the form of a singular value decomposition, whose triplets an allocator can switch off."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from peftlab.adapters._own_low_rank import OwnLowRank
from peftlab.adapters.contract import Adapted
from peftlab.nn.parts import Part
from peftlab.nn.roles import Site
from peftlab.nn.triplets import TripletLinear


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Svd(OwnLowRank):
    """h = W0 x + s P diag(lambda) Q x, with P [d_out, r], lambda [r] zero, Q [r, d_in] (Zhang et al. 2023, section 3.1).

    s = alpha/rank, by default LoRA's 2, and stays what it is whatever an allocator does (the official code: alpha/r0).
    Trainable parameters: sum over sites of r (d_in + d_out + 1). Alone it is a fixed-rank adapter; with ``allocator: adalora``
    it is AdaLoRA. Saved as an ordinary LoRA of the triplets with lambda other than zero: B = P diag(lambda), A = Q, rank r_i and
    alpha_i = s r_i for each module; modules without a triplet are left out.
    """

    name: ClassVar[str] = "svd"
    methods: ClassVar[Mapping[str, str]] = {
        "AdaLoRA": "adapter: {name: svd, rank: 8}, allocator: {name: adalora}",
    }
    has_triplets: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{zhang2023adalora,
  title = {Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning},
  author = {Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu
    and Zhao, Tuo},
  booktitle = {International Conference on Learning Representations}, year = {2023},
  url = {https://openreview.net/forum?id=lq62uWRJjiY}
}"""

    def cost(self, site: Site, rank: int) -> int:
        return rank * (site.d_in + site.d_out + 1)

    def layer(self, base: nn.Module, site: Site, rank: int, random: torch.Generator) -> TripletLinear:
        return TripletLinear(base, rank, self.scale, self.dropout, random)

    def parts(self, adapted: Adapted) -> dict[str, Part]:
        layers = triplet_layers(adapted)
        return {
            site.name: Part(
                tensors=((layers[site.name].P, 1), (layers[site.name].singular_values, 0), (layers[site.name].Q, 0)),
                d_in=site.d_in,
                d_out=site.d_out,
                scale=self.scale,
            )
            for site in adapted.sites
        }


def triplet_layers(adapted: Adapted) -> dict[str, TripletLinear]:
    """Site name -> its layer."""
    return {site.name: adapted.module.get_submodule(site.name) for site in adapted.sites}  # pyright: ignore
