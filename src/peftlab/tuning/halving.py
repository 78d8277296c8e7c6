"""Successive halving (Jamieson & Talwalkar 2016): all values with few steps, the best of them with more, until one rung has all.

Every rung trains afresh: a model trained for a third of the steps has seen its learning rate decay to zero, and to go on from
there would be another schedule than that of the evaluation runs. So a trial of a short rung is what the study would be with that
many steps: warm-up and decay are shares of them, and ``evaluate_every`` is as long as ever. What halving can lose is a value that
is slow at first: a small learning rate may need more steps than the first rung has.
"""

from __future__ import annotations

from collections.abc import Sequence

from peftlab.planning.search import Space, Values, grid
from peftlab.study.schema import Tune


def next_rung(
    tune: Tune, space: Space, before: Sequence[Values], scores: Sequence[float | None], higher_is_better: bool
) -> list[Values]:
    """The values of the rung that follows the trials so far.

    Args:
        tune: says how many go on.
        space: what is searched.
        before: the values of every trial so far.
        scores: their scores, the worst there is for a trial without a value; ties go to the earlier one.
        higher_is_better: of the score.
    """
    if not before:
        return grid(space)
    first, end, _ = tune.rung_of(len(before) - 1)
    following, after, _ = tune.rung_of(end)
    sign = -1.0 if higher_is_better else 1.0
    ranked = sorted(range(first, end), key=lambda number: (sign * (scores[number] or 0.0), number))
    kept = sorted(ranked[: after - following])
    return [before[number] for number in kept]
