"""Published figures beside ours as tables of the paper: the value, its source, and what keeps the two from being compared."""

from __future__ import annotations

from collections.abc import Sequence

from peftlab.analysis.literature import Beside, beside_literature, literature
from peftlab.analysis.words import show
from peftlab.report.paper.bibliography import keys, standard
from peftlab.report.paper.material import Material
from peftlab.report.paper.text import Tex, breakable, escape

ROWS = 6  #: of one table; a row is a paragraph
MOST = 24  #: rows in all, those that agree most first; the report has all


def published(material: Material) -> list[Beside]:
    """Each pair of an arm of ours and a published row once, those that differ in least first."""
    found = beside_literature(material.frame, material.findings)
    return sorted(found, key=lambda beside: len(beside.differs))[:MOST]


def sources(material: Material, rows: Sequence[Beside]) -> list[str]:
    """BibTeX of what the rows cite and the components do not; of some figures no first source is known, and there is none."""
    known = {key for text in material.citations for key in keys(text)} | set(standard())
    named = {row.row.source for row in rows} - known
    return [text for key, text in literature()[1].items() if key in named and text.startswith("@")]


def tables(rows: Sequence[Beside], cited: Sequence[str], metric: str) -> list[str]:
    """LaTeX, at most :data:`ROWS` rows each. ``cited``: keys that the bibliography has."""
    return [_table(rows[start : start + ROWS], set(cited), metric) for start in range(0, len(rows), ROWS)]


def _table(rows: Sequence[Beside], cited: set[str], metric: str) -> str:
    columns = r"@{}>{\raggedright\arraybackslash}p{0.14\linewidth}rr>{\raggedright\arraybackslash}p{0.2\linewidth}"
    columns += r">{\raggedright\arraybackslash}p{0.4\linewidth}@{}"
    head = " & ".join(["Arm", "ours", "published", "by", "what differs"]) + r" \\"
    lines = []
    for beside in rows:
        row = beside.row
        spread = rf"\,$\pm$\,{row.spread:g}" if row.spread is not None else ""
        seeds = f" ({row.seeds} seeds)" if row.seeds is not None else ""
        by = f"{breakable(row.method)}, {breakable(row.place)}{seeds}, {_source(row.source, cited)}"
        differs = "; ".join(escape(line) for line in beside.differs) or "nothing that is recorded"
        ours = f"{escape(show(beside.ours, metric))} ({beside.n})"
        lines.append(" & ".join([breakable(beside.arm), ours, escape(show(row.level, metric)) + spread, by, differs]) + r" \\")
    body = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        "\n\\addlinespace\n".join(lines),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(body) + "\n"


def _source(key: str, cited: set[str]) -> Tex:
    if key in cited:
        return Tex(rf"\citet{{{key}}}")
    return escape(literature()[1][key])
