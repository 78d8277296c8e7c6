"""Every figure, without naming one: it draws from the fixture, twice the same pixels, and survives thin data."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

from peftlab.analysis.assess import assess
from peftlab.analysis.assess_quantization import assess_quantization
from peftlab.analysis.frame import load_frame
from peftlab.analysis.reading import read_study
from peftlab.registry import components
from peftlab.report.bundle import bundles
from peftlab.report.drawing import luminance, wants_light
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import MARKERS, PALETTE, looks, save, settle, style, thousands
from peftlab.report.svg import FEW, inline_svg
from tests.report.diagnostics import write_diagnostics
from tests.report.fixtures import STUDY, Options, write_results
from tests.report.gradients import write_gradients
from tests.report.layers import write_layers
from tests.report.quantized import write_quantized

BUNDLED = (
    "curves",
    "layers",
    "gradients",
    "quantization",
    "diagnostics",
    "baseline",
)  #: needs that are parts of the bundle, not fields of its arms
FIGURES = [cls for cls in components("figure").values() if issubclass(cls, Figure)]


def bundle_of(folder: Path) -> Bundle:
    frame = load_frame(folder)
    drawn = bundles(frame, assess(frame))[0]
    assert drawn.compared is not None
    light = [r.model_copy(update={"deployed_mb": 0.2}) if r.arm == "lora-all" else r for r in drawn.compared.resources]
    drawn = dataclasses.replace(drawn, compared=drawn.compared.model_copy(update={"resources": light}))
    other = folder.parent / "beside" / "quantized"  # arms that the other figures do without
    return dataclasses.replace(
        drawn, quantization=assess_quantization(load_frame(other)).quantization if other.exists() else None
    )


def recorded(folder: Path) -> Path:
    """The same folder, with what probes record."""
    write_layers(folder)
    write_gradients(folder)
    write_diagnostics(folder)
    write_quantized(folder.parent / "beside", seeds=tuple(read_study(folder).seeds))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(recorded(write_results(tmp_path_factory.mktemp("results"))))


def pixels(figure: Figure, bundle: Bundle) -> np.ndarray:
    with style():
        canvas = FigureCanvasAgg(figure.draw(bundle))
        canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def test_the_figures_asked_for_are_there() -> None:
    asked = """accuracy_vs_parameters training_curves pareto pareto_deployed memory_reduction quantization_savings
    method_comparison importance_map quantization_map ranks_over_time rank_convergence resources memory ablation_forest
    correlation seed_values    gradient_flow spectra critical_difference performance_profiles"""
    assert set(asked.split()) <= {cls.name for cls in FIGURES}


@pytest.mark.parametrize("cls", FIGURES, ids=lambda c: c.name)
def test_same_input_same_pixels(cls: type[Figure], bundle: Bundle) -> None:
    assert cls().absent(bundle) == ""
    assert re.search(r"\bn (=|above)|\d seeds", cls().caption(bundle))  # it says how many runs stand behind it
    first = pixels(cls(), bundle)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):  # a user's own settings change nothing
        second = pixels(cls(), bundle)
    assert (first == second).all()
    assert len(np.unique(first.reshape(-1, 4), axis=0)) > 20  # something is drawn


@pytest.mark.parametrize("cls", FIGURES, ids=lambda c: c.name)
def test_saved_files_are_the_same_bytes(
    cls: type[Figure], bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = []
    for name in ("a", "b"):
        with style():
            figure = settle(cls().draw(bundle))
        assert figure.get_layout_engine() is None  # any other, a place holder too, has all drawn twice at each saving
        svg = inline_svg(figure, cls.name, cls().caption(bundle)).encode()
        files = save(figure, tmp_path / name / cls.name, eps=True)
        contents.append([svg, *(p.read_bytes() for p in files)])
    assert contents[0] == contents[1]
    _, pdf, png, eps = contents[0]
    assert pdf.startswith(b"%PDF") and eps.startswith(b"%!PS-Adobe-3.0 EPSF") and b"%%BoundingBox" in eps
    assert "transparency" not in caplog.text
    with Image.open(io.BytesIO(png)) as image:
        assert image.size[0] == pytest.approx(300 * figure.get_figwidth(), abs=1)
        assert image.info["dpi"][0] == pytest.approx(300, abs=0.5)


def test_eps_states_the_box_of_its_font(tmp_path: Path) -> None:
    """To a unit, of 2048 to the letter's height, what matplotlib finds by outlining every letter of the font."""
    from fontTools.ttLib import TTFont
    from matplotlib.backends.backend_ps import _bounds
    from matplotlib.font_manager import findfont

    with style():
        figure = Canvas()
        figure.text(0.5, 0.5, "letters")
        outlined = _bounds(TTFont(findfont("DejaVu Sans")))
    *_, eps = save(figure, tmp_path / "letters", eps=True)
    stated = re.findall(r"/FontBBox \[(.*?)\]", eps.read_text(encoding="latin-1"))
    assert len(stated) == 1 and [float(n) for n in stated[0].split()] == pytest.approx(outlined, abs=1)


@pytest.fixture(
    scope="module",
    params=[
        {"study": {**STUDY, "seeds": [0]}},
        {"study": {**STUDY, "analysis": {"metric": "accuracy"}}},
        {"study": {**STUDY, "analysis": {"metric": "loss", "baseline": "full"}}},
        {"diverged": tuple(("full", seed) for seed in range(5))},
        {"skip": tuple(("full", seed) for seed in range(5))},
    ],
    ids=["one seed", "no baseline", "loss", "baseline diverged", "baseline missing"],
)
def thin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = Options(**{"failed": (), "diverged": (), **request.param})
    return bundle_of(recorded(write_results(tmp_path_factory.mktemp("thin"), options)))


@pytest.mark.parametrize("cls", FIGURES, ids=lambda c: c.name)
def test_thin_data(cls: type[Figure], thin: Bundle) -> None:
    if reason := cls().absent(thin):
        few = len(thin.findings.pairs) == 1  # one seed: nothing is said of layers, nothing ranked, no profile
        lost = thin.baseline is None or thin.baseline.mean is None  # nothing to compare with
        assert few or (lost and "baseline" in cls().needs()), reason
        return
    assert pixels(cls(), thin).size
    assert cls().caption(thin)


@pytest.mark.parametrize("cls", FIGURES, ids=lambda c: c.name)
def test_what_is_needed_and_absent_is_said(cls: type[Figure], bundle: Bundle) -> None:
    fields = (need for need in cls().needs() if need not in BUNDLED and "." not in need)
    empty: dict[str, Any] = dict.fromkeys(fields)
    arms = [arm.model_copy(update=empty) for arm in bundle.arms]
    bare = dataclasses.replace(
        bundle, arms=arms, curves=bundle.curves.iloc[:0], layers=None, ranks=None, gradients=None, quantization=None,
        diagnostics=None, compared=None,
    )  # fmt: skip
    assert "no " in cls().absent(bare)


@pytest.mark.parametrize("cls", FIGURES, ids=lambda c: c.name)
def test_no_label_of_an_axis_is_cut_off(cls: type[Figure], bundle: Bundle) -> None:
    with style():
        figure = settle(cls().draw(bundle))
        canvas = FigureCanvasAgg(figure)
        whole = figure.bbox
        for label in (text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label) if text.get_text()):
            box = label.get_window_extent(canvas.get_renderer())
            inside = box.x0 >= whole.x0 - 1 and box.y0 >= whole.y0 - 1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1
            assert inside, f"{label.get_text()!r} at {box} of {whole}"


@pytest.mark.parametrize("size", [(2.0, 1.0), (3.0, 2.0), (5.5, 3.0)])
def test_a_figure_without_room_for_its_labels_is_drawn_all_the_same(size: tuple[float, float]) -> None:
    with style():
        figure = Canvas(figsize=size, layout="constrained")
        for axes in figure.subplots(2, 2).ravel():
            axes.set_xlabel("a label that is longer than there is room " * 3)
            axes.set_ylabel("and another one " * 6)
        assert settle(figure).get_layout_engine() is None


def test_gradients_of_the_blocks_of_drawn_arms_only(bundle: Bundle) -> None:
    """A seventh arm, deeper than those that have a panel, is named in the caption and changes no panel."""
    assert bundle.gradients is not None
    one = bundle.gradients[bundle.gradients["arm"] == "lora-all"]
    labels = [arm.label for arm in bundle.arms]
    assert len(labels) > 6
    tables = [one.assign(arm=label) for label in labels[:6]]
    deep = one.assign(arm=labels[6], block=one["block"] + 100)
    figure = next(cls for cls in FIGURES if cls.name == "gradient_flow")()
    six, seven = (dataclasses.replace(bundle, gradients=pd.concat(these)) for these in (tables, [*tables, deep]))
    assert np.array_equal(pixels(figure, six), pixels(figure, seven))
    assert "Not drawn" not in figure.caption(six)
    assert figure.caption(seven) == figure.caption(six) + " Not drawn, in analysis/gradient_flow.csv: 1 arm."


def test_ranks_of_all_arms_lie_within_the_axis_they_share(bundle: Bundle) -> None:
    assert bundle.ranks is not None
    grown = bundle.ranks.assign(arm="lora-all", rank=10 * bundle.ranks["rank"])
    figure = next(cls for cls in FIGURES if cls.name == "ranks_over_time")()
    with style():
        canvas = figure.draw(dataclasses.replace(bundle, ranks=pd.concat([bundle.ranks, grown])))
    highest = max(np.max(line.get_ydata()) for axes in canvas.axes for line in axes.lines)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert canvas.axes[0].get_ylim()[1] >= highest > 10


def test_hostile_names_are_drawn_as_text(bundle: Bundle) -> None:
    evil = '$\\frac{<img src=x onerror="alert(1)">'
    arms = [bundle.arms[0].model_copy(update={"label": evil}), *bundle.arms[1:]]
    runs = bundle.runs.replace({"label": {bundle.arms[0].label: evil}})
    figure = next(cls for cls in FIGURES if cls.name == "memory")()
    with style():
        svg = inline_svg(figure.draw(dataclasses.replace(bundle, arms=arms, runs=runs)), "memory", evil)
    assert "<img" not in svg and "&lt;img" in svg


@pytest.mark.parametrize("cls", FIGURES, ids=lambda c: c.name)
def test_lines_can_be_seen_on_a_dark_page(cls: type[Figure], bundle: Bundle) -> None:
    """Every stroke has the page's own colour or a contrast of 3 to the page's dark cards, or the figure keeps a light ground."""
    with style():
        canvas = settle(cls().draw(bundle))
    strokes = set(re.findall(r"stroke:\s*(#[0-9a-f]{6})", inline_svg(canvas, cls.name, "words")))
    unseen = [color for color in strokes if (luminance(color) + 0.05) / (luminance("#1b1f25") + 0.05) < 3]
    assert wants_light(canvas) or unseen == []


@pytest.mark.parametrize("cls", FIGURES, ids=lambda c: c.name)
def test_every_class_has_a_rule_and_every_rule_is_used(cls: type[Figure], bundle: Bundle) -> None:
    with style():
        canvas = settle(cls().draw(bundle))
    svg = inline_svg(canvas, cls.name, "words")
    ElementTree.fromstring(svg)  # well formed
    named, used = set(re.findall(r"svg\.figure \.([\w-]+)\{", svg)), re.findall(r' class="([^"]*)"', svg)
    assert used[0] == "figure" and set(used[1:]) == named
    assert all(used.count(name) > FEW for name in named)


def test_luminance() -> None:
    assert (luminance("#ffffff") + 0.05) / (luminance("#000000") + 0.05) == pytest.approx(21)
    assert (luminance("#ffffff") + 0.05) / (luminance("#767676") + 0.05) == pytest.approx(4.54, abs=0.01)  # WCAG 2's own example


def test_every_arm_has_its_own_look() -> None:
    labels = [f"arm-{i}" for i in range(12)]
    found = looks(labels, labels)
    assert len({(k.color, k.marker) for k in found.values()}) == 12
    assert not set(PALETTE) & {"#000000", "#FFFFFF"} and len(set(MARKERS)) == len(MARKERS)
    many = looks([f"lora[rank={i}]" for i in range(30)], ["lora"] * 30)
    assert {k.legend for k in many.values()} == {"lora"}


@pytest.mark.parametrize(("value", "text"), [(970, "970"), (12_000, "12k"), (1_500_000, "1.5M"), (7e9, "7B")])
def test_thousands(value: float, text: str) -> None:
    assert thousands(value) == text


def test_half_written_curves_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    path = next((folder / "runs" / "full").glob("*/metrics.jsonl"))
    before = len(bundle_of(folder).curves)
    path.write_text(path.read_text()[:-30] + "\n[1]\nnot json\n")
    assert len(bundle_of(folder).curves) == before - 1
