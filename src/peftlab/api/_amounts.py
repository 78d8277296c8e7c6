"""Amounts of memory and shares, read as a person writes them."""

from __future__ import annotations

import re

from peftlab.errors import StudyError


def parse_memory_mb(text: str | None) -> float | None:
    """``8GB``, ``8 GiB``, ``500MB`` or bytes -> MB (10^6 bytes)."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not match or float(match[1]) <= 0:
        raise StudyError(f"{text!r} is no amount of memory", where="--memory", remedy="write e.g. 8GB or 512MiB")
    power = " kmgt".index(match[2] or " ")
    return float(match[1]) * (1024 if match[3] else 1000) ** power / 1e6


def parse_share(text: str | None, where: str = "--margin", example: str = "3%") -> float | None:
    """``3%`` or ``0.03`` -> 0.03."""
    if text is None:
        return None
    try:
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        share = f"{float(example.rstrip('%')) / 100:g}"
        remedy = f"write e.g. {example} or {share}: above 0, below 100%"
        if 1 <= value < 100 and "%" not in text:
            remedy = f"for {value:g} percent write {value:g}%"
        raise StudyError(f"{text!r} is no share between 0 and 1", where=where, remedy=remedy)
    return value
