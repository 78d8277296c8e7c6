"""Published figures in the paper, and hand-kept sections that the records contradict."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from peftlab.analysis.literature import literature
from peftlab.api.papers import describe
from peftlab.report.paper.bibliography import entries
from peftlab.report.paper.build import build_paper
from peftlab.report.paper.kept import contradictions
from peftlab.report.paper.material import gather
from peftlab.report.paper.published import published, sources, tables
from tests.report.paper.conftest import SMALL, again, make


@pytest.fixture(scope="module")
def rows(folder: Path):
    return published(gather(folder, describe))


def test_every_row_says_what_differs_and_whose_it_is(folder: Path, rows: list) -> None:
    material = gather(folder, describe)
    cited = [entry.key for text in (*material.citations, *sources(material, rows)) for entry in entries(text)]
    texts = "".join(tables(rows, cited, "accuracy"))
    assert rows and texts.count(r"\midrule") == -(-len(rows) // 6)
    for beside in rows:
        assert {line.split(":")[0] for line in beside.differs} <= {"backbone", "data", "split", "protocol"}
    assert "(published: " in texts and r"\citet{" in texts
    unknown = rows[0].model_copy(update={"row": rows[0].row.model_copy(update={"source": "secondary"})})
    (text,) = tables([unknown], cited, "accuracy")
    assert "Secondary sources (figures that later papers quote" in text and r"\citet{secondary}" not in text
    assert not any("secondary" in source for source in sources(material, [unknown]))


def test_the_paper_holds_them_and_every_reference_resolves(folder: Path) -> None:
    paper = folder / "paper"
    supplement = (paper / "sections" / "supplement.tex").read_text(encoding="utf-8")
    assert r"\label{sec:published}" in supplement and r"\input{tables/published-1}" in supplement
    after = supplement.split(r"\label{sec:published}")[1]  # tables of a page each would tear the text that follows
    assert [line for line in after.splitlines() if line.startswith(r"\section")] in ([], [r"\section{Further figures}"])
    assert r"\ref{sec:published}" in (paper / "sections" / "results.tex").read_text(encoding="utf-8")
    known = {e.key for e in entries((paper / "references.bib").read_text(encoding="utf-8"))}
    table = (paper / "tables" / "published-1.tex").read_text(encoding="utf-8")
    cited = {part.split("}")[0] for part in table.split(r"\citet{")[1:]}
    assert cited and cited <= known
    assert not [key for key in literature()[1] if key in known and any(e.problems() for e in entries(literature()[1][key]))]


@pytest.mark.usefixtures("only_drawn_by_the_page")
def test_a_kept_introduction_is_told_of_and_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    """Written while every arm had its seeds; then a run is lost."""
    study = copy.deepcopy(SMALL)
    whole = make(tmp_path, study)
    written = build_paper(whole, describe)
    introduction = whole / "paper" / "sections" / "introduction.tex"
    before = introduction.read_text(encoding="utf-8")
    assert r"\result{seeds.count} seeds each" in before and written.warnings == []
    shutil.rmtree(next((whole / "runs" / "bitfit").iterdir()))
    (line,) = [w for w in again(whole).warnings if "introduction" in w]
    assert "says that every arm has 3 seeds, but outcomes are missing: bitfit (2)" in line
    assert introduction.read_text(encoding="utf-8") == before
    assert "at most" in (folder / "paper" / "sections" / "introduction.tex").read_text(encoding="utf-8")  # one run failed there


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("with five seeds each", "says 'five seeds', and the records have 3 seeds"),
        ("over 10 random seeds.", "says '10 random seeds'"),
        ("trained in a race over", "says that the arms were raced"),
        ("with three seeds % and 7 seeds in a comment", ""),
        (r"with \result{seeds.count} seeds", ""),
        ("a model of 7 layers", ""),
    ],
)
def test_what_contradicts_the_records(folder: Path, text: str, said: str) -> None:
    found = contradictions({"sections/introduction.tex": text}, gather(folder, describe).findings)
    assert len(found) == bool(said) and all(said in line for line in found)
