"""Draws, cuts and folds: pinned, stratified, with no group parted."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from peftlab.tasks.data._stratification import allocate, draw_order, grouped_cut, grouped_folds, stratified_cut, stratified_folds

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(lambda values: np.array(values, dtype=np.int64))


def test_the_order_of_a_draw_is_pinned():
    """Splits of published results must not change with a NumPy release: raw PCG64 words of SeedSequence([0, crc32("test")])."""
    words = np.random.PCG64(np.random.SeedSequence([0, 0xD87F7E0C])).random_raw(6)
    assert draw_order(6, seed=0, purpose="test").tolist() == sorted(range(6), key=lambda i: words[i])
    assert draw_order(6, seed=0, purpose="test").tolist() == [5, 1, 0, 4, 2, 3]


def test_draws_for_different_seeds_and_purposes_differ():
    draws = [draw_order(50, seed=s, purpose=p).tolist() for s in (0, 1) for p in ("test", "validation")]
    assert all(sorted(draw) == list(range(50)) for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 4


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.floats(0, 1))
def test_allocation_is_exact_bounded_and_proportional(counts, share):
    counts = np.array(counts)
    total = round(share * counts.sum())
    given_ = allocate(counts, total)
    assert given_.sum() == total
    assert (given_ >= 0).all() and (given_ <= counts).all()
    several = counts >= 2
    if several.sum() <= total and (np.where(several, counts - 1, 0)).sum() >= total:
        assert (given_[several] >= 1).all() and (given_[several] <= counts[several] - 1).all()


def test_allocation_of_equal_classes_is_equal():
    assert allocate(np.full(10, 1000), 1000).tolist() == [100] * 10
    assert allocate(np.array([123, 121]), 24).tolist() == [12, 12]
    assert allocate(np.array([98, 2]), 10).tolist() == [9, 1]  # largest remainder alone would give 10 and 0


@given(LABELS, st.floats(0, 1), st.integers(0, 5))
def test_a_cut_is_a_partition_with_class_shares_kept(labels, share, seed):
    indices = np.flatnonzero(np.arange(len(labels)) % 3 != 1)
    size = round(share * len(indices))
    rest, chosen = stratified_cut(labels, indices, size, seed=seed, purpose="x")
    assert len(chosen) == size
    assert np.array_equal(np.sort(np.concatenate([rest, chosen])), indices)
    counts = np.bincount(labels[indices], minlength=7)
    expected = allocate(np.bincount(labels[indices]), size) if len(indices) else np.zeros(1, dtype=int)
    assert np.array_equal(np.bincount(labels[chosen], minlength=7)[: len(expected)], expected)
    assert (np.bincount(labels[chosen], minlength=7) <= counts).all()


def test_a_cut_does_not_favour_positions():
    """Every example is in validation about equally often: 400 seeds, share 0.2, so 80 +- 5 sd (sd = 8)."""
    labels = np.repeat([0, 1], [30, 20])
    hits = np.zeros(50)
    for seed in range(400):
        hits[stratified_cut(labels, np.arange(50), 10, seed=seed, purpose="v")[1]] += 1
    assert hits.min() > 40 and hits.max() < 120


@given(LABELS, st.integers(2, 6))
def test_folds_are_as_even_as_scikit_learns(labels, folds):
    fold = stratified_folds(labels, np.arange(len(labels)), folds)
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for label in np.unique(labels):
        each = np.bincount(fold[labels == label], minlength=folds)
        assert each.max() - each.min() <= 1


def test_folds_have_the_sizes_of_scikit_learns():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    fold = stratified_folds(labels, np.arange(100), 5)
    for _, test in StratifiedKFold(5).split(labels, labels):
        theirs = np.bincount(labels[test])
        assert all(np.array_equal(np.bincount(labels[fold == k]), theirs) for k in range(5))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=80), st.floats(0.05, 0.9), st.integers(0, 3))
def test_groups_are_never_parted(numbers: list[int], share: float, seed: int) -> None:
    groups, indices = np.array(numbers, dtype=np.int64), np.arange(len(numbers))
    size = max(1, round(share * len(indices)))
    rest, chosen = grouped_cut(groups, indices, size, seed=seed, purpose="test")
    assert np.array_equal(np.sort(np.concatenate([rest, chosen])), indices)
    assert not set(groups[rest]) & set(groups[chosen])
    smallest = np.unique(groups, return_counts=True)[1].min()
    left = np.unique(groups[rest], return_counts=True)[1]
    assert len(chosen) <= max(size, smallest) and not (left <= size - len(chosen)).any()  # nothing more would have fitted
    fold = grouped_folds(groups, indices, 2)
    assert all(len(set(fold[groups == group])) == 1 for group in set(numbers))
