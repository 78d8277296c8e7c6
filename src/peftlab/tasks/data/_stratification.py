"""Draws and cuts of examples: stratified by class or whole groups at a time, and the same on every machine.

Every draw is an ordering by raw 64-bit words of PCG64, whose stream NumPy guarantees across versions and platforms (the
stream of ``Generator.permutation`` it does not).
"""

from __future__ import annotations

import zlib

import numpy as np


def draw_order(count: int, *, seed: int, purpose: str) -> np.ndarray:
    """A random permutation of 0 .. count-1, int64; draws for different purposes are independent."""
    words = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])).random_raw(count)
    return np.argsort(np.asarray(words, dtype=np.uint64), kind="stable").astype(np.int64)


def allocate(counts: np.ndarray, total: int) -> np.ndarray:
    """How many of ``total`` draws each class gets: proportional, largest remainder.

    Every class that has at least two examples gets at least one and keeps at least one, as far as ``total`` allows.

    Args:
        counts: examples of each class, int [K].
        total: 0 .. sum(counts).

    Returns:
        int64 [K], sum = total, 0 <= result <= counts.
    """
    counts = np.asarray(counts, dtype=np.int64)
    quota = counts * (total / max(int(counts.sum()), 1))
    given = np.floor(quota).astype(np.int64)
    floor = (counts >= 2).astype(np.int64)
    if floor.sum() > total:
        floor[:] = 0
    ceiling = np.where(counts >= 2, counts - 1, counts * (quota >= 1))
    if ceiling.sum() < total:
        ceiling = counts
    given = np.clip(given, floor, ceiling)
    while (missing := total - int(given.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = given < ceiling if missing > 0 else given > floor
        gap = np.where(free, (quota - given) * step, -np.inf)
        for label in np.argsort(-gap, kind="stable")[: min(abs(missing), int(free.sum()))]:
            given[label] += step
    return given


def stratified_cut(
    labels: np.ndarray, indices: np.ndarray, size: int, *, seed: int, purpose: str
) -> tuple[np.ndarray, np.ndarray]:
    """``indices`` cut into (rest, ``size`` of them), each sorted, class shares kept as well as whole numbers allow.

    Args:
        labels: class of every example, int64 [N].
        indices: the examples to cut, int64 [M].
        size: 0 .. M.
    """
    own = labels[indices]
    counts = np.bincount(own, minlength=1)
    quota = allocate(counts, size)
    order = draw_order(len(indices), seed=seed, purpose=purpose)
    by_class = order[np.argsort(own[order], kind="stable")]  # classes in a row, random within each
    rank = np.arange(len(indices)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(indices), dtype=bool)
    chosen[by_class] = rank < quota[own[by_class]]
    return np.sort(indices[~chosen]), np.sort(indices[chosen])


def stratified_folds(labels: np.ndarray, indices: np.ndarray, folds: int) -> np.ndarray:
    """Fold of every index: class by class dealt round and round, so folds and their classes differ by at most one.

    Args:
        labels: class of every example, int64 [N].
        indices: the examples to deal, int64 [M].

    Returns:
        int64 [M], 0 .. folds-1; the same for every seed.
    """
    own = labels[indices]
    order = draw_order(len(indices), seed=0, purpose="folds")
    by_class = order[np.argsort(own[order], kind="stable")]
    fold = np.empty(len(indices), dtype=np.int64)
    fold[by_class] = np.arange(len(indices)) % folds
    return fold


def grouped_cut(groups: np.ndarray, indices: np.ndarray, size: int, *, seed: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """``indices`` cut into (rest, about ``size`` of them), each sorted, with no group on both sides.

    Groups are taken in random order where they still fit: never more than ``size`` examples, unless already the smallest group
    has more.

    Args:
        groups: group of every example, int64 [N].
        indices: the examples to cut, int64 [M].
        size: 0 .. M.
    """
    _, own, counts = np.unique(groups[indices], return_inverse=True, return_counts=True)
    taken, left = np.zeros(len(counts), dtype=bool), size
    for group in draw_order(len(counts), seed=seed, purpose=purpose):
        if counts[group] <= left:
            taken[group], left = True, left - counts[group]
    if size and not taken.any():
        taken[counts.argmin()] = True
    chosen = taken[own]
    return np.sort(indices[~chosen]), np.sort(indices[chosen])


def grouped_folds(groups: np.ndarray, indices: np.ndarray, folds: int) -> np.ndarray:
    """Fold of every index: groups in random order, each into the fold that has the fewest examples so far.

    Args:
        groups: group of every example, int64 [N].
        indices: the examples to deal, int64 [M].

    Returns:
        int64 [M], 0 .. folds-1; the same for every seed.
    """
    _, own, counts = np.unique(groups[indices], return_inverse=True, return_counts=True)
    fold, filled = np.empty(len(counts), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for group in draw_order(len(counts), seed=0, purpose="folds"):
        fold[group] = filled.argmin()
        filled[fold[group]] += counts[group]
    return fold[own]
