"""Pages of the documentation that are made from records."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from peftlab.analysis.analyze import analyze, read_findings
from peftlab.analysis.words import show
from peftlab.records.environment import environment
from peftlab.records.record import to_json
from tests.report.fixtures import write_results
from tests.report.layers import write_layers

PATH = Path(__file__).parents[1] / "tools" / "study_page.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("results"))
    write_layers(folder)
    for path in folder.glob("runs/*/*/environment.json"):
        path.write_text(to_json(environment()), encoding="utf-8")
    analyze(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    spec = importlib.util.spec_from_file_location("study_page", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page(folder, ["pareto"])


def test_every_arm_and_its_mean_are_on_the_page(folder: Path, page: str) -> None:
    for arm in read_findings(folder).arms:
        assert f"| {arm.label} | {arm.n} | {show(arm.mean, 'accuracy')}" in page


def test_what_was_not_found_is_said_with_its_interval(folder: Path, page: str) -> None:
    findings = read_findings(folder)
    section = page.split("## What was not found")[1].split("\n## ")[0]
    for found in findings.of("difference"):
        assert (f"| {found.arms[0]} |" in section) == (found.verdict == "no difference shown")
    assert findings.of("power")[0].sentence in section


def test_adaptive_arms_and_their_ranks_are_on_the_page(page: str) -> None:
    assert "## Adaptive against fixed ranks" in page and " at most)" in page
    assert "## Who got the rank" in page and "## Which layers matter" in page
