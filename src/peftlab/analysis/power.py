"""What n paired seeds can show. Exact power of the t test through the noncentral t distribution."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import nctdtr, stdtrit


def power(effect: float, n: int, *, alpha: float = 0.05, two_sided: bool = True) -> float:
    """Power of the paired t test for a true mean difference of ``effect`` paired standard deviations.

    Two-sided: P(|T| > t(n-1, 1-alpha/2)), T ~ noncentral t with n - 1 degrees of freedom and noncentrality effect * sqrt(n).
    """
    if n < 2:
        return 0.0
    critical = float(stdtrit(n - 1, 1 - (alpha / 2 if two_sided else alpha)))
    shift = effect * math.sqrt(n)
    upper = 1 - _below(critical, n - 1, shift)
    return upper + _below(-critical, n - 1, shift) if two_sided else upper


def _below(value: float, freedom: int, shift: float) -> float:
    """P(T <= value) of the noncentral t; scipy gives NaN where it underflows."""
    found = float(nctdtr(freedom, shift, value))
    return (0.0 if shift > value else 1.0) if math.isnan(found) else found


def detectable_effect(n: int, *, target: float = 0.8, alpha: float = 0.05, two_sided: bool = True) -> float:
    """Smallest difference found with probability ``target``, in paired SDs: 1.68 / 1.00 / 0.78 for n = 5 / 10 / 15."""
    if n < 2:
        return math.inf
    high = 0.1
    while power(high, n, alpha=alpha, two_sided=two_sided) < target:
        high *= 2
    found = brentq(lambda d: power(d, n, alpha=alpha, two_sided=two_sided) - target, 0.0, high, xtol=1e-10)
    return float(found)  # type: ignore[arg-type]


def seeds_needed(
    effect: float, *, target: float = 0.8, alpha: float = 0.05, two_sided: bool = True, most: int = 1000
) -> int | None:
    """Smallest number of paired seeds that detects ``effect`` paired standard deviations; None if more than ``most``."""
    if not effect > 0:
        return None
    low, high = 2, most
    if power(effect, high, alpha=alpha, two_sided=two_sided) < target:
        return None
    while low < high:
        middle = (low + high) // 2
        if power(effect, middle, alpha=alpha, two_sided=two_sided) >= target:
            high = middle
        else:
            low = middle + 1
    return low
