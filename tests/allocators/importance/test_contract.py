"""What the metrics say of themselves is what they do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.allocators.importance.contract import Importance, Scores
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


def test_of_an_update_it_is_measured_from_where_it_began() -> None:
    """Where a part of the weight was moved into the factors, that part is no change; a direction is still one of the r."""
    random = torch.Generator().manual_seed(0)
    a0, b0 = torch.randn(RANK, D_IN, generator=random), torch.randn(D_OUT, RANK, generator=random)
    a, b = nn.Parameter(a0.clone()), nn.Parameter(b0.clone())
    part = Part(tensors=((a, 0), (b, 1)), d_in=D_IN, d_out=D_OUT, scale=2.0, taken_out=(a0, b0))
    metrics = {name: registry.create("importance", name) for name in registry.components("importance")}
    moved = {name: metric for name, metric in metrics.items() if metric.of_update}
    assert {_read(metric, part).module for metric in moved.values()} == {0.0}
    with torch.no_grad():
        a += 0.1 * torch.randn(a.shape, generator=random)
        b += 0.1 * torch.randn(b.shape, generator=random)
    values = 2 * torch.linalg.svdvals(b.detach() @ a.detach() - b0 @ a0)
    shares = values.square() / values.square().sum()
    size = float(values.square().mean().mul(len(values) / (D_IN * D_OUT)).sqrt())
    found = {name: _read(metric, part) for name, metric in moved.items()}
    assert found["magnitude"].module == pytest.approx(size, rel=1e-5)
    assert found["spectral"].module == pytest.approx(size * float(torch.special.entr(shares).sum().exp()), rel=1e-5)
    assert {len(scores.directions) for scores in found.values()} == {RANK}


def _read(metric: Importance, part: Part) -> Scores:
    meter = metric.meter({"m": part})
    meter.observe()
    return meter.scores()["m"]
