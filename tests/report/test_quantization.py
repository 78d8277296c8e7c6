"""The section on quantized arms: there where there are some, its numbers those of the findings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from peftlab.analysis.assess import assess
from peftlab.analysis.frame import load_frame
from peftlab.analysis.words import significant
from peftlab.report.build import build_report
from peftlab.report.bundle import bundles
from peftlab.report.figures.quantization_map import QuantizationMap
from tests.report.fixtures import write_results
from tests.report.quantized import RANKS, SCHEMES, write_quantized


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_quantized(tmp_path_factory.mktemp("quantized"))
    build_report(folder)
    return folder


def section(folder: Path) -> str:
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    start = page.find('<section id="quantization"')
    return page[start : page.index("</section>", start)] if start >= 0 else ""


def test_every_scheme_stands_beside_every_adapter(folder: Path) -> None:
    text, said = section(folder), json.loads((folder / "analysis" / "quantization.json").read_text())
    assert len(said["cells"]) == len(RANKS) * len(SCHEMES) + 1
    for effect in said["effects"]:
        assert f'<th scope="row">{effect["arm"]}</th><td class="text">{effect["float_arm"]}</td>' in text
        assert f"{100 * effect['change']:+.2f}".replace("-", "−") in text
        assert f"{100 * effect['stored_saved']:.1f} %" in text
    assert text.count("<figure") == 3
    figures = [folder / "report" / "figures" / f"quantization_{name}.png" for name in ("map", "savings", "history")]
    assert all(path.exists() for path in figures)


def test_the_schedule_and_published_figures_are_told(folder: Path) -> None:
    text, said = section(folder), json.loads((folder / "analysis" / "quantization.json").read_text())
    assert said["courses"] and said["weights_beside"] and said["elsewhere"]
    for course in said["courses"]:
        assert f'<th scope="row">{course["arm"]}</th><td class="text">{course["schedule"]}</td>' in text
        assert significant(course["balance_end"]["mean"], 2) in text
    assert "published: 16 bits" in text and "Weights beside published figures" in text
    assert "task differs" in text and "language-modeling" in text and "Table 2, mean perplexity by data type" in text
    assert "process, before and after converting (MB)" in text and "640 → 620" in text


def test_stars_stand_for_the_level_of_the_study(folder: Path) -> None:
    frame = load_frame(folder)
    bundle = bundles(frame, assess(frame))[0]
    assert bundle.quantization is not None and "p at most 0.05 after" in QuantizationMap().caption(bundle)
    lax = dataclasses.replace(bundle, quantization=bundle.quantization.model_copy(update={"confidence": 0.9}))
    assert "90 % interval" in QuantizationMap().caption(lax) and "p at most 0.1 after" in QuantizationMap().caption(lax)


def test_without_quantized_arms_there_is_no_section(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    build_report(folder)
    assert not section(folder)
    assert "#quantization" not in (folder / "report" / "index.html").read_text(encoding="utf-8")
