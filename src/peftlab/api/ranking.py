"""choose --ranks: a pattern of ranks for the next study."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from peftlab.api import answers
from peftlab.api.answers import Answer
from peftlab.errors import StudyError


def choose_ranks(folder: str | Path, *, arm: str | None = None, budget: str | None = None, metric: str | None = None) -> Answer:
    """Ranks for the layers of the next study, from what one arm's runs recorded, and how sure that is.

    Args:
        folder: ``results/<study>``.
        arm: label; default the first with adaptive ranks, else the first that recorded importance.
        budget: ``64 ranks`` or ``73728 parameters``; default what the arm ended with.
        metric: importance to go by; default the final ranks of an adaptive arm, else sensitivity.
    """
    from peftlab.analysis.choose_ranks import choose_ranks as pick

    made = pick(folder, arm=arm, budget=parse_budget(budget), metric=metric)
    pattern = {"allocator": {"name": "pattern", "ranks": made.ranks}}
    return Answer({**made.model_dump(mode="json"), **pattern}, lambda: _table(made, pattern))


def parse_budget(text: str | None) -> Any:
    """``64 ranks`` or ``ranks 64`` -> ("ranks", 64)."""
    if text is None:
        return None
    from peftlab.analysis.choose_ranks import Unit

    units = get_args(Unit)
    number, words = re.findall(r"\d[\d,_]*", text), re.findall(r"[a-z]+", text.lower())
    if len(number) != 1 or len(words) != 1 or words[0] not in units or re.search(r"[.-]", text):
        raise StudyError(f"{text!r} is no budget", where="--budget", remedy='write e.g. "64 ranks" or "73728 parameters"')
    return words[0], int(re.sub(r"\D", "", number[0]))


def _table(made: Any, pattern: dict[str, Any]) -> Any:
    """Evidence first, then the lines to paste."""
    rows = []
    for module in made.modules:
        interval = f"{100 * module.interval[0]:.2f} to {100 * module.interval[1]:.2f}" if module.interval else ""
        rows.append((module.site, module.rank, f"{100 * module.share:.2f}", interval, f"{module.probability_above_uniform:.2f}"))
    columns = ["module", "rank", "share, %", "interval", "P(above uniform)"]
    table = answers.table(columns, rows, right=columns[1:])
    spent = f"{made.spent['ranks']:,} ranks, {made.spent['parameters']:,} parameters over {len(made.modules)} modules"
    basis = f"from {made.arm}, {made.basis}; {made.task}, {made.backbone}; {spent}"
    ranks = pattern["allocator"]["ranks"]
    if not made.supported and len(set(ranks.values())) == 1:
        paste = ["allocator: uniform"]
    else:
        paste = ["allocator:", "  name: pattern", "  ranks:", *(f"    {site}: {rank}" for site, rank in ranks.items())]
    return answers.lines(made.sentence, basis, table, *made.notes, "", "\n".join(paste))
