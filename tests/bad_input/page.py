"""The page of all messages, ``messages.txt``: as a person reads them, and as the tests compare them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.bad_input.case import Case, Said

FILE = Path(__file__).parent / "messages.txt"


def entry(case: Case, said: Said) -> str:
    """One case."""
    return f"[{case.name}] exit {said.code}\n$ peftlab {case.command}\n{said.message}"


def kept(text: str) -> dict[str, str]:
    """Name of a case -> its entry."""
    entries = [part.strip() for part in text.split("\n\n") if part.startswith("[")]
    return {part[1:].partition("] exit ")[0]: part for part in entries}


def compared(cases: Iterable[Case]) -> list[Case]:
    """Those whose message is ours to the letter."""
    return [case for case in cases if not case.words]
