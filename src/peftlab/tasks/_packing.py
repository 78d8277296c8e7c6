"""Several short texts in one row of a batch, each alone with itself: a layout that changes no loss and no gradient.

R rows, T tokens in a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which texts share a row: from the longest to the shortest, each goes into the first row that still has room.

    At most 11/9 of the fewest possible rows, and 6/9 of one (Dosa 2007).

    Args:
        lengths: tokens of each text; none above ``capacity``.
        capacity: tokens that fit into a row.

    Returns:
        The numbers of the texts in each row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, free in enumerate(room) if free >= lengths[number]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(number)
        room[row] -= lengths[number]
    return rows


def block_causal_mask(texts: torch.Tensor) -> torch.Tensor:
    """Where a token (third axis) may look (fourth), bool [R, 1, T, T]: at itself and at what stands before it in its own text.

    Args:
        texts: which text each token belongs to, int64 [R, T]; 0 is padding, which sees only itself and padding.
    """
    same = texts[:, :, None] == texts[:, None, :]
    return same.tril()[:, None]
