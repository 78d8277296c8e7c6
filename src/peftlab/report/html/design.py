"""What the page shows of a study's design: its tasks together, its factors, its test examples. No number is new here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.analysis.findings import OVER_TASKS, Finding, Findings, Kind

MOST_OPEN = 12  #: interactions that stand in the table of effects
BETWEEN = "Between tasks and backbones"


def design(findings: Findings) -> dict[str, Any]:
    """``over``: all tasks together (None for a single one); ``factors``: tables by setting; ``factors_over``: one over
    tasks, or None; ``sampling``: by (task, backbone).
    """
    sampled: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for f in findings.of("sampling"):
        place = sampled.setdefault((f.task, f.backbone), {"both": [], "single": [], "unknown": []})
        if not f.arms:
            place["unknown"].append(f)
            continue
        seeds = _first(findings.of("difference", f.arms[0], f.task, f.backbone))
        place["single" if "only_first" in f.details else "both"].append({"said": f, "seeds": seeds})
    return {
        "over": _over(findings),
        "factors": _factors(findings),
        "factors_over": _factors_over(findings),
        "sampling": sampled,
    }


def title(findings: Findings) -> str:
    """Of the section of all tasks together: several backbones of one task are no tasks."""
    return "Over all tasks" if len({a.task for a in findings.arms}) > 1 else "Over all backbones"


def _over(findings: Findings) -> dict[str, Any] | None:
    middles = findings.of("interquartile_mean")
    if not middles:
        return None
    base, labels = findings.plan.baseline, [f.arms[0] for f in middles]
    kinds: dict[str, Kind] = {"here": "over_tasks", "new": "new_tasks", "better": "improvement"}
    rows = [
        {"arm": f.arms[0], "baseline": f.arms[0] == base, "middle": f}
        | {name: _first(findings.of(kind, f.arms[0])) for name, kind in kinds.items()}
        for f in middles
    ]
    tasks, settings = middles[0].details["tasks"], middles[0].details["settings"]
    return {
        "of": f"the {settings} backbones" if tasks == 1 else f"the {tasks} tasks",
        "averaged": 1 < tasks < settings,
        "title": title(findings),
        "rows": rows,
        "compared": any(row["here"] for row in rows),
        "left_out": [label for label in dict.fromkeys(a.label for a in findings.arms) if label not in labels],
    }


def _factors(findings: Findings) -> list[dict[str, Any]]:
    """Rows of effects and of interactions for each setting, in the order of the findings; too many interactions are folded."""
    found: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for f in (*findings.of("effect"), *findings.of("interaction")):
        found.setdefault((f.task, f.backbone), {"effect": [], "interaction": []})[f.kind].append(_row(f))
    several = len({(a.task, a.backbone) for a in findings.arms}) > 1
    return [
        {
            "title": "" if not several else f"{task}, {backbone}" if task else BETWEEN,
            "rows": rows["effect"] + (rows["interaction"] if len(rows["interaction"]) <= MOST_OPEN else []),
            "folded": rows["interaction"] if len(rows["interaction"]) > MOST_OPEN else [],
        }
        for (task, backbone), rows in found.items()
    ]


def _factors_over(findings: Findings) -> dict[str, Any] | None:
    found = [f for kind in OVER_TASKS for f in findings.of(kind)]
    if not found:
        return None
    settings = len({(a.task, a.backbone) for a in findings.arms})
    return {"tasks": found[0].n, "averaged": settings > found[0].n, "rows": [_row(f) for f in found]}


def _row(f: Finding) -> dict[str, Any]:
    told = (("factor", "name"), ("levels", "words"))
    return {"said": f} | {key: " × ".join(c[word] for c in f.details["contrasts"]) for key, word in told}


def _first(found: Sequence[Finding]) -> Finding | None:
    return found[0] if found else None
