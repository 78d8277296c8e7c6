"""The bounds of nn/weight_error.py against plain singular value decompositions and against updates that try to beat them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.nn.groups import BITS, quantize_groups
from peftlab.nn.weight_error import RANKS, WeightError, bound_of

SIZE = 8


def matrix(d_out: int, d_in: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(seed))


def measured(d_out: int, d_in: int, kind: str = "int4", seed: int = 0) -> tuple[torch.Tensor, WeightError]:
    weight = matrix(d_out, d_in, seed)
    restored = quantize_groups(weight, SIZE, kind).dequantize()  # pyright: ignore
    return weight - restored, WeightError.of(weight, restored, SIZE)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("shape", [(12, 40), (40, 16)])
def test_norms_and_shares(kind: str, shape: tuple[int, int]) -> None:
    error, found = measured(*shape, kind)
    assert found.error == pytest.approx(float(error.norm()), rel=1e-5)
    assert found.relative == pytest.approx(float(error.norm() / matrix(*shape).norm()), rel=1e-5)
    values = torch.linalg.svdvals(error.double()).square()
    assert found.unrestricted == pytest.approx((values.cumsum(0) / values.sum()).tolist(), rel=1e-4)
    means = error.double().unflatten(1, (-1, SIZE)).mean(-1)
    repeated = torch.linalg.svdvals(means.repeat_interleave(SIZE, dim=1)).square()[: min(means.shape)]
    assert found.pooled == pytest.approx((repeated.cumsum(0) / values.sum()).tolist(), rel=1e-4)
    assert all(p <= u + 1e-6 for p, u in zip(found.pooled, found.unrestricted, strict=False))


@given(rank=st.integers(1, 4), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_no_update_cancels_more_than_the_bound(rank: int, seed: int) -> None:
    error, found = measured(12, 40)
    free = matrix(12, rank, seed) @ matrix(rank, 40, seed + 1)
    constant = (matrix(12, rank, seed) @ matrix(rank, 5, seed + 1)).repeat_interleave(SIZE, dim=1)
    for update, bounds in ((free, found.unrestricted), (constant, found.pooled)):
        best = (update * error).sum() / update.square().sum() * update  # the best length of this direction
        cancelled = 1 - (error - best).square().sum() / error.square().sum()
        assert float(cancelled) <= bounds[rank - 1] + 1e-5


def test_the_bounds_are_reached() -> None:
    error, found = measured(12, 40)
    left, values, right = torch.linalg.svd(error)
    best = left[:, :3] @ torch.diag(values[:3]) @ right[:3]
    assert 1 - float((error - best).square().sum() / error.square().sum()) == pytest.approx(found.unrestricted[2], rel=1e-3)
    left, values, right = torch.linalg.svd(error.unflatten(1, (-1, SIZE)).mean(-1), full_matrices=False)
    best = (left[:, :3] @ torch.diag(values[:3]) @ right[:3]).repeat_interleave(SIZE, dim=1)
    assert 1 - float((error - best).square().sum() / error.square().sum()) == pytest.approx(found.pooled[2], rel=1e-3)


def test_a_weight_that_is_hit_exactly_has_no_error() -> None:
    found = WeightError.of(torch.zeros(4, 16), torch.zeros(4, 16), SIZE)
    assert (found.error, found.relative, found.pooled) == (0.0, 0.0, ())


def test_no_share_is_above_one_by_rounding() -> None:
    """Errors of rank 1, whose first share is all there is."""
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        weight = torch.outer(torch.randn(7, generator=random), torch.randn(12, generator=random))
        found = WeightError.of(weight, torch.zeros(7, 12), 4)
        assert max(found.unrestricted) <= 1.0 and found.unrestricted[0] == pytest.approx(1.0)
        assert max(found.pooled) <= 1.0


def test_of_a_rank_above_those_that_are_kept_no_bound_is_known() -> None:
    """That of rank 64 would be too low: of 96 singular values, 80 hold more."""
    error, found = measured(96, 96 * SIZE)
    values = torch.linalg.svdvals(error.double()).square()
    assert len(found.unrestricted) == RANKS and bound_of(found.unrestricted, 80) is None
    assert bound_of(found.unrestricted, RANKS) == pytest.approx(float(values[:RANKS].sum() / values.sum()), rel=1e-4)
    assert float(values[:80].sum() / values.sum()) > 1.05 * found.unrestricted[-1]


def test_where_all_ranks_are_kept_a_higher_one_reaches_no_more_than_the_last() -> None:
    _, found = measured(12, 40)
    assert len(found.pooled) == 5 and bound_of(found.pooled, 9) == bound_of(found.pooled, 5) == found.pooled[-1]
    assert bound_of(found.pooled, 1) == found.pooled[0]
    assert bound_of((), 3) is None and bound_of(found.pooled, 0) is None
