"""The result table in LaTeX (booktabs, siunitx), in two: what was reached, and what it took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from peftlab.analysis.best import Best, best_arms
from peftlab.analysis.findings import Findings
from peftlab.analysis.words import is_share, show_count, show_difference, show_p, show_percent, show_share
from peftlab.report.paper.text import Tex, breakable, escape, show_seconds
from peftlab.report.tables import Row, as_csv

MOST_ROWS = 32  #: of one table; longer ones go on in the next
_NONE = "{--}"
_NEEDS = "% \\usepackage{array,booktabs,siunitx} \\sisetup{detect-weight=true}\n"


def write_tables(table: list[Row], findings: Findings, stem: Path) -> list[Path]:
    """``stem.csv``, and for LaTeX ``stem.tex`` (what was reached) and ``stem-cost.tex`` (what it took)."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = {
        stem.with_suffix(".csv"): as_csv(table, findings),
        stem.with_suffix(".tex"): _NEEDS + quality(table, findings),
        stem.with_name(f"{stem.name}-cost.tex"): _NEEDS + cost(table, findings),
    }
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    return list(written)


def parts(table: Sequence[Row]) -> list[list[Row]]:
    """Rows of a table, cut where a page would end; at least one part."""
    return [list(table[start : start + MOST_ROWS]) for start in range(0, len(table), MOST_ROWS)] or [[]]


def quality(table: Sequence[Row], findings: Findings) -> str:
    """Mean with the half-width of its interval, difference from the baseline, adjusted p and what the margin test says."""
    plan, compared = findings.plan, any(row.difference for row in table)
    scale = 100.0 if is_share(plan.metric) else 1.0
    digits = _digits([row.arm.mean for row in table], scale)
    marks = best_arms(findings, table[0].arm.task, table[0].arm.backbone) if table else Best()
    means, halves = [_mean(row, scale, digits, marks) for row in table], [_half(row, scale, digits) for row in table]
    unit = r"\,(\%)" if is_share(plan.metric) else ""
    columns = rf"\arms r{_column(means)}@{{\,{{$\pm$}}\,}}{_column(halves)}" + ("rrrl" if compared else "")
    head = ["Arm", "$n$", rf"\multicolumn{{2}}{{c}}{{{escape(plan.metric)}{unit}}}"]
    head += [r"$\Delta$", "interval", "$p$", "margin"] if compared else []
    lines = []
    for row, mean, half in zip(table, means, halves, strict=True):
        cells = [_arm(row, marks), str(row.arm.n), mean, half]
        lines.append([*cells, *(_compared(row, findings) if compared else [])])
    return _tabular(columns, head, lines, f"{_notes(table)}")


def _compared(row: Row, findings: Findings) -> list[str]:
    plan, d, m = findings.plan, row.difference, row.margin
    if row.arm.baseline:
        return ["--", "--", "--", "baseline"]
    interval = d.interval if d else None
    bounds = "--"
    if interval is not None:
        low, high = (escape(show_difference(v, plan.metric)) for v in interval)
        bounds = rf"{{[}}{low}, {high}{{]}}"
    estimate = escape(show_difference(d.estimate if d else None, plan.metric))
    return [estimate, bounds, escape(show_p(d.p_adjusted if d else None)), escape(m.verdict if m else "–")]


def cost(table: Sequence[Row], findings: Findings) -> str:
    """Trainable parameters, their share of the baseline's, share of its gain kept, peak memory, training time."""
    kept = any(row.arm.efficiency for row in table)
    share = any(row.arm.percent_of_baseline is not None for row in table)
    columns = r"\arms r" + "r" * share + "r" * kept + "rrr"
    head = ["Arm", "trainable", *(["of baseline"] * share), *(["gain kept"] * kept), "peak (MB)", "predicted (MB)", "time (s)"]
    lines = []
    for row in table:
        arm = row.arm
        ended = rf" ({escape(row.at_end)} at the end)" if row.at_end else ""
        cells = [_arm(row, Best()), escape(show_count(arm.trainable)) + ended]
        percent = show_percent(arm.percent_of_baseline)
        cells += [escape(percent if arm.percent_of_baseline is None else f"{percent} %")] * share
        cells += [escape(show_share(arm.efficiency.kept) if arm.efficiency else "–")] * kept
        cells += [escape(show_count(value)) for value in (arm.measured_peak_mb, arm.predicted_peak_mb)]
        lines.append([*cells, "--" if arm.train_s is None else show_seconds(arm.train_s)])
    return _tabular(columns, head, lines, _notes(table))


def meaning(table: Sequence[Row], findings: Findings) -> Tex:
    """What a reader of :func:`quality` must know, without a number of its own."""
    plan, arms = findings.plan, [row.arm for row in table]
    said = [r"$n$: runs. $\pm$: half the width of the interval of the mean (\result{plan.intervals})."]
    if not any(a.interval for a in arms):
        said = [r"$n$: runs. There is no $\pm$: no arm has the two runs that an interval takes."]
    marks = best_arms(findings, arms[0].task, arms[0].backbone) if arms else Best()
    if marks.best and marks.tests:
        said.append(
            r"Bold: best mean. $^\dagger$: not shown to be worse than it (Holm-adjusted, declared for comparisons with the "
            "baseline, exploratory for others); that is no evidence of equality, and the best was picked from the same runs. "
            "No mark: shown to be worse, or not tested."
        )
    elif marks.best:
        said.append("Bold: best mean; with these runs no test against it is possible.")
    if any(row.difference for row in table):
        points = ", in percentage points" if is_share(plan.metric) else ""
        said.append(
            rf"$\Delta$: difference from \result{{baseline}}{points}, with its {plan.interval_word} (not adjusted); "
            rf"{plan.p_word}$p$: of that difference, adjusted after Holm; "
            r"margin: whether the arm is shown to be within \result{margin} of the baseline or better "
            "(non-inferior), beyond it (inferior), or neither (not shown)."
        )
    if _notes(table):
        said.append("$*$: see the notes below the table.")
    return Tex(" ".join(said))


def _arm(row: Row, marks: Best) -> str:
    dagger = r"$^\dagger$" if row.arm.label in marks.not_shown_worse else ""
    return f"{breakable(row.arm.label)}{'$^*$' if row.flags else ''}{dagger}"


def _mean(row: Row, scale: float, digits: int, marks: Best) -> str:
    if row.arm.mean is None:
        return _NONE
    return (r"\bfseries " if row.arm.label in marks.best else "") + f"{scale * row.arm.mean:.{digits}f}"


def _half(row: Row, scale: float, digits: int) -> str:
    if row.arm.interval is None:
        return _NONE
    low, high = row.arm.interval
    middle, width = (low + high) / 2, high - low
    if row.arm.mean is None or abs(row.arm.mean - middle) > 0.01 * width:  # no symmetric interval
        return _NONE
    return f"{scale * width / 2:.{digits}f}"


def _digits(values: Sequence[float | None], scale: float) -> int:
    """Decimals: two for shares, else four significant digits of the largest value."""
    if scale != 1.0:
        return 2
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=1.0)
    return min(max(3 - math.floor(math.log10(largest)), 0), 8) if largest > 0 else 3


def _column(cells: Sequence[str]) -> str:
    """A siunitx column wide enough for its numbers."""
    numbers = [c.removeprefix(r"\bfseries ") for c in cells if c != _NONE] or ["0"]
    whole = max(len(n.partition(".")[0].lstrip("-")) for n in numbers)
    decimals = max(len(n.partition(".")[2]) for n in numbers)
    sign = "-" if any(n.startswith("-") for n in numbers) else ""
    return f"S[table-format={sign}{whole}.{decimals}]"


def _tabular(columns: str, head: Sequence[str], lines: Sequence[Sequence[str]], notes: str) -> str:
    """``\\arms`` in ``columns`` is the column of labels, as wide as the longest up to a third of the line, where they break."""
    longest = max((_width(line[0]) for line in lines), default=8)
    labels = "l" if longest <= 16 else r">{\raggedright\arraybackslash}p{0.28\linewidth}"
    body = [" & ".join(line) + r" \\" for line in lines]
    begin = rf"\begin{{tabular}}{{@{{}}{columns.replace(chr(92) + 'arms ', labels)}@{{}}}}"
    whole = [begin, r"\toprule", " & ".join(head) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*whole, *([rf"\par\smallskip {notes}"] if notes else [])]) + "\n"


def _width(cell: str) -> int:
    return len(cell.replace(r"\allowbreak{}", "").replace("{", "").replace("}", "").replace(r"$^\dagger$", ""))


def _notes(table: Sequence[Row]) -> str:
    noted = [f"{breakable(row.arm.label)}: {escape('; '.join(row.flags))}" for row in table if row.flags]
    return "$^*$ " + ". ".join(noted) + "." if noted else ""


def single_runs(table: Sequence[Row], findings: Findings, columns: Sequence[int]) -> str:
    """Values of single runs: a row per arm, a column per seed and fold; ``columns`` are positions in ``findings.pairs``."""
    scale = 100.0 if is_share(findings.plan.metric) else 1.0
    digits = _digits([v for row in table for v in row.arm.values], scale)
    several = len({fold for _, fold in findings.pairs}) > 1
    heads = [f"{seed}/{fold}" if several else str(seed) for seed, fold in (findings.pairs[i] for i in columns)]
    lines = []
    for row in table:
        values = [row.arm.values[i] for i in columns]
        lines.append([_arm(row, Best()), *("--" if v is None else f"{scale * v:.{digits}f}" for v in values)])
    return _tabular(r"\arms " + "r" * len(columns), ["Arm", *heads], lines, _notes(table))
