"""The page and its files, without a browser."""

from __future__ import annotations

import csv
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.analyze import analyze, read_findings
from peftlab.analysis.best import best_arms
from peftlab.analysis.frame import load_frame
from peftlab.analysis.literature import beside_literature
from peftlab.analysis.words import show
from peftlab.report.build import build_report
from peftlab.report.html.data import safe_json
from peftlab.report.html.render import policy
from tests.report.fixtures import LEVELS, STUDY, Options, write_results
from tests.report.gradients import write_gradients
from tests.report.layers import write_layers


class Page(HTMLParser):
    """Ids, links and the cells of the first table."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.labelled: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        self.addresses += [str(values[k]) for k in ("src", "href", "xlink:href", "action") if values.get(k)]
        self.labelled += [str(values[k]) for k in ("aria-labelledby", "aria-describedby", "data-filter") if values.get(k)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("results"))
    write_layers(folder)
    write_gradients(folder)
    assert build_report(folder) == folder / "report" / "index.html"
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report" / "index.html").read_text(encoding="utf-8")


def embedded(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    start = page.index('id="report-data">') + len('id="report-data">')
    return json.loads(page[start : page.index("</script>", start)])


def test_an_undecided_arm_is_told_how_many_more_seeds_it_needs(folder: Path, page: str) -> None:
    found = read_findings(folder)
    open_ones = [f for f in found.of("non_inferiority") if f.verdict == "not shown"]
    (said,) = [line for line in found.verdict if line.startswith("Undecided: ")]
    needed = [(f.arms[0], max(f.details["seeds_needed"], f.n + 1)) for f in open_ones if f.details["seeds_needed"]]
    assert needed and said.count("more seeds needed") == len(needed)
    assert all(f"{arm} (more seeds needed: about {count})" in said and count > 5 for arm, count in needed)
    assert said in html.unescape(page)
    assert said in (folder / "analysis" / "analysis_summary.md").read_text(encoding="utf-8")


def test_files(folder: Path) -> None:
    names = {p.relative_to(folder / "report").as_posix() for p in (folder / "report").rglob("*") if p.is_file()}
    figures = {
        f"figures/{n}.{e}" for n in ("accuracy_vs_parameters", "pareto", "training_curves", "memory") for e in ("pdf", "png")
    }
    assert {"index.html", "tables/results.csv", "tables/results.tex"} | figures <= names


def test_twice_the_same_page(folder: Path, page: str) -> None:
    build_report(folder)
    assert (folder / "report" / "index.html").read_text(encoding="utf-8") == page


def test_nothing_is_loaded_and_ids_are_unique(page: str) -> None:
    parser = Page()
    parser.feed(page)
    assert len(parser.ids) == len(set(parser.ids))
    assert all(a.startswith(("#", "data:,")) for a in parser.addresses)
    data = embedded(page)
    runs = {f"run-{run['id']}" for run in data["runs"]}
    lists = {f"runs-{s}-{a}" for s, setting in enumerate(data["settings"]) for a in range(len(setting["arms"]))}
    assert len(runs) == 35 and len(lists) == len(LEVELS)
    named = {a[1:] for a in parser.addresses if a.startswith("#")}
    assert runs | lists <= named and named | set(parser.labelled) <= set(parser.ids) | runs | lists
    assert not re.search(r"url\((?!#)", page)


def test_the_policy_names_the_script_that_is_there(page: str) -> None:
    script = page[page.rindex("<script>") + len("<script>") : page.rindex("</script>")]
    assert policy(script).replace("'", "&#39;") in page or policy(script) in page
    assert "default-src 'none'" in policy(script)


def test_everything_the_reader_needs_is_said(folder: Path, page: str) -> None:
    findings = analyze(folder)
    text = re.sub(r"&#39;", "'", page).replace("\u00a0", " ")
    for line in (*findings.verdict, *findings.warnings, *findings.notes):
        assert line in text
    said = ["1 failed", "1 diverged", "micro-batch halved", "halve batch_size", "What an arm did not get"]
    said += ["learning_rate = 0.003 gave a value in 0 of 2 runs", "sha256", "peftlab run study.yaml", "2.14.1"]
    for words in said:
        assert words in text


def test_tables_agree_with_the_findings(folder: Path, page: str) -> None:
    findings = analyze(folder)
    with (folder / "report" / "tables" / "results.csv").open(encoding="utf-8") as stream:
        rows = {row["arm"]: row for row in csv.DictReader(stream)}
    assert set(rows) == set(LEVELS)
    for arm in findings.arms:
        assert float(rows[arm.label]["mean"]) == arm.mean
    at_end = {label: float(row["trainable_at_end"]) for label, row in rows.items()}
    assert [label for label, row in rows.items() if at_end[label] != float(row["trainable"])] == ["lora[rank=8]"]
    assert f"{at_end['lora[rank=8]']:,.0f} at the end" in page
    assert rows["bitfit"]["failed"] == "1" and rows["lora[rank=32]"]["diverged"] == "1"


def test_embedded_json_cannot_end_its_element() -> None:
    evil = {"label": "</script><img src=x onerror=alert(1)>", "line": "\u2028", "quote": '"\\"', "words": "größer ≥ 4"}
    text = safe_json(evil)
    assert "<" not in text and ">" not in text
    assert json.loads(text) == evil


def test_characters_that_reorder_text_are_written_out() -> None:
    assert json.loads(safe_json({"a\u202eb": ["\x00", "\u2066c"]})) == {"a⟨U+202E⟩b": ["⟨U+0000⟩", "⟨U+2066⟩c"]}


@pytest.mark.parametrize(
    "options",
    [
        Options(skip=tuple((label, s) for label in LEVELS for s in range(5))),
        Options(failed=tuple((label, s) for label in LEVELS for s in range(5)), diverged=()),
        Options(study={**STUDY, "arms": {"full": {"adapter": "full"}}, "seeds": [0]}, failed=(), diverged=()),
        Options(study={**STUDY, "analysis": {"metric": "top9"}}, diverged=()),
        Options(study={**STUDY, "matrix": {"backbone": ["bundled:vit-nano", "timm/vit_tiny"]}, "seeds": [0, 1]}),
    ],
    ids=["nothing ran", "all failed", "one run", "metric absent", "two backbones"],
)
def test_degenerate_folders_still_give_a_page(tmp_path: Path, options: Options) -> None:
    text = build_report(write_results(tmp_path, options)).read_text(encoding="utf-8")
    assert "The answer" in text and text.rstrip().endswith("</html>")


def test_damaged_extras_do_no_harm(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    (folder / "tuning.json").write_text('{"trials": [1, {"values": 3}, {"values": {}, "value": "x"}], "chosen": 7}')
    (folder / "plan.json").write_text("[]")
    for path in folder.glob("runs/*/*/environment.json"):
        path.write_text("{")
    for path in folder.glob("runs/*/*/metrics.jsonl"):
        path.unlink()
    text = build_report(folder).read_text(encoding="utf-8")
    assert "No run recorded its environment" in text and "no training curves were recorded" in text


def test_what_early_stopping_would_have_lost_is_told_in_the_metric_that_training_follows(page: str, tmp_path: Path) -> None:
    assert "lost in accuracy" in page
    folder = write_results(tmp_path)
    write_gradients(folder)
    for path in (folder / "runs").glob("*/*/results.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "primary_metric": "loss"}))
    build_report(folder)
    assert "lost in loss" in (folder / "report" / "index.html").read_text(encoding="utf-8")


def test_layers_are_told_where_they_were_recorded_and_passed_over_where_not(page: str, tmp_path: Path) -> None:
    said = ["Which layers matter", "attention matters more than feed-forward", "Adaptive against fixed ranks", "jackknife"]
    for words in [*said, 'id="layers"', "Who got the rank", "Ranks over time", "Agreement between seeds"]:
        assert words in page
    plain = build_report(write_results(tmp_path)).read_text(encoding="utf-8")
    assert "Which layers matter" not in plain and "Ranks over time" not in plain
    assert not (tmp_path / "fixture" / "analysis" / "importance.json").exists()


def table_rows(page: str, section: str) -> list[list[str]]:
    """Texts of the cells of the first table of a section, a list per row."""
    inside = page[page.index(f'<section id="{section}"') :]
    body = inside[inside.index("<tbody>") : inside.index("</tbody>")]
    cells = [re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
    texts = [
        [html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", " ", c, flags=re.DOTALL))) for c in row] for row in cells
    ]
    return [[re.sub(r"\s+", " ", text).strip() for text in row] for row in texts]


def test_the_best_and_what_is_not_shown_to_be_worse_are_marked_in_words(folder: Path, page: str) -> None:
    """The marks of the LaTeX tables, by the same tests."""
    findings = read_findings(folder)
    (place,) = {(a.task, a.backbone) for a in findings.arms}
    marks, rows = best_arms(findings, *place), table_rows(page, "results")
    assert marks.best and marks.not_shown_worse and len(rows) == len(LEVELS)
    for name, _, mean, *_ in rows:
        said = "best mean" if name in marks.best else "not shown worse" if name in marks.not_shown_worse else ""
        assert mean.rpartition("]")[2].strip() == said, name
    assert "that is no evidence of equality, and the best was picked from the same runs" in page


def test_published_figures_stand_beside_ours_with_their_ratio_and_what_differs(folder: Path, page: str) -> None:
    findings, rows = read_findings(folder), table_rows(page, "literature")
    beside = beside_literature(load_frame(folder), findings)
    assert len(rows) == len(beside) > 0 and not any(b.comparable for b in beside)
    for (arm, ours, published, ratio, source, comparable, differs), b in zip(rows, beside, strict=True):
        assert arm == b.arm and ours == f"{show(b.ours, 'accuracy')} n = {b.n}"
        assert published.startswith(show(b.row.level, "accuracy"))
        assert ratio == (f"{b.ratio:.3f}" if b.ratio is not None else "–")
        assert source.startswith(f"{b.row.source}, {b.row.place} {b.row.method}") and comparable == "no"
        assert differs == re.sub(r"\s+", " ", " ".join(b.differs)) and differs
    assert "None of them is comparable: that takes the same backbone, data, split and protocol." in page
