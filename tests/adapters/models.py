"""Tiny random vision transformers of each family, and hand-written forward passes to hold adapters against."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from tests.contracts import tiny

FAMILIES = ("timm", "vit", "deit")
WIDTH, BLOCKS, CLASSES = 32, 2, tiny.CLASSES
Step = Callable[[int, torch.Tensor], torch.Tensor]


@cache
def _held(kind: str) -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix=f"peftlab-{kind}-")


@cache
def folder(kind: str) -> Path:
    path = Path(_held(kind).name)
    if kind != "deit":
        return tiny.make(kind, path)
    from transformers import DeiTConfig, DeiTForImageClassification

    sizes: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "intermediate_size": 64}
    sizes |= {"image_size": 32, "patch_size": 8, "num_labels": 7}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = DeiTForImageClassification(DeiTConfig(**sizes))  # pyright: ignore
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    module.save_pretrained(str(path))
    return path


@cache
def _loaded(kind: str) -> Backbone:
    head = "sequence-classification" if kind in tiny.TEXT else "image-classification"
    return source_of(str(folder(kind))).load(str(folder(kind)), outputs=CLASSES, head=head, seed=0)


def backbone(kind: str = "timm") -> Backbone:
    return copy.deepcopy(_loaded(kind))


def on_meta(kind: str) -> Backbone:
    return source_of(str(folder(kind))).load(str(folder(kind)), outputs=CLASSES, seed=0, device="meta")


def images(batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def tokens(batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 64, (batch, 9), generator=torch.Generator().manual_seed(seed))


def logits(kind: str, module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return _loaded(kind).outputs(module.eval(), {"pixel_values": images()})


def by_hand(plain: Any, attention: Step, feed_forward: Step, before: Step = lambda i, x: x) -> torch.Tensor:
    """The forward pass of timm's ViT, written out: ``attention`` and ``feed_forward`` give what a block adds to x.

    ``before`` changes the tokens in front of each block.
    """
    with torch.no_grad():
        plain.eval()
        x = plain._pos_embed(plain.patch_embed(images()))
        for number in range(len(plain.blocks)):
            x = before(number, x)
            x = x + attention(number, x)
            x = x + feed_forward(number, x)
        return plain.head(plain.norm(x)[:, 0])
