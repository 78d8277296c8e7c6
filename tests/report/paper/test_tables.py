"""Tables: marks by test, widths, and that LaTeX takes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

from peftlab.analysis.analyze import analyze, read_findings
from peftlab.analysis.best import best_arms
from peftlab.api.papers import describe
from peftlab.report.paper.build import build_paper
from peftlab.report.paper.numbers import settings_of
from peftlab.report.paper.tables import MOST_ROWS, cost, meaning, parts, quality, single_runs, write_tables
from peftlab.report.tables import rows
from tests.report.fixtures import Options, write_results, write_unlike_settings
from tests.report.paper.conftest import SMALL, make
from tests.report.paper.latex import needs_latex, run_latex


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory):
    return analyze(write_results(tmp_path_factory.mktemp("marks"), Options(failed=(), diverged=())))


def setting(findings):
    return findings.arms[0].task, findings.arms[0].backbone


def test_marks_follow_the_tests(findings) -> None:
    """Recomputed with scipy and statsmodels: the baseline by the declared family, the others by that of all other pairs."""
    marks, arms = best_arms(findings, *setting(findings)), {a.label: a.values for a in findings.arms}
    best = max(arms, key=lambda label: sum(arms[label]))
    assert marks.best == (best,) and best != "full"
    others = [label for label in arms if label != "full"]
    declared = [ttest_rel(arms[label], arms["full"]).pvalue for label in others]
    declared = dict(zip(others, multipletests(declared, method="holm")[1], strict=True))
    pairs = [(a, b) for i, a in enumerate(others) for b in others[i + 1 :]]
    explored = multipletests([ttest_rel(arms[a], arms[b]).pvalue for a, b in pairs], method="holm")[1]
    p = {frozenset(pair): value for pair, value in zip(pairs, explored, strict=True)}
    p |= {frozenset((label, "full")): value for label, value in declared.items()}
    expected = {label for label in arms if label != best and p[frozenset((label, best))] > 0.05}
    assert set(marks.not_shown_worse) == expected and 0 < len(expected) < len(arms) - 1


def test_the_best_is_bold_and_daggers_stand_where_they_belong(findings) -> None:
    table = rows(findings, *setting(findings))
    lines = quality(table, findings).splitlines()
    marks = best_arms(findings, *setting(findings))
    for row in table:
        start = row.arm.label.replace("[", r"{[}").replace("]", "{]}")
        (line,) = [text for text in lines if text.replace(r"\allowbreak{}", "").startswith((f"{start} ", f"{start}$"))]
        assert (r"\bfseries" in line) == (row.arm.label in marks.best)
        assert (r"$^\dagger$" in line) == (row.arm.label in marks.not_shown_worse)
        assert row.arm.mean is not None and f"{100 * row.arm.mean:.2f}" in line
        low, high = row.arm.interval or (0, 0)
        assert f"{50 * (high - low):.2f}" in line
    said = meaning(table, findings)
    assert "no evidence of equality" in said and r"\result{plan.intervals}" in said


def test_one_seed_has_no_plus_minus_and_no_mark(tmp_path: Path) -> None:
    findings = analyze(make(tmp_path, {**SMALL, "seeds": [0]}))
    table = rows(findings, *setting(findings))
    text = quality(table, findings)
    assert "dagger" not in text and "{--}" in text
    assert r"There is no $\pm$" in meaning(table, findings) and "no test against it is possible" in meaning(table, findings)


def test_equal_means_are_all_bold(tmp_path: Path) -> None:
    levels = {"full": (0.9, 0.0, 1000, 1.0, 1.0), "bitfit": (0.9, 0.0, 100, 1.0, 1.0)}
    study = {**SMALL, "arms": {"full": {"adapter": "full"}, "bitfit": {"adapter": "bitfit"}}}
    findings = analyze(make(tmp_path, study, levels=levels))
    assert best_arms(findings, *setting(findings)).best == ("full", "bitfit")


def test_long_tables_go_on(findings) -> None:
    table = rows(findings, *setting(findings))
    many = table * 20
    assert [len(part) for part in parts(many)] == [MOST_ROWS] * (len(many) // MOST_ROWS) + [len(many) % MOST_ROWS]
    assert parts([]) == [[]]


def test_files(findings, tmp_path: Path) -> None:
    names = [p.name for p in write_tables(rows(findings, *setting(findings)), findings, tmp_path / "t" / "results")]
    assert names == ["results.csv", "results.tex", "results-cost.tex"]


@needs_latex
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_tables_compile_and_fit(tmp_path: Path, metric: str) -> None:
    arms = {
        "full": {"adapter": "full"},
        "a.very_long-name_of-an-arm" * 2: {"adapter": {"name": "lora", "rank": [2, 8], "targets": "standard"}},
    }
    levels = {"full": (0.9, 0.01, 10**9, 1e5, 1e4)}
    labels = [f"{name}[rank={r}]" for name in list(arms)[1:] for r in (2, 8)]
    levels |= dict.fromkeys(labels, (0.8, 0.02, 12_345_678, 99_999.0, 86_400.0))
    study = {**SMALL, "arms": arms, "analysis": {"metric": metric, "baseline": "full", "margin": {"relative": 0.03}}}
    findings = analyze(make(tmp_path, study, levels=levels, flags={labels[0]: ["100 % & more_of #1"]}))
    table = rows(findings, *setting(findings))
    texts = [quality(table, findings), cost(table, findings), single_runs(table, findings, range(3))]
    with run_latex("\\footnotesize\\setlength{\\tabcolsep}{4pt}\n" + "\n\n".join(rf"\noindent {text}" for text in texts)) as (
        log,
        _,
    ):
        wide = [float(w) for w in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
        assert max(wide, default=0.0) < 15, wide  # in 345 pt; conferences have 390 and more


def test_single_runs_stand_below_their_own_seed_and_fold(tmp_path: Path) -> None:
    folder = write_unlike_settings(tmp_path)
    build_paper(folder, describe)
    found = read_findings(folder)
    units = {"digits": ["1/0", "2/0"], "letters": ["0/0", "0/1", "1/0", "1/1"]}
    for number, (task, _) in enumerate(settings_of(found), 1):
        text = (folder / "paper" / "tables" / f"runs-{number}.tex").read_text(encoding="utf-8")
        head, line = (next(r for r in text.splitlines() if r.startswith(start)) for start in ("Arm", "bitfit"))
        heads = head.removesuffix(r" \\").split(" & ")[1:]
        assert heads == units[task.split()[1]]
        (arm,) = [a for a in found.arms if (a.task, a.label) == (task, "bitfit")]
        values = [arm.values[found.pairs.index((int(h[0]), int(h[2])))] for h in heads]
        shown = [float(cell) for cell in line.removesuffix(r" \\").split(" & ")[1:]]
        assert shown == pytest.approx([100 * (value or 0) for value in values], abs=0.01)
