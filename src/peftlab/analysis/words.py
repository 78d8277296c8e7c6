"""Numbers as a careful person writes them. One place, so that the report, the tables and findings.json agree."""

from __future__ import annotations

import math
import re

from peftlab.study.schema import Margin

_SHARES = set(
    "accuracy balanced_accuracy token_accuracy calibration_error ece macro_f1 "
    "f1 exact_match em has_answer_f1 has_answer_exact_match no_answer_exact_match".split()
)

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_WITHIN = re.compile(r"(?<=\d) (?=%)|(?<=\b[pnrτ]) (?=[=<>≤≥\d−])|(?<=\b[pnrτ] [=<>≤≥]) (?=[\d−])")

_LARGE = 9999.5  #: from here on four digits are a whole number
_LEVELS = (0.1, 0.05, 0.025, 0.02, 0.01)  #: of tests, as studies declare them; below, a third digit is read by nobody


def is_share(metric: str) -> bool:
    """Metrics in [0, 1] that are shown in percent."""
    return metric.lower() in _SHARES or metric.lower().startswith(("top", "accuracy"))


def is_exponential(metric: str) -> bool:
    """Metrics whose logarithm is a mean over tokens, in nats: gains are counted in it."""
    return metric == "perplexity"


def unit(metric: str) -> str:
    return "%" if is_share(metric) else ""


def _short(text: str) -> str:
    """``1e-9``, as a browser writes it, for ``1e-09``."""
    return text.replace("e-0", "e-")


def show(value: float | None, metric: str = "", digits: int = 2, missing: str = "–") -> str:
    """A level: ``97.31 %``, or four significant digits."""
    if value is None or not math.isfinite(value):
        return missing
    plain = f"{value:,.0f}" if abs(value) >= _LARGE else _short(f"{value:.4g}")
    return (f"{100 * value:.{digits}f} %" if is_share(metric) else plain).replace("-", "−")


def show_difference(value: float | None, metric: str = "", digits: int = 2, missing: str = "–") -> str:
    """A difference with its sign: ``+0.42`` (percentage points), or three significant digits."""
    if value is None or not math.isfinite(value):
        return missing
    plain = f"{value:+,.0f}" if abs(value) >= 999.5 else _short(f"{value:+.3g}")
    text = f"{100 * value:+.{digits}f}" if is_share(metric) else plain
    return text.replace("-", "−") if text.strip("+-0.") else text[1:]  # what rounds to nothing has no sign


def show_interval(interval: tuple[float, float] | None, metric: str = "", difference: bool = False) -> str:
    """``[96.10, 98.52]``; empty where there is none."""
    if interval is None:
        return ""
    if difference:
        return f"[{show_difference(interval[0], metric)}, {show_difference(interval[1], metric)}]"
    large = max(map(abs, interval)) >= _LARGE  # four digits of both ends, and no powers of ten: 12,353 beside 12,397
    low, high = (f"{100 * v:.2f}" if is_share(metric) else f"{v:,.0f}" if large else _short(f"{v:.4g}") for v in interval)
    return f"[{low}, {high}]".replace("-", "−")


def show_p(p: float | None, missing: str = "–") -> str:
    """``0.032``; below a thousandth ``< 0.001``. As 0.04996 where fewer digits would put it onto a level that it is not at."""
    if p is None or not math.isfinite(p):
        return missing
    if p < 0.001:
        return "< 0.001"
    written = (f"{p:.{digits}f}" for digits in range(3, 10))
    return next((text for text in written if float(text) == p or float(text) not in _LEVELS), f"{p:.3f}")


def equation_p(p: float | None) -> str:
    """``p = 0.032`` or ``p < 0.001``."""
    text = show_p(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def show_correlation(value: float | None, missing: str = "–") -> str:
    """Pearson's r with two decimals: ``−0.31``."""
    return missing if value is None or not math.isfinite(value) else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def show_count(value: float | None, missing: str = "–") -> str:
    """``1,234,567``."""
    return missing if value is None or not math.isfinite(value) else f"{value:,.0f}"


def significant(value: float | None, digits: int = 3, missing: str = "–") -> str:
    """As many digits as are meant, zeros at the end too: ``0.10`` beside ``0.23``; ``120``, not ``1.2e+02``; ``4.7 × 10⁻⁷``."""
    if value is None or not math.isfinite(value):
        return missing
    if value == 0:
        return "0"
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    if int(power) < -5:
        return f"{mantissa} × 10{str(int(power)).translate(_RAISED)}".replace("-", "−")
    return f"{float(f'{value:.{digits}g}'):,.{max(0, digits - 1 - int(power))}f}".replace("-", "−")


def show_percent(value: float | None, missing: str = "–") -> str:
    """A percentage with three significant digits, without the sign: ``0.895``, ``1,190``."""
    if value is None or not math.isfinite(value):
        return missing
    return significant(value) if abs(value) < 1000 else f"{value:,.0f}"


def show_share(value: float | None, missing: str = "–") -> str:
    """A share as ``61.2 %``."""
    if value is None or not math.isfinite(value):
        return missing
    return f"{100 * value:.1f} %".replace("-", "−")


def show_share_interval(interval: tuple[float, float] | None) -> str:
    """``[55.0, 67.4]``, in percent; empty where there is none."""
    return "" if interval is None else "[{}, {}]".format(*(show_share(v).removesuffix(" %") for v in interval))


def show_margin(margin: Margin, metric: str) -> str:
    """``3 %`` (relative) or ``1.00 percentage points``."""
    if margin.relative is not None:
        return f"{100 * margin.relative:g} %"
    points = show(margin.absolute, metric).removesuffix(" %")
    return f"{points} percentage points" if is_share(metric) else points


def unbroken(text: str) -> str:
    """With spaces at which no line ends between a number and its ``%``, and about the signs of ``p = 0.032``."""
    return _WITHIN.sub("\u00a0", text)


def listed(names: list[str], most: int = 8) -> str:
    """``a, b and c``; long lists are cut and say so, but not for a single name."""
    if len(names) > most + 1:
        return ", ".join(names[:most]) + f" and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
