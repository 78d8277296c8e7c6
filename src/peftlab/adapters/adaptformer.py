"""AdaptFormer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from peftlab.adapters._inserted import Bottleneck, Insert, Inserting, check_dropout, check_width, insert_after, shared_name
from peftlab.backbones.contract import Backbone
from peftlab.errors import BackboneError, OptionError
from peftlab.nn.roles import Site, select


class _Parallel(Insert):
    def __init__(self, bottleneck: Bottleneck, scale: float) -> None:
        super().__init__()
        self.bottleneck, self.scale = bottleneck, scale

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return output + self.scale * self.bottleneck(x)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaptFormer(Inserting):
    """MLP(z) + s (W_up ReLU(W_down z + b_down) + b_up) in every block, z = LN(x) (Chen et al. 2022, section 3.2).

    z [batch, tokens, d] is what the block's MLP gets; W_down [width, d] Kaiming-uniform, W_up [d, width] and the biases zero.
    Trainable parameters: per block 2 d width + width + d (ViT-B, width 64: 1,189,632). The released code feeds the branch x
    instead of LN(x) and puts dropout 0.1 inside; the paper's equations decide here, and ``dropout`` is an option.
    """

    name: ClassVar[str] = "adaptformer"
    mergeable: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{chen2022adaptformer,
  title = {{AdaptFormer}: Adapting Vision Transformers for Scalable Visual Recognition},
  author = {Chen, Shoufa and Ge, Chongjian and Tong, Zhan and Wang, Jiangliu and Song, Yibing and Wang, Jue and Luo, Ping},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2022}, volume = {35}, pages = {16664--16678}
}"""

    width: int = 64  #: of the bottleneck
    scale: float = 0.1  #: s
    dropout: float = 0.0  #: inside the bottleneck, in training

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if not self.scale > 0:
            raise OptionError(f"scale must be positive, got {self.scale}", where="scale", remedy="the paper's is 0.1")

    def sites(self, backbone: Backbone) -> list[Site]:
        found = select(backbone.roles, "down", where="adapter")
        check_width(self.width, found, "adapter.width")
        return found

    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        return sum(Bottleneck.count(site.d_out, self.width) for site in sites)

    def insert(self, backbone: Backbone, random: torch.Generator) -> None:
        for site in self.sites(backbone):
            down = torch.empty(self.width, site.d_out)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=random)
            bottleneck = Bottleneck(down, nn.ReLU(), self.dropout)
            insert_after(backbone.module.get_submodule(_mlp(backbone, site)), _Parallel(bottleneck, self.scale))


def _mlp(backbone: Backbone, down: Site) -> str:
    """The module that holds the block's widening and narrowing layer and no attention."""
    block = [site for site in backbone.roles.sites if site.block == down.block]
    widening = [site.name for site in block if site.role in ("up", "gate")]
    name = shared_name([down.name, *widening])
    inside = [site.role for site in block if site.name.startswith(name + ".")]
    if not widening or not name or not set(inside) <= {"up", "gate", "down"} or inside.count("down") != 1:
        raise BackboneError(
            f"block {down.block} has no MLP module of its own",
            where=backbone.name,
            remedy="AdaptFormer needs blocks with one MLP (ViT, DeiT, DINOv2, GPT-2); use bottleneck",
        )
    return name
