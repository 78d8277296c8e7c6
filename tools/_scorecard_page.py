"""docs/scorecard.md out of claims, goals and results: nothing in it is typed by hand (tools/scorecard.py)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
ORDER = ("shown", "missed", "output not kept", "not measured yet", "not reachable here")
INTRO = """Every capability, limit and figure that README, these pages and the project's plan (1/8 to 7/8: its parts) name,
the command that shows it, and what it printed. `make scorecard` runs the quick commands again, reads benchmarks
and study pages again, and writes this page; `python tools/scorecard.py --tests` runs the rows that are tests
(`--junit FILE` reads them from a run of all), `--only ID` one row, `--all` lists the ids. Data:
`docs/scorecard/claims.yaml`, `goals.yaml`, `results.json`.

**Kinds.** *quick*: the command was run. *tests*: pytest ran these tests. *benchmark*: the command takes long; what
its dated JSON in `benchmarks/results/` says was read, and the date is that of the measurement. *study*: the command
takes hours; the page that is made from its records was read, and the date is that of the page's last change. `FOLDER`
is a folder of your own with weights, data or results; `{study}` is the results folder of

```text
SMALL
```

**Verdicts.** *shown*: the output is what is claimed. *missed*: it is not, and the row says why. *not measured yet*,
*not reachable here*: nothing is claimed for this machine, and the row says why. *output not kept*: the figure stands on a page,
but what the command printed is not in the repository; nothing but repeating the command would show it."""


def page(rows: Sequence[Any], goals: Sequence[Mapping[str, Any]], results: Results, small: str) -> str:
    """The page as markdown."""
    machines = list(dict.fromkeys(result["machine"] for result in results.values()))
    counts = Counter(results[row.id]["verdict"] for row in rows if row.id in results)
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER if counts[verdict])
    parts = [
        "# Scorecard",
        INTRO.replace("SMALL", small.format(results="results")),
        f"**{len(rows)} rows: {total}.**",
        "## Goals",
        _goals(goals, results),
        "## What is not shown",
        _open(rows, results),
        "## Machines",
        "\n".join(f"- **{_letter(number)}**: {machine}" for number, machine in enumerate(machines)),
    ]
    for name in dict.fromkeys(row.page for row in rows):
        parts += [f"## {_title(name)}", _table([row for row in rows if row.page == name], results, machines)]
    return "\n\n".join(parts) + "\n"


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _title(name: str) -> str:
    """``docs/speed.md`` as a link from within docs; other files and parts of the plan by their names."""
    if name.startswith("docs/"):
        return f"[{name.removeprefix('docs/')}]({name.removeprefix('docs/')})"
    return name


def _cell(text: str) -> str:
    """Text that neither ends a cell nor marks anything up."""
    return re.sub(r"([*_<>\[\]])", r"\\\1", text.replace("|", "/")) if text else ""


def _code(text: str) -> str:
    return f"`{text.replace('|', '/').replace('`', '')}`"


def _command(row: Any) -> str:
    if row.kind != "tests":
        return _code(row.command)
    return _code(f"pytest {row.command}")


def _table(rows: Sequence[Any], results: Results, machines: Sequence[str]) -> str:
    lines = ["| claim | shown by | printed | date | verdict |", "|---|---|---|---|---|"]
    for row in rows:
        found = results.get(row.id)
        also = row.more.get("also", [])
        claim = row.claim + (f" (also {', '.join(also)})" if also else "")
        if found is None:
            lines.append(f"| {claim} | {_command(row)} | | | no result |")
            continue
        printed = _cell(found["printed"]) + (f" {_cell(found['why'])}" if found["why"] else "")
        when = f"{found['date']} {_letter(machines.index(found['machine']))}"
        verdict = found["verdict"] if found["verdict"] == "shown" else f"**{found['verdict']}**"
        names = row.more["file"] if row.kind == "benchmark" else []
        file = "".join(f" `{name}`" for name in ([names] if isinstance(names, str) else names))
        lines.append(f"| {claim} | {row.kind}: {_command(row)}{file} | {printed.strip()} | {when} | {verdict} |")
    return "\n".join(lines)


def _open(rows: Sequence[Any], results: Results) -> str:
    lines = ["| row | page | verdict | why |", "|---|---|---|---|"]
    for verdict in ORDER[1:]:
        for row in rows:
            found = results.get(row.id)
            if found and found["verdict"] == verdict:
                lines.append(f"| {row.claim} | {_title(row.page)} | {verdict} | {_cell(found['why'])} |")
    return "\n".join(lines) if len(lines) > 2 else "Every row is shown."


def _goals(goals: Sequence[Mapping[str, Any]], results: Results) -> str:
    lines = [
        "*reach* is what the goal asks for, *then* what to aim at after it; ratios are of the peer's time or memory.",
        "",
        "| goal | peer | reach | then | measured | date | from | reached |",
        "|---|---|--:|--:|--:|---|---|---|",
    ]
    for goal in goals:
        found = results.get(goal["row"])
        value = found["values"].get(goal["value"]) if found else None
        sign = "≥" if goal.get("more_is_better") else "≤"
        unit = goal.get("unit", "")
        bounds = [f"{sign} {goal[key]}{unit}" if key in goal else "" for key in ("reach", "then")]
        if found is None or value is None:
            status, measured, date = (found["verdict"] if found else "no result"), "", ""
            status += f": {found['why']}" if found and found["why"] else ""
        else:
            status, measured, date = reached(goal, value), f"{_worst(goal, value):,}{unit}", found["date"]
            if found["verdict"] == "output not kept":
                status += ", by its page alone"
        source = f"`{goal['from']}`"
        cells = [goal["goal"], goal.get("peer", ""), *bounds, measured, date, source, status]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _worst(goal: Mapping[str, Any], value: Any) -> float:
    """Of several values the one that is furthest from the goal."""
    values = value if isinstance(value, list) else [value]
    return min(values) if goal.get("more_is_better") else max(values)


def reached(goal: Mapping[str, Any], value: Any) -> str:
    """In words: whether the goal, and what comes after it, is reached by the worst of the values."""
    worst = _worst(goal, value)

    def keeps(bound: float) -> bool:
        return worst >= bound if goal.get("more_is_better") else worst <= bound

    if not keeps(goal["reach"]):
        return "**no**"
    return "yes, and then" if "then" in goal and keeps(goal["then"]) else "yes"
