"""What the metrics say of themselves is what they do."""

from __future__ import annotations

import torch
from torch import nn

from peftlab import registry
from peftlab.allocators.importance.contract import Importance
from peftlab.nn.parts import Part

D_IN, D_OUT, RANK = 6, 5, 3


def test_which_are_of_the_update_and_which_hold_every_weight() -> None:
    """Where there is no update yet, what is one of the update is zero, whatever the gradients."""
    random = torch.Generator().manual_seed(0)
    a, b = nn.Parameter(torch.randn(RANK, D_IN, generator=random)), nn.Parameter(torch.zeros(D_OUT, RANK))
    for tensor in (a, b):
        tensor.grad = torch.randn(tensor.shape, generator=random)
    for name in registry.components("importance"):
        metric: Importance = registry.create("importance", name)
        meter = metric.meter({"m": Part(tensors=((a, 0), (b, 1)), d_in=D_IN, d_out=D_OUT)})
        meter.observe()
        assert metric.of_update == (meter.scores()["m"].module == 0.0), name
        held = sum(value.numel() for value in meter.state().values() if isinstance(value, torch.Tensor))
        assert metric.copies_weights == (held >= a.numel() + b.numel()), name
