"""Augmentation of batches."""

from __future__ import annotations

import pytest
import torch

from peftlab.tasks._augmentation import augment
from tests.tasks.builders import pixels


def batch(count: int = 400, size: int = 16) -> torch.Tensor:
    return torch.from_numpy(pixels(count, size))


@pytest.mark.parametrize("kind", ["none", "flip", "crop", "crop-flip"])
def test_same_generator_same_images(kind):
    images = batch(20)
    first, second = (augment(images, kind, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == images.shape and first.dtype == torch.uint8
    assert torch.equal(images, batch(20)), "the input was changed"


def test_flip_mirrors_about_half_of_the_images():
    """400 fair coins: 200 +- 5 sd (sd = 10)."""
    images = batch()
    result = augment(images, "flip", torch.Generator().manual_seed(0))
    same = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(2)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_crop_moves_by_up_to_an_eighth_in_both_directions_and_mirrors_the_border():
    images = batch(300, 16)
    result = augment(images, "crop", torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images.float().permute(0, 3, 1, 2), (2, 2, 2, 2), mode="reflect").permute(0, 2, 3, 1)
    seen = set()
    for before, after in zip(padded, result, strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(before[y : y + 16, x : x + 16], after.float())]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_tiny_images_survive(size):
    images = batch(5, size)
    assert augment(images, "crop-flip", torch.Generator().manual_seed(0)).shape == images.shape
