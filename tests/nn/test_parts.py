"""A module as metrics of importance see it: its directions, and those that are switched on."""

from __future__ import annotations

import pytest
import torch

from peftlab.nn.parts import Part

D_IN, D_OUT, RANK = 7, 5, 4


def test_a_direction_is_on_where_no_gate_is_zero() -> None:
    a, b = torch.randn(RANK, D_IN), torch.randn(D_OUT, RANK)
    gates = [torch.tensor([[0.5], [0.0], [-1.0], [2.0]]), torch.tensor([[0.0], [1.0], [1.0], [3.0]])]
    part = Part(tensors=((b, 1), (gates[0], 0), (a, 0)), d_in=D_IN, d_out=D_OUT)
    assert (part.directions, part.switched_on) == (RANK, 3)
    both = Part(tensors=((b, 1), (gates[0], 0), (gates[1], 0), (a, 0)), d_in=D_IN, d_out=D_OUT)
    assert both.switched_on == 2
    assert Part(tensors=((a, 0), (b, 1)), d_in=D_IN, d_out=D_OUT).switched_on == RANK, "without gates all are"
    down, up = both.factors()
    torch.testing.assert_close(up @ down, b @ torch.diag((gates[0] * gates[1]).flatten()) @ a)


@pytest.mark.parametrize("now", [RANK - 1, RANK, RANK + 2], ids=str)
def test_what_was_taken_out_of_the_weight_is_no_update(now: int) -> None:
    """Whatever became of the rank; and before the first step nothing is left, not even rounding errors."""
    random = torch.Generator().manual_seed(0)
    a0, b0 = torch.randn(RANK, D_IN, generator=random), torch.randn(D_OUT, RANK, generator=random)
    a, b = torch.randn(now, D_IN, generator=random), torch.randn(D_OUT, now, generator=random)
    moved = Part(tensors=((a, 0), (b, 1)), d_in=D_IN, d_out=D_OUT, taken_out=(a0, b0))
    down, up = moved.update_factors()
    torch.testing.assert_close(up @ down, b @ a - b0 @ a0)
    assert moved.directions == moved.switched_on == now
    start = Part(tensors=((a0, 0), (b0, 1)), d_in=D_IN, d_out=D_OUT, taken_out=(a0.clone(), b0.clone()))
    down, up = start.update_factors()
    assert not (up @ down).any()


def test_a_weight_of_the_base_has_no_directions() -> None:
    part = Part(tensors=((torch.randn(D_OUT, D_IN), None),), d_in=D_IN, d_out=D_OUT)
    assert (part.directions, part.switched_on) == (0, 0)
    column = Part(tensors=((torch.randn(D_OUT, 1), None),), d_in=1, d_out=D_OUT)
    assert column.switched_on == 0


def test_an_update_without_a_scale_is_taken_as_it_is() -> None:
    tensors = ((torch.zeros(RANK, 2), 0), (torch.zeros(8, RANK), 1))
    assert float(Part(tensors=tensors, d_in=2, d_out=8).per_weight(torch.tensor(4.0))) == 1.0
    assert float(Part(tensors=tensors, d_in=2, d_out=8, scale=3.0).per_weight(torch.tensor(4.0))) == 3.0
