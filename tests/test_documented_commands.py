"""What README and the first-study page tell a newcomer to type is typed, in their order, in a folder of its own.

Verbs that only read results are run on made-up ones in the fast tests; the slow test trains, with fewer seeds, arms and steps.
``make`` and what it installs are run by ``.ci/run``.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peftlab import cli
from tests.report.fixtures import STUDY, Options, write_results

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "my-first", "docs/first-study.md": "digits"}  #: page -> the study whose results it reads
TRAINS = {"plan", "check", "run"}  #: verbs that load torch
#: what makes a study of the pages short, and leaves enough to compare
SHORT = ["--set", "seeds=[0, 1]", "--set", "train.max_steps=4", "--set", "task.train_size=100"]
FEW = ["--only", "full", "--only", "probe"]


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
