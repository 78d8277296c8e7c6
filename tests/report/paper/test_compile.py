"""The PDF, and what is said without one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from peftlab.api.papers import paper as verb
from peftlab.errors import LatexError
from peftlab.report.paper.compile import compile_paper, read_log
from tests.report.paper.conftest import again
from tests.report.paper.latex import needs_latex


@needs_latex
def test_the_paper_compiles_cleanly(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "paper", tmp_path / "paper")
    made = compile_paper(tmp_path / "paper")
    assert made.pdf.read_bytes().startswith(b"%PDF") and made.pages >= 5
    assert not made.undefined and made.overfull_pt < 5
    assert {p.suffix for p in (tmp_path / "paper").iterdir() if p.is_file()} <= {".tex", ".bib", ".pdf", ".json"}
    first = made.pdf.read_bytes()
    assert compile_paper(tmp_path / "paper").pdf.read_bytes() == first


@needs_latex
@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("conference2099.cls", r"\LoadClass[twocolumn]{article}\RequirePackage[margin=2cm]{geometry}"),
        ("neurips_2099.sty", r"\RequirePackage{natbib}\RequirePackage[textwidth=5.5in]{geometry}\renewcommand{\rmdefault}{ptm}"),
    ],
)
def test_it_compiles_with_a_conference_style(folder: Path, tmp_path: Path, name: str, style: str) -> None:
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2)
    (tmp_path / "copy" / "paper" / name).write_text(style)
    made = compile_paper(again(tmp_path / "copy").folder)
    assert not made.undefined and made.overfull_pt < 15


@needs_latex
def test_a_mistake_of_yours_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "paper", tmp_path / "paper")
    (tmp_path / "paper" / "sections" / "discussion.tex").write_text("\n\\result{no.such.key}\n")
    with pytest.raises(LatexError, match=r"discussion\.tex:2.*no result called no\.such\.key"):
        compile_paper(tmp_path / "paper")
    assert (tmp_path / "paper" / "compile.log").is_file()


@needs_latex
def test_a_start_up_file_in_the_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "paper", tmp_path / "paper")
    (tmp_path / "paper" / ".latexmkrc").write_text(f"system('touch {tmp_path}/stolen');")
    (tmp_path / "paper" / "latexmkrc").write_text(f"system('touch {tmp_path}/stolen');")
    compile_paper(tmp_path / "paper")
    assert not (tmp_path / "stolen").exists()


def test_logs_are_read() -> None:
    log = (
        "Overfull \\hbox (12.5pt too wide) in paragraph\n"
        "LaTeX Warning: Reference `fig:x' on page 3 undefined on input line 7.\n"
        "Package natbib Warning: Citation `nobody' on page 1 undefined on input line 3.\n"
        "Output written on main.pdf (9 pages, 1 bytes)."
    )
    made = read_log(Path("main.pdf"), log)
    assert (made.pages, made.overfull_pt, made.undefined) == (9, 12.5, ["fig:x", "nobody"])


def test_without_latex_the_sources_are_there_and_the_way_on_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = verb(folder)
    assert answer.as_dict()["pdf"] is None and answer.as_dict()["latex"] is False
    told = "\n".join(str(line) for line in answer.table().renderables)
    assert "LaTeX is not installed" in told and "latexmk" in told
