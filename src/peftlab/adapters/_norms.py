"""Normalisation layers of a backbone."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from peftlab.backbones.contract import Backbone


def norms(backbone: Backbone) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every normalisation layer outside the head that has a scale: a vector ``weight`` and "norm" in its class
    name (LayerNorm, RMSNorm, BatchNorm and the like, in whichever library)."""
    for name, module in backbone.module.named_modules():
        weight = getattr(module, "weight", None)
        if (
            "norm" in type(module).__name__.lower()
            and isinstance(weight, nn.Parameter)
            and weight.dim() == 1
            and not backbone.in_head(name + ".")
        ):
            yield name, module


def norm_parameters(backbone: Backbone) -> frozenset[str]:
    """Names of their scales and biases."""
    return frozenset(
        f"{name}.{own}"
        for name, module in norms(backbone)
        for own, _ in module.named_parameters(recurse=False)
        if own in ("weight", "bias")
    )
