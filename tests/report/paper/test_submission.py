"""Nothing in the archive says whose it is."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.errors import RecordError
from peftlab.report.paper.anonymise import mask, traces, without_authors, without_comments
from peftlab.report.paper.compile import can_compile
from peftlab.report.paper.submission import make_submission
from peftlab.report.paper.text import breakable, escape
from tests.report.paper.conftest import again

USER, HOST, MAIL = "jdoe_canary", "node-canary.example.org", "jane.doe@canary-mail.org"
HOME = "/ho" + f"me/{USER}/secret.d/model"  # in two parts: no path of a machine stands in these files
PLACES = [HOME, HOME.replace("/", "\\").replace("\\ho", "C:\\Ho", 1), f"~/{USER}-x", "/srv/canary-data/x.npz", MAIL, HOST, USER]


@pytest.fixture
def marked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy with canaries wherever a user can leave them."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    monkeypatch.setenv("USER", USER)
    for path in copy.glob("runs/*/*/environment.json"):
        data = json.loads(path.read_text()) | {"host": HOST, "command": f"peftlab run {HOME}/study.yaml"}
        path.write_text(json.dumps(data))
    study = copy / "study.yaml"
    words = " ".join(PLACES).replace("\\", "\\\\")
    asked = f'question: "Does {words} hold?"'
    study.write_text(re.sub(r"^question: .*\n(?:  .*\n)*", lambda _: f"{asked}\n", study.read_text(), flags=re.MULTILINE))
    again(copy)
    paper = copy / "paper"
    main = (paper / "main.tex").read_text().replace(r"\author{Anonymous authors}", rf"\author{{Jane \textbf{{Canary}}\\ {MAIL}}}")
    (paper / "main.tex").write_text(main)
    (paper / "sections" / "acknowledgements.tex").write_text("We thank Professor Canary.")
    (paper / "sections" / "discussion.tex").write_text(f"See {escape(HOME)}. % by Canary, {MAIL}\nAsk {MAIL} at {HOST}.\n")
    (paper / "own.bib").write_text(f"@misc{{a, author = {{A}}, title = {{At {HOME}}}, year = {{2020}}, note = {{{MAIL}}}}}\n")
    return copy


def test_canaries(marked: Path) -> None:
    made = make_submission(marked / "paper", compiled=can_compile())
    assert {name for name, _ in made.masked} >= {
        "data/study.yaml",
        "paper/numbers.tex",
        "paper/own.bib",
        "paper/sections/discussion.tex",
    }
    with zipfile.ZipFile(made.path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        assert all(info.date_time[0] == 1980 for info in archive.infolist())
    for name, content in files.items():
        text = content.decode("latin-1").replace(r"\allowbreak{}", "").replace("\\_", "_")
        assert not re.search(r"canary|jdoe|jane", text, re.IGNORECASE), name
        assert not traces(content, [USER, HOST]), name
    assert r"\author{Anonymous authors}" in files["paper/main.tex"].decode()
    sums = dict(line.split("  ")[::-1] for line in files["SHA256SUMS"].decode().splitlines())
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != "SHA256SUMS"}
    assert ("paper/main.pdf" in files) == can_compile()
    first = made.path.read_bytes()
    assert make_submission(marked / "paper", compiled=False).path.read_bytes() == first or can_compile()


def test_a_figure_that_names_somebody_stops_it(marked: Path) -> None:
    (marked / "paper" / "figures" / "own.pdf").write_bytes(b"%PDF-1.4 /Author (" + USER.encode() + b")")
    with pytest.raises(RecordError, match=USER) as error:
        make_submission(marked / "paper", compiled=False)
    assert error.value.where == "paper/figures/own.pdf" and not (marked / "submission.zip").exists()


@pytest.mark.parametrize("place", PLACES)
def test_masked_plain_escaped_and_broken(place: str) -> None:
    for form in (place, str(escape(place)), str(breakable(place))):
        text, kinds = mask(f"before {form} after, ({form})", [HOST, USER])
        plain = text.replace(r"\allowbreak{}", "")
        assert kinds and "canary" not in plain.lower() and plain.startswith("before ") and " after, (" in plain, (form, text)


@pytest.mark.parametrize(
    "text",
    [
        "https://openreview.net/forum?id=nZeVKeeFYf9", r"\url{https://github.com/huggingface/peft}", r"\input{tables/results-1}",
        "train/validation and 1,079 / 359 / 359", r"\expandafter\def\csname peftlab:arms.count\endcsname{7}%", r"a~b \\ 1/2",
        "timm/vit_tiny_patch16_224", r"\makeatletter\@ifpackageloaded{natbib}{}{}", r"\textsuperscript{2}/x", "A and/or B",
        "analysis/findings.json", r"$\alpha$/sqrt(r)",
    ],
)  # fmt: skip
def test_what_tells_nothing_stays(text: str) -> None:
    assert mask(text, [HOST, USER]) == (text, [])


@given(st.text(alphabet="ab{}\\%\n ", max_size=60))
def test_comments_go_and_nothing_else(text: str) -> None:
    made = without_comments(f"{text}\nend % secret")
    assert "secret" not in made and "end %" in made


def test_authors_are_replaced_whole() -> None:
    tex = r"\title{T}\author[1]{A {B} \} \textbf{C}} x \author {D}"
    assert without_authors(tex) == r"\title{T}\author{Anonymous authors} x \author{Anonymous authors}"
