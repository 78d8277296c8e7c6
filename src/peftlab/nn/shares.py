"""Shares of a whole, as they are written in a study."""

from __future__ import annotations

from fractions import Fraction


def share_of(share: float, whole: int) -> Fraction:
    """``share * whole`` of the decimal number that a study states, exactly.

    0.7 of 90 steps is 63. The product of the binary numbers is 62.99..., so that rounding it down would lose a step.

    Args:
        share: finite; read as the shortest decimal number that it stands for.
    """
    return Fraction(str(share)) * whole
