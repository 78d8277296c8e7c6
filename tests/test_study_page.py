"""Pages of the documentation that are made from records."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.analyze import analyze, read_findings
from peftlab.analysis.words import show
from peftlab.records.environment import environment
from peftlab.records.record import to_json
from tests.report.fixtures import write_results
from tests.report.gradients import write_gradients
from tests.report.layers import write_layers
from tests.report.quantized import write_quantized

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
    return made().page(folder, ["pareto"])


def made() -> Any:
    """The tool, as a module."""
    spec = importlib.util.spec_from_file_location("study_page", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_arm_and_its_mean_are_on_the_page(folder: Path, page: str) -> None:
    for arm in read_findings(folder).arms:
        assert f"| {arm.label} | {arm.n} | {show(arm.mean, 'accuracy')}" in page


@pytest.mark.parametrize(("name", "said"), [("sst2-cpu", True), ("digits", False), ("of-no-file", False)])
def test_a_study_whose_data_no_clone_has_says_so(name: str, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PATH.parents[1])
    lines = made()._from_elsewhere(name)
    assert bool(lines) is said
    published = Path("docs/studies", f"{name}.md")
    assert not lines or f"- {lines[0]}\n" in published.read_text(encoding="utf-8")


def test_what_was_not_found_is_said_with_its_interval(folder: Path, page: str) -> None:
    findings = read_findings(folder)
    section = page.split("## What was not found")[1].split("\n## ")[0]
    for found in findings.of("difference"):
        assert (f"| {found.arms[0]} |" in section) == (found.verdict == "no difference shown")
    assert findings.of("power")[0].sentence in section


def test_adaptive_arms_and_their_ranks_are_on_the_page(page: str) -> None:
    assert "## Adaptive against fixed ranks" in page and " at most)" in page
    assert "## Who got the rank" in page and "## Which layers matter" in page


def test_what_quantizing_changed_and_how_gradients_went_is_on_the_page(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path)
    write_gradients(folder, {"lora2-nf4": 0.1, "lora2-float": 0.2})
    for path in folder.glob("runs/*/*/environment.json"):
        path.write_text(to_json(environment()), encoding="utf-8")
    analyze(folder)
    shown = made().page(folder, [])
    for name, heading in (("quantization", "Quantized against float"), ("gradient_flow", "Gradients")):
        said = json.loads((folder / "analysis" / f"{name}.json").read_text())["sentences"]
        section = shown.split(f"## {heading}\n")[1].split("\n## ")[0]
        assert said and all(f"- {sentence}" in section for sentence in said)
