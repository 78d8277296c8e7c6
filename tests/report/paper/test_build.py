"""The folder: what is generated, what is yours, and what is said when something changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from peftlab.analysis.analyze import read_findings
from peftlab.errors import RecordError, StudyError
from peftlab.report.paper.bibliography import entries
from peftlab.report.paper.build import _changes, stale
from peftlab.report.paper.conference import Style, find_style
from peftlab.report.paper.numbers import read_numbers, slugs, used
from peftlab.report.paper.sections import cited
from tests.report.paper.conftest import SMALL, again, make

YOURS = {
    "main.tex",
    "own.bib",
    *(f"sections/{n}.tex" for n in "abstract introduction related discussion conclusion ethics acknowledgements".split()),
}


def sections(paper: Path) -> dict[str, str]:
    return {
        p.relative_to(paper).as_posix(): p.read_text(encoding="utf-8")
        for p in [paper / "main.tex", *(paper / "sections").glob("*.tex")]
    }


def test_each_file_says_whose_it_is(paper: Path) -> None:
    files = [p for p in paper.rglob("*") if p.suffix in (".tex", ".bib") and p.parent.name != "tables"]
    assert {p.relative_to(paper).as_posix() for p in files} >= YOURS
    for path in files:
        mine = path.relative_to(paper).as_posix() in YOURS
        assert path.read_text(encoding="utf-8").startswith("% YOURS" if mine else "% GENERATED"), path


def test_every_input_is_there(paper: Path) -> None:
    for text in sections(paper).values():
        for name in re.findall(r"^\\input\{([^}]*)\}", text, re.MULTILINE):
            assert (paper / f"{name}.tex").is_file(), name
        for name in re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", text):
            assert (paper / f"{name}.pdf").is_file(), name


def test_the_text_has_no_digits_of_its_own(paper: Path) -> None:
    """Left out: what components say of themselves (docstrings), and what was set in the study (configuration of every arm)."""
    for name, text in sections(paper).items():
        text = re.sub(r"(?<!\\)%.*", "", text)
        if "checklist" not in name:
            text = re.sub(r"^\\entry\{.*", "", text, flags=re.MULTILINE)
        text = re.split(r"\\section\{Methods in detail\}.*?(?=\\section)", text, flags=re.DOTALL)
        rest = "".join(part for part in text if part)
        rest = re.sub(
            r"\\(?:result|ref|label|input|citep?(?:\[[^]]*\])?|includegraphics\[[^]]*\]|section|begin)\{[^}]*\}", "", rest
        )
        rest = re.sub(r"The data are .*?\n\n|The backbone is .*?\n\n", "", rest, flags=re.DOTALL) if "data" in name else rest
        rest = re.sub(r"\\texttt\{[^}]*\}|\\setlength\{[^}]*\}\{[^}]*\}|SHA-256", "", rest)
        assert not re.search(r"\d", rest), (name, re.findall(r".{30}\d.{10}", rest))


def test_numbers_are_those_of_the_findings(folder: Path, paper: Path) -> None:
    findings = read_findings(folder)
    numbers = read_numbers((paper / "numbers.tex").read_text(encoding="utf-8"))
    for arm, key in zip(findings.arms, slugs([a.label for a in findings.arms]).values(), strict=True):
        assert arm.mean is not None
        assert numbers[f"{key}.mean"] == rf"{100 * arm.mean:.2f}~\%"
        assert numbers[f"{key}.trainable"] == f"{arm.trainable:,.0f}"
    for finding in findings.of("difference"):
        shown = numbers[f"{slugs([finding.arms[0]])[finding.arms[0]]}.difference"].replace(r"\ensuremath{-}", "-")
        assert finding.estimate is not None and float(shown) == pytest.approx(100 * finding.estimate, abs=0.005)
        said = numbers[f"{slugs([finding.arms[0]])[finding.arms[0]]}.says.difference"].replace(r"\ensuremath{-}", "-")
        shown = re.search(r"correlation over seeds (-?\d\.\d\d)", said)
        assert (shown and float(shown[1])) == (finding.correlation and pytest.approx(finding.correlation, abs=0.005))
    assert all(key in numbers for text in sections(paper).values() for key in used(text))


def test_every_citation_resolves_and_every_entry_is_complete(paper: Path) -> None:
    found = {e.key: e for e in entries((paper / "references.bib").read_text(encoding="utf-8"))}
    keys = set(cited(sections(paper)))
    assert {"hu2022lora", "benzaken2022bitfit", "holm1979simple", "alpaydin1998optical"} <= keys <= set(found)
    assert all(not e.problems() for e in found.values())


def test_only_what_was_used_is_described(paper: Path) -> None:
    methods = (paper / "sections" / "methods.tex").read_text(encoding="utf-8")
    assert r"\texttt{lora}" in methods and r"\texttt{bitfit}" in methods
    assert "adalora" not in methods and "zhang2023adalora" not in (paper / "references.bib").read_text(encoding="utf-8")


def test_what_went_wrong_is_said(paper: Path) -> None:
    numbers = (paper / "numbers.tex").read_text(encoding="utf-8")
    assert "out of memory" in numbers and "diverged" in numbers
    limits = (paper / "sections" / "limitations.tex").read_text(encoding="utf-8")
    assert r"\result{problem.1}" in limits and r"\result{warning.1}" in limits
    checklist = (paper / "sections" / "checklist.tex").read_text(encoding="utf-8")
    assert (
        r"\emph{Partly.} \result{runs.completed} completed, \result{runs.diverged} diverged, \result{runs.failed} failed"
        in checklist
    )


def test_with_folds_the_test_data_are_not_said_to_be_fixed(paper: Path, tmp_path: Path) -> None:
    arms = {"full": {"adapter": "full"}, "bitfit": {"adapter": "bitfit"}}
    folded = again(make(tmp_path, {**SMALL, "arms": arms, "seeds": [0, 1]}, folds=2)).folder
    fixed = {
        p: "the test split is fixed" in (p / "sections" / "protocol.tex").read_text(encoding="utf-8") for p in (paper, folded)
    }
    assert fixed == {paper: True, folded: False}


def test_twice_the_same(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    result = again(copy)
    assert not result.written and not result.changes and not result.kept and not result.first


def copied(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy"


def test_yours_is_kept_and_edits_of_generated_files_are_set_aside(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    yours, generated = copy / "paper" / "sections" / "discussion.tex", copy / "paper" / "sections" / "results.tex"
    yours.write_text("mine \\result{gone.mean} \\citep{nobody}", encoding="utf-8")
    before = generated.read_text(encoding="utf-8")
    generated.write_text(before + "my remark", encoding="utf-8")
    result = again(copy)
    assert yours.read_text(encoding="utf-8").startswith("mine") and generated.read_text(encoding="utf-8") == before
    assert len(result.kept) == 1 and result.kept[0].startswith("sections/results.tex")
    assert "my remark" in next((copy / "paper" / "kept").iterdir()).read_text(encoding="utf-8")
    assert any("gone.mean" in line for line in result.warnings) and any("nobody" in line for line in result.warnings)


@pytest.mark.parametrize("manifest", ["absent", "{", '["sections/results.tex"]', "{}"])
def test_edits_are_set_aside_without_a_record_of_what_was_written(folder: Path, tmp_path: Path, manifest: str) -> None:
    paper = copied(folder, tmp_path) / "paper"
    (paper / "generated.json").unlink() if manifest == "absent" else (paper / "generated.json").write_text(manifest)
    (paper / "sections" / "results.tex").write_text("my results", encoding="utf-8")
    result = again(paper.parent)
    assert [line.partition(" ")[0] for line in result.kept] == ["sections/results.tex"]
    assert [p.read_text(encoding="utf-8") for p in (paper / "kept").iterdir()] == ["my results"]


def test_a_file_of_yours_named_as_a_later_generated_one_is_set_aside(folder: Path, tmp_path: Path) -> None:
    paper = copied(folder, tmp_path) / "paper"
    recorded = json.loads((paper / "generated.json").read_text())
    (paper / "generated.json").write_text(json.dumps({k: v for k, v in recorded.items() if k != "tables/cost-1.tex"}))
    (paper / "tables" / "cost-1.tex").write_text("my table", encoding="utf-8")
    result = again(paper.parent)
    assert len(result.kept) == 1 and "my table" in next((paper / "kept").iterdir()).read_text(encoding="utf-8")


def test_edits_behind_a_linked_folder_are_set_aside(folder: Path, tmp_path: Path) -> None:
    paper = copied(folder, tmp_path) / "paper"
    (paper / "sections").rename(tmp_path / "elsewhere")
    (paper / "sections").symlink_to(tmp_path / "elsewhere")
    assert not again(paper.parent).kept
    (tmp_path / "elsewhere" / "results.tex").write_text("my results", encoding="utf-8")
    assert len(again(paper.parent).kept) == 1
    assert next((paper / "kept").iterdir()).read_text(encoding="utf-8") == "my results"


def test_another_setting_of_the_same_words_is_no_change() -> None:
    assert _changes({"a.mean": r"97.5 \%"}, {"a.mean": r"97.5~\%"}) == []
    (change,) = _changes({"a.mean": r"97.5 \%"}, {"a.mean": r"97.6~\%"})
    assert (change.before, change.now) == ("97.5 %", "97.6 %")


def test_a_changed_record_changes_its_numbers_alone_and_says_so(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    path = next(copy.glob("runs/bitfit/*/results.json"))
    data = json.loads(path.read_text())
    data["metrics"]["test"]["accuracy"] -= 0.1
    path.write_text(json.dumps(data))
    assert stale(copy)
    result = again(copy)
    changed = {c.key: (c.before, c.now) for c in result.changes}
    assert "bitfit.mean" in changed and "full.mean" not in changed and changed["bitfit.mean"][0] != changed["bitfit.mean"][1]
    assert "numbers.tex" in result.written and not YOURS & set(result.written)
    assert not {name for name in result.written if name.startswith("sections/")} - {
        "sections/results.tex",
        "sections/supplement.tex",
    }


def test_styles(tmp_path: Path) -> None:
    assert find_style(tmp_path) == Style()
    (tmp_path / "fancyhdr.sty").write_text("")
    (tmp_path / "icml2026.sty").write_text("")
    (tmp_path / "icml2026.bst").write_text("")
    assert find_style(tmp_path) == Style(sty="icml2026", bst="icml2026")
    (tmp_path / "neurips_2025.sty").write_text("")
    with pytest.raises(StudyError, match="several styles"):
        find_style(tmp_path)
    (tmp_path / "jmlr.cls").write_text("")
    assert find_style(tmp_path).cls == "jmlr" and not find_style(tmp_path).sty
    (tmp_path / "jmlr.cls").rename(tmp_path / "a}b.cls")
    with pytest.raises(StudyError, match="cannot take a style"):
        find_style(tmp_path)


def test_a_dropped_style_is_used(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    (copy / "paper" / "neurips_2099.sty").write_text(r"\ProvidesPackage{neurips_2099}\RequirePackage{natbib}")
    result = again(copy)
    assert result.written == ["preamble.tex"]
    assert r"\usepackage{neurips_2099}" in (copy / "paper" / "preamble.tex").read_text(encoding="utf-8")


def test_no_results_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError):
        again(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError):
        again(tmp_path / "empty")


HOSTILE = r"Is \write18{touch x} $a_b^c ~ {100 % & #1}" + "\n\\input{/etc/passwd} 日本 ≤ <b>?"
LABELS = [
    *(("full", s) for s in range(3)),
    *(("bitfit", s) for s in range(3)),
    *((f"lora[rank={r}]", s) for r in (2, 8) for s in range(3)),
]
ONE = {"full": {"adapter": "full"}}
DEGENERATE = {
    "one seed": ({**SMALL, "seeds": [0]}, {}),
    "one arm": ({**SMALL, "arms": ONE}, {}),
    "no baseline": ({**SMALL, "analysis": {"metric": "accuracy"}}, {}),
    "constant": (SMALL, {"levels": {label: (1.0, 0.0, 1000, 10.0, 1.0) for label, _ in LABELS}}),
    "missing cells": (SMALL, {"skip": (("bitfit", 0), ("bitfit", 1), ("full", 2))}),
    "all failed": (SMALL, {"failed": tuple(LABELS)}),
    "nothing ran": (SMALL, {"skip": tuple(LABELS)}),
    "metric absent": ({**SMALL, "analysis": {"metric": "top9"}}, {}),
    "hostile": ({**SMALL, "question": HOSTILE, "source": HOSTILE, "arms": ONE}, {"flags": {"full": [HOSTILE]}}),
    "two backbones": ({**SMALL, "arms": ONE, "matrix": {"backbone": ["bundled:vit-nano", "timm/vit_tiny"]}, "seeds": [0, 1]}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_studies_give_a_paper_that_says_what_cannot_be_said(tmp_path: Path, name: str) -> None:
    from peftlab.report.paper.compile import can_compile, compile_paper

    study, options = DEGENERATE[name]
    folder = make(tmp_path, study, **options)
    result = again(folder)
    assert not result.warnings
    text = "".join(sections(result.folder).values()) + (result.folder / "numbers.tex").read_text(encoding="utf-8")
    said = {
        "one seed": ["There is one seed only", "No interval can be given", r"There is no $\pm$"],
        "one arm": ["There is one arm only", "Nothing was tested"],
        "no baseline": ["No baseline is declared", "arms are described, not compared"],
        "constant": ["the runs tell nothing about its variation"],
        "missing cells": ["never run", "fewer than"],
        "all failed": ["Nothing can be said yet", "failed: OutOfMemory"],
        "nothing ran": ["No run was recorded", "never run"],
        "metric absent": ["No record has the declared metric"],
        "hostile": [r"\textbackslash{}write18\{touch x\}"],
        "two backbones": ["timm/"],
    }[name]
    for words in said:
        assert words in text.replace(r"\allowbreak{}", ""), words
    if can_compile():
        made = compile_paper(result.folder)
        assert made.pages >= 3 and not made.undefined and made.overfull_pt < 15, made


@pytest.mark.slow
def test_half_written_folders_give_a_paper(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    shutil.rmtree(copy / "report")
    shutil.rmtree(copy / "analysis")
    (copy / "plan.json").write_text("[")
    (copy / "tuning.json").unlink()
    next(copy.glob("runs/bitfit/*/results.json")).write_text('{"run')
    next(copy.glob("runs/full/*/results.json")).unlink()
    for path in copy.glob("runs/*/*/environment.json"):
        path.write_text("{")
    again(copy)
    text = (copy / "paper" / "numbers.tex").read_text(encoding="utf-8")
    assert "unreadable" in text and "unfinished" in text
    assert "No run recorded its environment" in (copy / "paper" / "sections" / "supplement.tex").read_text(encoding="utf-8")
