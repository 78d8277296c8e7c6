"""Sections that are kept by hand against the records: what they say of seeds and is no longer so is told, never overwritten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from peftlab.analysis.findings import Findings
from peftlab.analysis.words import listed, plural

_WORDS = {word: n for n, word in enumerate("zero one two three four five six seven eight nine ten".split())} | {"twenty": 20}
_NUMBER = rf"(?<![\w.\\{{-])(\d+|{'|'.join(_WORDS)})"
_COUNT = re.compile(rf"{_NUMBER}\s+(?:(?:random|independent|different|paired)\s+)?seeds?\b", re.IGNORECASE)
_EACH = re.compile(r"\\result\{seeds\.count\}\s+seeds\s+each")
_RACE = re.compile(r"\bin\s+a\s+race\b")


def contradictions(texts: Mapping[str, str], findings: Findings) -> list[str]:
    """One line per sentence that the records contradict; ``texts``: file -> LaTeX of the sections that are kept."""
    return [f"{name}: {line}" for name, text in sorted(texts.items()) for line in _of(_without_comments(text), findings)]


def _of(text: str, findings: Findings) -> Iterator[str]:
    seeds = len({seed for seed, _ in findings.pairs})
    fewer = [f"{arm.label} ({arm.n})" for arm in findings.incomplete()]
    if _EACH.search(text) and fewer:
        said = "arms left the race before" if findings.plan.anytime else "outcomes are missing"
        yield f"says that every arm has {plural(seeds, 'seed')}, but {said}: {listed(fewer)}"
    if _RACE.search(text) and not findings.plan.anytime:
        yield "says that the arms were raced, and the records hold no race"
    for match in _COUNT.finditer(text):
        said = match[1].lower()
        number = int(said) if said.isdigit() else _WORDS[said]
        if number != seeds:
            yield f"says {match[0]!r}, and the records have {plural(seeds, 'seed')}; \\result{{seeds.count}} follows them"


def _without_comments(tex: str) -> str:
    return re.sub(r"(?<!\\)%.*", "", tex)
