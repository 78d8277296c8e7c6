"""How fast a validation curve rises. Pure functions of [(step, value)], in the order of the steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHARE = 0.95  #: of the way from chance to the best that the reference reached
Curve = Sequence[tuple[float, float]]


def area(curve: Curve) -> float | None:
    """Mean height of the curve over steps, by trapezoids: of two curves over the same steps the higher one learnt faster.

    None for fewer than two points.
    """
    if len(curve) < 2 or curve[-1][0] == curve[0][0]:
        return None
    steps, values = np.array(curve, dtype=float).T
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def area_between(curve: Curve, base: Curve) -> float | None:
    """How much higher a curve runs than another, over the steps at which both were evaluated: early stopping or divergence may
    have ended one of them sooner, and what the other did afterwards says nothing about the two.

    None for fewer than two such steps.
    """
    both = {step for step, _ in curve} & {step for step, _ in base}
    mine, other = (area([point for point in points if point[0] in both]) for points in (curve, base))
    return mine - other if mine is not None and other is not None else None


def target(best: float, chance: float | None, *, higher_is_better: bool) -> float:
    """What counts as arrived: chance + 0.95 (best - chance); where lower is better, best / 0.95."""
    if not higher_is_better:
        return best / SHARE
    floor = chance or 0.0
    return floor + SHARE * (best - floor)


def steps_to(curve: Curve, goal: float, *, higher_is_better: bool) -> float | None:
    """The first evaluated step at or beyond the goal; None where it is never reached."""
    return next((step for step, value in curve if (value >= goal if higher_is_better else value <= goal)), None)
