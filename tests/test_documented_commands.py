"""What the pages tell a reader to type can be typed, and what they name is there.

README and the first study are typed, in their order, in a folder of their own: verbs that only read results on made-up ones in
the fast tests; the slow test trains, with fewer seeds, arms and steps. ``tests/test_guides.py`` types the guides. Of all pages
every command line of peftlab is read by the program's own parser, and every study or part of one as ``plan`` reads it before it
looks at data. ``make`` and what it installs are run by ``.ci/run``.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from peftlab import cli
from peftlab.planning.arms import of_arm
from peftlab.registry import components, create
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.study.plain_yaml import parse_yaml
from peftlab.study.schema import Arm, Study
from tests.documented import NAMES, ROOT, commands, fences, is_there, misread, options, paths, scripts_options
from tests.report.fixtures import STUDY, Options, write_results

PAGES = {"README.md": "my-first", "docs/first-study.md": "digits"}  #: page -> the study whose results it reads
TRAINS = {"plan", "check", "run"}  #: verbs that load torch
#: what makes a study of the pages short, and leaves enough to compare
SHORT = ["--set", "seeds=[0, 1]", "--set", "train.max_steps=4", "--set", "task.train_size=100"]
FEW = ["--only", "full", "--only", "probe"]
#: options of other programs that pages name by themselves: Ray's, the program's that came before, and those of every verb
OTHERS = {"--dashboard-host", "--mode", "--validate-only", "--max-experiments", "--output-dir", "--debug", "--help", "--version"}
#: what stands around a part of a study; its arms are those that parts name as their baseline or budget
AROUND = """
study: part
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits}
seeds: [0, 1, 2, 3, 4]
arms: {full: {adapter: full}, fixed: {adapter: lora}}
analysis: {baseline: full}
"""


def typed(page: str) -> list[list[str]]:
    """The words after ``peftlab`` of every command on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shells = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.split(" #")[0].strip() for shell in shells for line in shell.splitlines()]
    commands = [shlex.split(line) for line in lines if line]
    assert {words[0] for words in commands} <= {"make", "peftlab"}, "something else is typed, which nothing here runs"
    return [words[1:] for words in commands if words[0] == "peftlab"]


@pytest.mark.parametrize("page", PAGES)
def test_what_reads_results_works_as_written(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_results(tmp_path / "results", Options(study={**STUDY, "study": PAGES[page]}))
    monkeypatch.chdir(tmp_path)
    commands = [words for words in typed(page) if words[0] not in TRAINS]
    assert {"status", "choose"} <= {words[0] for words in commands}
    for words in commands:
        if words[0] in ("verify", "report"):  # made-up records have no hashes, and a report takes long: the slow test has both
            continue
        monkeypatch.setattr(sys, "argv", ["peftlab", *words])
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, f"{page}: peftlab {shlex.join(words)}\n{capsys.readouterr().err}"
        assert capsys.readouterr().out.strip(), f"{page}: peftlab {shlex.join(words)} says nothing"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_newcomer_can_type_the_page_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    for words in typed(page):
        short = [*SHORT, *FEW] if words[0] in TRAINS else []
        command = [sys.executable, "-m", "peftlab", *words, *short]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}: peftlab {shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "results" / PAGES[page] / "report" / "index.html").is_file()


@pytest.fixture(scope="module")
def program() -> Any:
    """The command line as its parser sees it."""
    return typer.main.get_command(cli.app)


@pytest.mark.parametrize("page", NAMES)
def test_every_command_line_is_one_that_the_program_takes(page: str, program: Any) -> None:
    wrong = [(words, said) for words, typed in commands(ROOT / page) if (said := misread(program, words, typed))]
    assert not wrong


def test_a_command_line_that_is_wrong_is_seen(program: Any) -> None:
    assert misread(program, ["rum", "s.yaml"], typed=False)
    assert misread(program, ["run", "s.yaml", "--job", "2"], typed=False)
    assert misread(program, ["run", "s.yaml", "--jobs", "two"], typed=False)
    assert misread(program, ["export", "results/s", "lora"], typed=True)
    assert not misread(program, ["export", "--merged"], typed=False)
    assert sum(1 for page in NAMES for _ in commands(ROOT / page)) > 150


@pytest.mark.parametrize("page", NAMES)
def test_every_option_in_a_sentence_is_one_of_ours(page: str, program: Any) -> None:
    """Of a verb, or of a script of the repository."""
    verbs = {option for verb in program.commands.values() for one in verb.params for option in [*one.opts, *one.secondary_opts]}
    wrong = [option for option in options(ROOT / page) if option not in verbs | scripts_options() | OTHERS]
    assert not wrong


def studies_of(page: str) -> list[dict[str, Any]]:
    """Its studies, and its parts of studies with what they lack around them."""
    found = []
    for block in fences(ROOT / page, "yaml"):
        part = parse_yaml(block, where=page)
        if "study" in part:
            found.append(part)
        elif part.keys() & Study.model_fields.keys():
            around = parse_yaml(AROUND)
            arms = {**part["arms"], **around["arms"]} if "arms" in part else around["arms"]
            found.append({**around, **part, "arms": arms})
        elif part.keys() & Arm.model_fields.keys():
            found.append({**parse_yaml(AROUND), "arms": {"mine": {"adapter": "lora", **part}}})
    return found


@pytest.mark.parametrize("page", [name for name in NAMES if fences(ROOT / name, "yaml")])
def test_every_study_and_part_of_one_can_be_read(page: str) -> None:
    """Keys, values, and the options of what they name, as far as neither data nor a backbone is needed."""
    for raw in studies_of(page):
        study = validate_study(raw, where=page)
        for cell in cells(study):
            create("task", cell.task, key="kind", where="task")
            with of_arm(cell):
                create("adapter", cell.adapter, where="adapter")
                create("quantizer", cell.quantizer, where="quantizer")
                if cell.allocator:
                    create("allocator", cell.allocator, where="allocator")
        for name, given in study.probes.items():
            create("probe", {"name": name, **given}, where="probes")
        for tracker in study.trackers:
            create("tracker", tracker, where="trackers")


@pytest.mark.parametrize("page", NAMES)
def test_every_path_that_is_named_is_there(page: str) -> None:
    wrong = [name for name in paths(ROOT / page) if not is_there(name, ROOT / page)]
    assert not wrong


def test_a_path_that_is_wrong_is_seen() -> None:
    page = ROOT / "README.md"
    assert not is_there("studies/digit.yaml", page) and not is_there("tests/test_nothing.py", page)
    assert is_there("studies/NAME.yaml", page) and is_there("nn/last_block.py", page)


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("backbone", "components.md"),
        ("adapter", "components.md"),
        ("allocator", "components.md"),
        ("allocator", "rank-allocation.md"),
        ("importance", "rank-allocation.md"),
        ("quantizer", "components.md"),
        ("data", "components.md"),
        ("text", "texts.md"),
        ("tracker", "trackers.md"),
        ("figure", "gallery.md"),
    ],
)
def test_every_component_is_named_on_its_page(kind: str, page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert not [name for name in components(kind) if not re.search(rf"[`/{{ ]{re.escape(name)}\b", text)]


def test_results_on_pages_are_shown_as_the_program_shows_them() -> None:
    """Accuracies in the terminal's table are in %; a page that has them as shares of one was printed by an older program."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    tables = [
        (page.name, table)
        for page in pages
        for table in re.findall(r"^ arm +n +accuracy, 95% interval.*\n(?:.+\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert tables
    assert not [(page, table) for page, table in tables if re.search(r"\b0\.\d+ \[", table)]
