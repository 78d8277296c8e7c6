"""A look at tiny models of each family, with random batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.allocators.contract import Allocator, BaseProbe
from peftlab.backbones.contract import Backbone
from peftlab.nn.surgery import slice_fused
from peftlab.registry import create
from tests.adapters import models

FAMILIES = ("vit", "timm", "gpt2")


def batch(kind: str, number: int, size: int = 8) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(100 + number)
    labels = torch.randint(0, models.CLASSES, (size,), generator=random)
    if kind == "gpt2":
        return {"labels": labels, "input_ids": torch.randint(1, 64, (size, 9), generator=random)}
    return {"labels": labels, "pixel_values": torch.randn(size, 3, 32, 32, generator=random)}


def inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key != "labels"}


def loss(backbone: Backbone, module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(backbone.outputs(module.eval(), inputs(batch)), batch["labels"])


def probe(backbone: Backbone, kind: str) -> BaseProbe:
    def batches(number: int) -> Iterator[dict[str, torch.Tensor]]:
        return (batch(kind, i) for i in range(number))

    return BaseProbe(backbone=backbone, batches=batches, inputs=inputs, loss=lambda batch: loss(backbone, backbone.module, batch))


def attached(kind: str, allocator: Any, adapter: Any = None) -> tuple[Adapted, Any]:
    """The adapted model and what was measured, as training/assemble.py does it."""
    rule: Allocator = create("allocator", allocator)
    form = create("adapter", adapter or {"name": "lora", "rank": 4, "targets": "all-linear"})
    backbone = models.backbone(kind)
    sites = form.sites(backbone)
    slice_fused(backbone.module, sites)
    measured = rule.measure(probe(backbone, kind), sites, form.rank)
    adapted = form.attach(backbone, seed=3, ranks=rule.initial(sites, form.rank, measured))
    rule.initialise(adapted, measured)
    return adapted, measured
