"""Augmentation of whole batches of uint8 images [B, H, W, 3]; the generator that is passed decides everything."""

from __future__ import annotations

from typing import Literal

import torch

Augmentation = Literal["none", "flip", "crop", "crop-flip"]

#: images are moved by up to this share of their size (4 pixels of 32, He et al. 2016, section 4.2)
SHIFT = 1 / 8


def augment(images: torch.Tensor, kind: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """``flip``: each image mirrored left-right with probability 1/2. ``crop``: each moved by up to an eighth of its size in both
    directions, the border mirrored. Works by choosing rows and columns, so pixel values are untouched.

    Args:
        images: uint8 [B, H, W, 3].
    """
    if kind == "none":
        return images
    count, height, width, _ = images.shape
    rows = torch.arange(height).expand(count, height)
    columns = torch.arange(width).expand(count, width)
    if "crop" in kind:
        rows = _moved(rows, height, generator)
        columns = _moved(columns, width, generator)
    if "flip" in kind:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _moved(places: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    limit = min(round(size * SHIFT), size - 1)
    offset = torch.randint(-limit, limit + 1, (len(places), 1), generator=generator)
    moved = (places + offset).abs()
    return torch.where(moved >= size, 2 * (size - 1) - moved, moved)
