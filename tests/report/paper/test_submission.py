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
from peftlab.report.paper.anonymise import (
    has_comments,
    hub_names,
    mask,
    owned,
    repositories,
    traces,
    without_authors,
    without_comments,
)
from peftlab.report.paper.compile import can_compile
from peftlab.report.paper.submission import make_submission
from peftlab.report.paper.text import breakable, escape
from tests.report.paper.conftest import again

USER, HOST, MAIL = "jdoe_canary", "node-canary.example.org", "jane.doe@canary-mail.org"
HOME = "/ho" + f"me/{USER}/secret.d/model"  # in two parts: no path of a machine stands in these files
COMMIT = "c0ffee" + "0123456789abcdef" * 2 + "01"
PLACES = [HOME, HOME.replace("/", "\\").replace("\\ho", "C:\\Ho", 1), f"~/{USER}-x", "/srv/canary-data/x.npz", MAIL, HOST, USER]


def be_canary(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Whoever calls now is the one that must not be named."""
    monkeypatch.setenv("USER", USER)
    monkeypatch.setenv("LOGNAME", "protocol")  # a word of the text
    (folder / "gitconfig").write_text("[user]\n\tname = Canary Git\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(folder / "gitconfig"))


@pytest.fixture
def marked(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy with canaries wherever a user can leave them."""
    be_canary(monkeypatch, tmp_path)
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of which :func:`marked` is a copy: its report and paper are made once."""
    root = tmp_path_factory.mktemp("marked")
    copy = root / "copy"
    shutil.copytree(folder, copy)
    for path in copy.glob("runs/*/*/environment.json"):
        data = json.loads(path.read_text()) | {"host": HOST, "command": f"peftlab run {HOME}/study.yaml"}
        data["git"] = {"commit": COMMIT, "dirty": False}
        path.write_text(json.dumps(data))
    study = copy / "study.yaml"
    words = " ".join(PLACES).replace("\\", "\\\\")
    asked = f'question: "Does {words} hold?"'
    study.write_text(re.sub(r"^question: .*\n(?:  .*\n)*", lambda _: f"{asked}\n", study.read_text(), flags=re.MULTILINE))
    with pytest.MonkeyPatch.context() as patch:
        be_canary(patch, root)
        again(copy)
    paper = copy / "paper"
    main = (paper / "main.tex").read_text().replace(r"\author{Anonymous authors}", rf"\author{{Jane \textbf{{Canary}}\\ {MAIL}}}")
    (paper / "main.tex").write_text(main)
    (paper / "sections" / "acknowledgements.tex").write_text("We thank Professor Canary.")
    (paper / "sections" / "discussion.tex").write_text(
        f"See {escape(HOME)}. % by Canary, {MAIL}\nAsk {MAIL} at {HOST}.\n"
        rf"\def\icmlauthor#1#2{{}}\icmlauthor{{Jane}}{{canary}} \url{{https://github.com/canary-git/tool}} "
        rf"\url{{https://github.com/others/tool}} {COMMIT[:8]}"
    )
    (paper / "own.bib").write_text(
        f"@misc{{a, author = {{A}}, title = {{At {HOME}}}, year = {{2020}}, note = {{{MAIL}}}}}\n% mine\n"
    )
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
        assert not re.search(r"canary|jdoe|jane|c0ffee", text, re.IGNORECASE), name
        assert not traces(content, [USER, HOST]), name
    assert r"\author{Anonymous authors}" in files["paper/main.tex"].decode()
    warned = "\n".join(made.warnings)
    assert "'protocol'" in warned and "paper/own.bib has comments" in warned
    assert "paper/sections/discussion.tex has an address, not masked: https://github.com/others/tool" in made.warnings
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


@pytest.mark.parametrize(
    ("tex", "made"),
    [
        (r"\icmlauthor{Jane {D}}{lab,eq} x", r"\icmlauthor{Anonymous authors}{anonymised} x"),
        (r"\icmlaffiliation{lab} {Lab, Town}", r"\icmlaffiliation{anonymised}{anonymised}"),
        (r"\icmlcorrespondingauthor{Jane}{j@x.org}", r"\icmlcorrespondingauthor{anonymised}{anonymised}"),
        (r"\affil[1,2]{Lab}", r"\affil{anonymised}"),
        (r"\affiliation{\institution{Lab}\city{T}}", r"\affiliation{anonymised}"),
        (r"\institute{A \and B}", r"\institute{anonymised}"),
        (r"\title{T\thanks{By a grant}}\email{x}", r"\title{T\thanks{anonymised}}\email{anonymised}"),
        (r"\authorship{x} \emailing{y}", r"\authorship{x} \emailing{y}"),
    ],
)
def test_every_command_that_names_authors(tex: str, made: str) -> None:
    assert without_authors(tex) == made


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/jdoe-canary/tool", "git@gitlab.com:JDoe_Canary/tool.git", "hf.co/jdoe_canary/model",
        "https://huggingface.co/datasets/jdoe_canary/set/tree/main", "https://jdoe-canary.github.io/project",
        "https://raw.githubusercontent.com/jdoe_canary/tool/main/x.py",
    ],
)  # fmt: skip
def test_own_repositories_are_masked_and_others_are_listed(address: str) -> None:
    other = re.sub("jdoe.canary", "somebody", address, flags=re.IGNORECASE)
    for form in (str, escape, breakable):
        text, kinds = mask(f"see {form(address)}, or", [USER])
        assert (text, kinds) == ("see anonymised-repository, or", ["repository"])
        assert [a.replace("git@", "") for a in repositories(f"see {form(other)}, or")] == [other.replace("git@", "")]


def test_names_of_a_hub() -> None:
    found = hub_names({"backbone": "timm/vit", "x": ["jdoe-canary/own", "a/b.json", "and/or so", "1/2", {"hf:me/data": None}]})
    assert found == {"timm/vit", "jdoe-canary/own", "hf:me/data"}
    assert owned(found, [USER]) == ["jdoe-canary/own"]


def test_comments_that_stay() -> None:
    assert has_comments("% mine\n@misc{a,}", ".bib") and has_comments("x % by me", ".sty")
    assert not has_comments("% YOURS: written once\n@misc{a, url = {x%20y}}", ".bib") and not has_comments("x%\n", ".sty")
