from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peftlab.nn.low_rank import LowRank

D_IN, D_OUT = 10, 7


def low_rank(rank: int, seed: int = 0, *, of_rank: int | None = None) -> LowRank:
    """An update of a rank; its product of rank ``of_rank``."""
    torch.manual_seed(seed)
    found = LowRank(nn.Linear(D_IN, rank, bias=False), nn.Linear(rank, D_OUT, bias=False), 2.0)
    if of_rank is not None:
        with torch.no_grad():
            found.B.copy_(torch.randn(D_OUT, of_rank) @ torch.randn(of_rank, rank))
    return found


def update(x: LowRank) -> torch.Tensor:
    return (x.B @ x.A).detach()


def trained(x: LowRank, steps: int = 5) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW([x.A, x.B], lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        inputs = torch.randn(16, D_IN, generator=torch.Generator().manual_seed(step))
        (x.up(x.down(inputs)) - inputs[:, :D_OUT]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def random() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@settings(max_examples=40, deadline=None)
@given(rank=st.integers(1, 6), new=st.integers(1, 7), seed=st.integers(0, 99))
def test_growing_keeps_the_function_and_shrinking_the_best_approximation(rank: int, new: int, seed: int) -> None:
    x = low_rank(rank, seed)
    before = update(x)
    lost = x.resize(new, random())
    u, s, v = torch.linalg.svd(before)
    best = u[:, :new] * s[:new] @ v[: len(s)][:new]
    torch.testing.assert_close(update(x), before if new >= rank else best, atol=1e-5, rtol=1e-5)
    assert lost == pytest.approx(float(s[new:].norm() / s.norm()), abs=1e-5)
    assert (x.rank, x.down.out_features, x.up.in_features) == (new, new, new)
    inputs = torch.randn(3, D_IN)
    torch.testing.assert_close(x.up(x.down(inputs)), inputs @ update(x).T, atol=1e-5, rtol=1e-4)


def test_shrinking_to_the_rank_of_the_product_loses_nothing() -> None:
    x = low_rank(6, of_rank=2)
    before = update(x)
    assert x.resize(2, random()) < 1e-6
    torch.testing.assert_close(update(x), before, atol=1e-5, rtol=1e-5)


def test_rows_of_a_shrunk_a_are_orthogonal_and_as_long_as_before() -> None:
    x = low_rank(5)
    length = x.A.norm(dim=1).mean()
    x.resize(3, random())
    torch.testing.assert_close(x.A @ x.A.T, length.square() * torch.eye(3), atol=1e-5, rtol=1e-5)


def test_first_moments_are_those_of_the_gradients_in_the_new_directions() -> None:
    """With moments equal to a gradient, the moved moments must be the gradient that autograd finds after the move."""
    x = low_rank(5, of_rank=3)
    inputs, targets = torch.randn(16, D_IN), torch.randn(16, D_OUT)

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.autograd.grad((x.up(x.down(inputs)) - targets).square().mean(), [x.A, x.B])

    optimizer = trained(x, steps=1)
    x.B.data = torch.randn(D_OUT, 3) @ torch.randn(3, 5)
    for parameter, gradient in zip((x.A, x.B), gradients(), strict=True):
        optimizer.state[parameter]["exp_avg"] = gradient.clone()
    x.resize(3, random(), optimizer)  # nothing is lost, so the loss is the same function of dW
    for parameter, gradient in zip((x.A, x.B), gradients(), strict=True):
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], gradient, atol=1e-5, rtol=1e-3)


def test_second_moments_move_by_the_squared_map_and_stay_positive() -> None:
    x = low_rank(5)
    optimizer = trained(x)
    a, b = x.A.detach().clone(), x.B.detach().clone()
    before = {p: optimizer.state[p]["exp_avg_sq"].clone() for p in (x.A, x.B)}
    x.resize(2, random(), optimizer)
    to_a = torch.linalg.lstsq(b, x.B.detach()).solution.T  # new_B = B T; the gradient of A goes by T^T
    torch.testing.assert_close(optimizer.state[x.A]["exp_avg_sq"], to_a.square() @ before[x.A], atol=1e-6, rtol=1e-3)
    to_b = torch.linalg.lstsq(a.T, x.A.detach().T).solution  # new_A = M A; the gradient of B goes by M^T
    torch.testing.assert_close(optimizer.state[x.B]["exp_avg_sq"], before[x.B] @ to_b.square(), atol=1e-6, rtol=1e-3)
    assert (optimizer.state[x.A]["exp_avg_sq"] >= 0).all()


def test_fresh_directions_start_without_effect_and_step_no_longer_than_the_old_ones() -> None:
    x = low_rank(2)
    optimizer = trained(x, steps=50)
    x.resize(5, random(), optimizer)
    assert not x.B[:, 2:].any()
    assert x.A[2:].abs().max() <= 1 / D_IN**0.5
    assert not optimizer.state[x.B]["exp_avg"][:, 2:].any()
    start = x.B.detach().clone()
    inputs = torch.randn(16, D_IN)
    (x.up(x.down(inputs)) - inputs[:, :D_OUT]).square().mean().backward()
    optimizer.step()
    moved = (x.B.detach() - start).abs()
    assert 0 < moved[:, 2:].max() <= 2 * optimizer.param_groups[0]["lr"]


def test_the_parameters_stay_the_same_objects_and_go_on_training() -> None:
    x = low_rank(4)
    held = (x.A, x.B)
    optimizer = trained(x)
    for rank in (2, 6, 1, 3):
        x.resize(rank, random(), optimizer)
        assert held == (x.A, x.B)
        assert x.A.grad is None
        inputs = torch.randn(8, D_IN)
        x.up(x.down(inputs)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert {p.shape for p in held} == {s["exp_avg"].shape for s in optimizer.state.values()}


def test_a_module_without_effect_shrinks_without_error() -> None:
    x = low_rank(4)
    with torch.no_grad():
        x.B.zero_()
    assert x.resize(2, random()) == 0.0
    assert not update(x).any()
