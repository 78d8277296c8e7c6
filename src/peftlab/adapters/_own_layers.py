"""What adapters share whose updates are layers of ours around the frozen ones: options, placing them, counting."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from peftlab.adapters._options import check_low_rank
from peftlab.adapters._peft import check_ranks, ranked
from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.contract import Backbone
from peftlab.nn.roles import Site
from peftlab.nn.seeding import generator
from peftlab.nn.surgery import slice_fused


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnLayers(Adapter):
    """h = base(x) + s (low-rank update of x); s = alpha/rank stays what it is whatever an allocator does to the rank."""

    rank: int = 8
    alpha: float | None = None  #: absolute, belongs to ``rank``; default alpha_over_rank * rank
    alpha_over_rank: float = 2.0
    dropout: float = 0.0  #: on the adapter's input, in training
    targets: str | tuple[str, ...] = "standard"  #: as of ``lora``

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.alpha, self.alpha_over_rank, self.dropout)

    @property
    def scale(self) -> float:
        """s, the factor of every update."""
        return self.alpha / self.rank if self.alpha is not None else self.alpha_over_rank

    @abstractmethod
    def cost(self, site: Site, rank: int) -> int:
        """Trainable parameters at a site of a rank."""

    @abstractmethod
    def layer(self, base: nn.Module, site: Site, rank: int, random: torch.Generator) -> nn.Module:
        """The layer that takes the place of ``base``; initial values from ``random`` alone."""

    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        ranks = ranks if ranks is not None else dict.fromkeys((s.name for s in sites), self.rank)
        return sum(self.cost(s, ranks[s.name]) for s in sites)

    def attach(self, backbone: Backbone, *, seed: int, ranks: Mapping[str, int] | None = None) -> Adapted:
        sites = self.sites(backbone)
        if ranks is not None:
            sites = ranked(sites, ranks)
            check_ranks(sites, ranks, "allocator")
        module = backbone.module
        slice_fused(module, sites)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(backbone.in_head(name))
        for site in sites:
            rank = ranks[site.name] if ranks is not None else self.rank
            random = generator(seed, "adapter", site.name)
            module.set_submodule(site.name, self.layer(module.get_submodule(site.name), site, rank, random))
        return Adapted(module=module, backbone=backbone, adapter=self, sites=sites, ranks=dict(ranks or {}))
