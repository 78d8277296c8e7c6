"""A fresh classification head, the same for every arm with the same seed."""

from __future__ import annotations

import torch
from torch import nn

from peftlab.nn.seeding import generator


@torch.no_grad()
def initialise_head(head: nn.Module, seed: int, std: float = 0.02) -> None:
    """Weights ~ N(0, 0.02^2) cut at two deviations, biases 0 (as ViT heads are initialised), from ``seed`` alone."""
    random = generator(seed, "head")
    for name, parameter in head.named_parameters():
        if parameter.is_meta:
            continue
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() >= 2:
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=random)
