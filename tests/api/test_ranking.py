"""choose --ranks as a person and a script meet it; what it prints is an allocator that fits."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import peftlab
from peftlab import registry
from peftlab.api.ranking import parse_budget
from peftlab.cli import app
from peftlab.errors import StudyError
from peftlab.nn.roles import Site
from peftlab.study.load import parse_yaml
from tests.report.fixtures import Options, write_results
from tests.report.layers import SITES, write_layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("results"), Options(failed=(), diverged=()))
    write_layers(folder)
    return folder


def text(answer) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(answer.table())
    return stream.getvalue()


def test_what_is_printed_can_be_pasted(folder: Path) -> None:
    answer = peftlab.choose_ranks(folder, budget="ranks 144")
    shown = text(answer)
    assert "agree on the order of the modules" in shown and "run the pattern beside" in shown
    pasted = parse_yaml(shown[shown.index("allocator:") :])
    assert pasted == {"allocator": answer.as_dict()["allocator"]}
    ranks = registry.create("allocator", pasted["allocator"]).initial([Site(name=n, **a) for n, a in SITES.items()], 4)
    assert ranks == answer["ranks"] and sum(ranks.values()) == 144


def test_without_support_uniform_is_printed(folder: Path) -> None:
    shown = text(peftlab.choose_ranks(folder, arm="lora-all"))
    assert "No pattern is supported" in shown and shown.rstrip().endswith("allocator: uniform")


@pytest.mark.parametrize("words", ["64 ranks", "ranks 64", "ranks: 64"])
def test_budgets(words: str) -> None:
    assert parse_budget(words) == ("ranks", 64)
    assert parse_budget("73,728 parameters") == ("parameters", 73_728)


@pytest.mark.parametrize("words", ["64", "ranks", "6.4 ranks", "-4 ranks", "64 bits", "1 2 ranks"])
def test_what_is_no_budget(words: str) -> None:
    with pytest.raises(StudyError, match="no budget"):
        parse_budget(words)


def test_command_line(folder: Path) -> None:
    run = CliRunner().invoke
    assert '"supported": true' in run(app, ["choose", str(folder), "--ranks", "--json"]).stdout
    assert run(app, ["choose", str(folder), "--arm", "lora"]).exception.exit_code == 2  # pyright: ignore
    assert run(app, ["choose", str(folder), "--ranks", "--memory", "8GB"]).exception.exit_code == 2  # pyright: ignore
