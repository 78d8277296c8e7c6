"""Noise on tensors for the time of a proof: what starts at zero hides whatever it is multiplied with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch

SIZE = 0.05  #: standard deviation


@contextlib.contextmanager
def noised(tensors: Iterable[torch.Tensor], seed: int) -> Iterator[None]:
    """Inside, normal noise is added to each tensor; afterwards they are what they were, to the bit.

    Drawn on the CPU from a generator of its own: no other random number changes.
    """
    random = torch.Generator().manual_seed(seed)
    before = [(tensor.data, tensor.data.clone()) for tensor in tensors]
    try:
        for data, _ in before:
            data.add_((SIZE * torch.randn(data.shape, generator=random)).to(data))
        yield
    finally:
        for data, kept in before:
            data.copy_(kept)
