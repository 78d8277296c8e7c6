"""Noise for the time of a proof."""

from __future__ import annotations

import pytest
import torch

from peftlab.training.noise import noised


def test_everything_is_as_it_was_afterwards_to_the_bit() -> None:
    tensors = [torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.rand(5).half())]
    before, drawn = [t.detach().clone() for t in tensors], torch.get_rng_state()
    with pytest.raises(ValueError), noised(tensors, seed=1):
        assert all(bool((t != b).any()) for t, b in zip(tensors, before, strict=True))
        raise ValueError
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn)


def test_another_seed_is_another_noise() -> None:
    tensor, seen = torch.zeros(8), []
    for seed in (0, 1, 0):
        with noised([tensor], seed):
            seen.append(tensor.clone())
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
