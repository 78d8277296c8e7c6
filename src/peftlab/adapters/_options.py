"""Checks of options that several adapters have."""

from __future__ import annotations

from peftlab.errors import OptionError


def check_low_rank(rank: int, alpha: float | None, alpha_over_rank: float, dropout: float) -> None:
    """The options of a low-rank update.

    Raises:
        OptionError: a rank below 1, a dropout outside [0, 1), an alpha that is not positive.
    """
    if rank < 1:
        raise OptionError(f"rank must be at least 1, got {rank}", where="rank", remedy="use a positive rank")
    if not 0 <= dropout < 1:
        raise OptionError(f"dropout must be in [0, 1), got {dropout}", where="dropout", remedy="e.g. 0.05")
    if (alpha is not None and alpha <= 0) or alpha_over_rank <= 0:
        raise OptionError("alpha must be positive", where="alpha", remedy="e.g. 2 * rank")
