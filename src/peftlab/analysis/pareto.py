"""Pareto fronts of quality against one cost, and how sure it is that an arm is on one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def on_front(quality: ArrayLike, cost: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates: none has quality >= and cost <= with one of the two strict.

    Args:
        quality: [..., arms], higher is better.
        cost: [..., arms], lower is better. A point with a missing value is never on the front and dominates nothing.
    """
    q, c = np.broadcast_arrays(np.asarray(quality, dtype=np.float64), np.asarray(cost, dtype=np.float64))
    known = np.isfinite(q) & np.isfinite(c)
    q, c = np.where(known, q, -np.inf), np.where(known, c, np.inf)
    order = np.lexsort((-q, c), axis=-1)
    sorted_q, sorted_c = np.take_along_axis(q, order, -1), np.take_along_axis(c, order, -1)
    best = np.maximum.accumulate(sorted_q, axis=-1)
    first = np.ones(q.shape, dtype=bool)  # first of a group of equal cost
    first[..., 1:] = sorted_c[..., 1:] != sorted_c[..., :-1]
    start = np.maximum.accumulate(np.where(first, np.arange(q.shape[-1]), 0), axis=-1)
    cheaper = np.concatenate([np.full((*q.shape[:-1], 1), -np.inf), best], axis=-1)
    best_cheaper = np.take_along_axis(cheaper, start, -1)  # best quality at strictly lower cost
    kept = (sorted_q >= best) & (sorted_q > best_cheaper)
    result = np.empty(q.shape, dtype=bool)
    np.put_along_axis(result, order, kept, axis=-1)
    return result & known


def front_probability(
    quality: ArrayLike, cost: ArrayLike, generator: np.random.Generator, *, resamples: int = 2000
) -> NDArray[np.float64]:
    """Share of bootstrap resamples of the seeds in which each arm's means lie on the front.

    The same seeds are drawn for all arms, so that pairing is kept. With few seeds a bootstrap understates uncertainty: read
    1.0 from five seeds as "in every resample", not as certainty.

    Args:
        quality: [arms, seeds], higher is better; missing runs are NaN.
        cost: [arms, seeds], lower is better.
        generator: source of the resamples.
    """
    q, c = np.asarray(quality, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    seeds = q.shape[1]
    if seeds == 0:
        return np.full(q.shape[0], np.nan)
    draws = generator.integers(0, seeds, size=(resamples, seeds))
    weights = np.zeros((resamples, seeds))
    np.add.at(weights, (np.arange(resamples)[:, None], draws), 1.0)
    return on_front(_weighted_means(q, weights), _weighted_means(c, weights)).mean(axis=0)


def _weighted_means(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[resamples, arms] means over the drawn seeds that have a value; NaN where none has.

    An arm whose values do not vary (a parameter count) keeps its exact value: rounding must not order equal costs.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    counts = weights @ known.T
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ filled.T) / counts
    low = np.where(known, values, np.inf).min(axis=1)
    constant = low == np.where(known, values, -np.inf).max(axis=1)
    return np.where(constant & (counts > 0), low, means)
