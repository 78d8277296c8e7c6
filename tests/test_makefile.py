"""What make types for a person: folders keep the name that they were given."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (["figures", "DIR=my results/a study"], ["report", "my results/a study"]),
        (["tables", "DIR=my results/a study"], ["report", "my results/a study"]),
        (["paper", "DIR=my results/a study"], ["paper", "my results/a study"]),
        (["submission", "DIR=my results/a study"], ["paper", "my results/a study", "--submission"]),
        (["demo", "STUDY=my studies/a.yaml", "DEMO_OUTPUT=my results"], ["run", "my studies/a.yaml", "--output", "my results"]),
        (["paper", "DEMO_OUTPUT=my results"], ["paper", "my results/digits"]),
    ],
)
def test_a_folder_whose_name_has_spaces_is_one_word(typed: list[str], command: list[str]) -> None:
    told = ["make", "--no-print-directory", "--dry-run", "--assume-old=setup", *typed]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    last = shlex.split(done.stdout.strip().splitlines()[-1])
    assert Path(last[0]).name == "peftlab" and last[1:] == command
