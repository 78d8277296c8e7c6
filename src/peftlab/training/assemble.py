"""The one place where backbone, quantizer, allocator and adapter meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from peftlab.adapters.contract import Adapted, Adapter
from peftlab.allocators.contract import Allocator
from peftlab.backbones.contract import Backbone, BackboneSource
from peftlab.backbones.resolve import source_of
from peftlab.errors import OptionError
from peftlab.nn.roles import Site
from peftlab.quantizers.contract import Quantizer
from peftlab.registry import create
from peftlab.tasks.contract import Preprocessing, Task


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """The configured components of an arm x task x backbone."""

    backbone: str
    source: type[BackboneSource]
    task: Task
    adapter: Adapter
    allocator: Allocator | None
    quantizer: Quantizer

    @classmethod
    def of(
        cls,
        *,
        backbone: str,
        task: Mapping[str, Any],
        adapter: Mapping[str, Any],
        allocator: Mapping[str, Any] | None,
        quantizer: Mapping[str, Any],
        where: str = "",
    ) -> Ingredients:
        """Configured from their forms in a study.

        Raises:
            OptionError: an unknown component or option, or two that do not go together.
            BackboneError: no such backbone.
        """
        prefix = f"{where}." if where else ""
        found = cls(
            backbone=backbone,
            source=source_of(backbone),
            task=create("task", task, key="kind", where="task"),
            adapter=create("adapter", adapter, where=f"{prefix}adapter"),
            allocator=create("allocator", allocator, where=f"{prefix}allocator") if allocator is not None else None,
            quantizer=create("quantizer", quantizer, where=f"{prefix}quantizer"),
        )
        if found.allocator is not None and not found.adapter.has_rank:
            raise OptionError(
                f"adapter {found.adapter.name!r} has no rank to allocate",
                where=f"{prefix}allocator",
                remedy="remove it, or use an adapter with a rank",
            )
        if found.allocator is not None and found.allocator.needs_triplets and not found.adapter.has_triplets:
            raise OptionError(
                f"allocator {found.allocator.name!r} acts on triplets, and adapter {found.adapter.name!r} has none",
                where=f"{prefix}allocator",
                remedy="use an adapter whose update is a sum of triplets, e.g. `svd`",
            )
        return found

    @property
    def image_size(self) -> int | None:
        return getattr(self.task, "image_size", None)

    def preprocessing(self) -> Preprocessing:
        return self.source.preprocessing(self.backbone, self.image_size)

    def load_backbone(self, outputs: int, seed: int, device: str = "cpu") -> Backbone:
        """``device``: "cpu", or "meta" for shapes only."""
        return self.source.load(self.backbone, outputs=outputs, image_size=self.image_size, seed=seed, device=device)

    @property
    def rank(self) -> int:
        """The adapter's own uniform rank; 0 where it has none."""
        return getattr(self.adapter, "rank", 0)

    def cost(self, backbone: Backbone) -> Callable[[Site, int], int]:
        """(site, rank) -> trainable parameters of the adapter there."""
        return lambda site, rank: self.adapter.count(backbone, [site], {site.name: rank})

    def ranks(self, backbone: Backbone, sites: Sequence[Site]) -> dict[str, int] | None:
        """The starting ranks that the allocator decides; None without one.

        Raises:
            OptionError: its budget does not fit these sites.
        """
        return self.allocator.initial(sites, self.rank, cost=self.cost(backbone)) if self.allocator is not None else None

    def attach(self, backbone: Backbone, seed: int) -> Adapted:
        """Quantize the frozen weights, decide the starting ranks, put the adapter on."""
        self.quantizer.convert(backbone)
        ranks = self.ranks(backbone, self.adapter.sites(backbone)) if self.allocator is not None else None
        adapted = self.adapter.attach(backbone, seed=seed, ranks=ranks)
        hook = self.allocator.hook(adapted) if self.allocator is not None else None
        if hook is not None:
            adapted.hooks.append(hook)
        return adapted

    def build(self, outputs: int, seed: int, device: torch.device | str = "cpu") -> Adapted:
        """The whole model of a run, on its device."""
        adapted = self.attach(self.load_backbone(outputs, seed), seed)
        adapted.module.to(device)
        return adapted
