"""power: how many seeds the next study needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftlab.api import answers
from peftlab.api._amounts import parse_share
from peftlab.api.answers import Answer
from peftlab.errors import StudyError


def power(
    folder: str | Path | None = None,
    *,
    sd: float | None = None,
    difference: float | None = None,
    margin: str | None = None,
    power: str = "80%",
) -> Answer:
    """How many paired seeds show a difference that matters, and how many show that an arm is within the margin.

    Args:
        folder: ``results/<study>``; or give ``sd``.
        sd: standard deviation, over seeds, of the difference between two arms.
        difference: that matters, in units of the metric (accuracy: 0.01 is one percentage point); default: the margin.
        margin: relative, ``3%``; default: the declared one.
        power: probability with which it is to be found.
    """
    from peftlab.analysis import seeds
    from peftlab.study.schema import Margin

    wanted = parse_share(power, "--power", "80%") or 0.8
    if (folder is None) == (sd is None):
        what = (
            "neither a folder of results nor --sd is given" if folder is None else "both a folder of results and --sd are given"
        )
        remedy = "give one: peftlab power results/digits, or peftlab power --sd 0.01 --difference 0.02"
        raise StudyError(what, where="power", remedy=remedy)
    if folder is None and margin is not None:
        raise StudyError("a margin is a share of what a baseline reached", where="--margin", remedy="give --difference instead")
    if folder is not None:
        share = parse_share(margin)
        used = Margin(relative=share) if share is not None else None
        made = seeds.from_records(folder, margin=used, difference=difference, power=wanted)
    elif difference is None:
        raise StudyError(
            "which difference matters?",
            where="--difference",
            remedy="e.g. --difference 0.02: two points of accuracy",
        )
    else:
        made = seeds.from_sd(float(sd or 0.0), difference, power=wanted)
    return Answer(made.model_dump(mode="json"), lambda: _table(made))


def _table(made: Any) -> Any:
    from peftlab.analysis.words import significant

    rows, several = [], len({(row.task, row.backbone) for row in made.rows}) > 1
    for row in made.rows:
        about = " · ".join(word for word in (row.arm, *((row.task, row.backbone) if several else ())) if word) or "given"
        sizes = (significant(size, 2, "") for size in (row.sd, row.sd_upper, row.difference, row.allowed))
        sd, at_most, matters, allowed = sizes
        rows.append((about, row.n or "", sd, at_most, matters, _needed(row.detect), allowed, _needed(row.non_inferiority)))
    columns = ["arm", "pairs", "SD", "SD at most", "matters", "to find it", "margin", "to show within"]
    table = answers.table(columns, rows, right=columns[1:])
    many = f", {1 - made.alpha * made.comparisons:.0%} confidence"
    many += f" shared by {made.comparisons} comparisons" if made.comparisons > 1 else ""
    said = (
        f"Paired seeds for a power of {made.power:.0%}{many}. To find it: a true difference as large as the one that matters, "
        "two-sided. To show within: that an arm that equals the baseline is within the margin. In brackets: with the "
        "standard deviation at its upper 80 % limit, which a few seeds leave wide."
    )
    reach = made.rows[0].detectable
    shown = "; ".join(f"{count} seeds: {significant(value, 2)}" for count, value in reach.items())
    return answers.lines(table, said, f"Smallest difference found, {made.rows[0].arm or 'at this SD'}: {shown}", *made.notes)


def _needed(found: Any) -> str:
    least, cautious = (str(n) if n is not None else "> 1,000" for n in (found.seeds, found.cautious))
    return least if least == cautious else f"{least} [{cautious}]"
