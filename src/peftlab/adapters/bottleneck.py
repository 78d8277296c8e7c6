"""Bottleneck adapters (Houlsby, Pfeiffer)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from peftlab.adapters._inserted import Bottleneck, Insert, Inserting, check_dropout, check_width, insert_after
from peftlab.adapters._norms import norm_parameters
from peftlab.backbones.contract import Backbone
from peftlab.nn.roles import Site, select

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class _Sequential(Insert):
    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.bottleneck = bottleneck

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return output + self.bottleneck(output)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckAdapter(Inserting):
    """h <- h + W_up act(W_down h + b_down) + b_up on a sub-layer's output (Houlsby et al. 2019, section 2.1).

    h [batch, tokens, d] is the output of the sub-layer's last projection, before its dropout and before the skip connection is
    added; W_down [width, d], W_up [d, width]. ``placement``: ``houlsby`` after attention and after the feed-forward layer,
    ``pfeiffer`` after the feed-forward layer only (Pfeiffer et al. 2021, AdapterFusion; in a post-norm model theirs sits behind a
    further LayerNorm, which pre-norm models such as ViT do not have).
    Trainable parameters: per adapter 2 d width + width + d; with ``norms`` also the scales and biases of all norms.
    Unlike the papers' near-identity start (W ~ N(0, 0.01^2) cut at two deviations), W_up starts at zero: exactly the identity.
    """

    name: ClassVar[str] = "bottleneck"
    methods: ClassVar[Mapping[str, str]] = {
        "Houlsby": "adapter: bottleneck",
        "Pfeiffer": "adapter: {name: bottleneck, placement: pfeiffer}",
        "adapter": "adapter: bottleneck",
    }
    mergeable: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{houlsby2019adapters,
  title = {Parameter-Efficient Transfer Learning for {NLP}},
  author = {Houlsby, Neil and Giurgiu, Andrei and Jastrzebski, Stanislaw and Morrone, Bruna and de Laroussilhe, Quentin
    and Gesmundo, Andrea and Attariyan, Mona and Gelly, Sylvain},
  booktitle = {International Conference on Machine Learning}, year = {2019}, pages = {2790--2799}
}"""

    width: int = 64  #: of the bottleneck
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: float = 0.0  #: inside the bottleneck, in training
    norms: bool | None = None  #: train normalisation layers too; by default as published: with houlsby yes, with pfeiffer no

    def __post_init__(self) -> None:
        check_dropout(self.dropout)

    def sites(self, backbone: Backbone) -> list[Site]:
        found = select(backbone.roles, ("o", "down") if self.placement == "houlsby" else "down", where="adapter.placement")
        check_width(self.width, found, "adapter.width")
        return found

    def own(self, backbone: Backbone) -> frozenset[str]:
        wanted = self.placement == "houlsby" if self.norms is None else self.norms
        return norm_parameters(backbone) if wanted else frozenset()

    def added(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        return sum(Bottleneck.count(site.d_out, self.width) for site in sites)

    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        own = sum(backbone.module.get_parameter(name).numel() for name in self.own(backbone))
        return self.added(backbone, sites) + own

    def insert(self, backbone: Backbone, random: torch.Generator) -> None:
        for site in self.sites(backbone):
            down = torch.empty(self.width, site.d_out)
            nn.init.trunc_normal_(down, std=0.01, a=-0.02, b=0.02, generator=random)
            bottleneck = Bottleneck(down, _ACTIVATIONS[self.activation](), self.dropout)
            insert_after(backbone.module.get_submodule(site.name), _Sequential(bottleneck))
