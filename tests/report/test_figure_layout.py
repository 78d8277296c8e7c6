"""What can be measured of a figure's look: no text leaves the picture, and none lies on another, with long names too."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import entries_below, even_ticks, log_counts, settle, style
from tests.report.fixtures import LEVELS, STUDY, Options, write_results
from tests.report.test_figures import FIGURES, bundle_of, recorded

LONG = {
    "full": "full-fine-tuning-of-everything",
    "linear-probe": "linear-probe-on-the-class-token",
    "bitfit": "bias-tuning-of-all-layers",
    "lora-all": "lora-on-every-linear-layer-there-is",
}


@pytest.fixture(scope="module", params=["short", "long"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = Options(failed=(), diverged=(), flags={})
    if request.param == "long":
        arms = {LONG.get(name, name): arm for name, arm in STUDY["arms"].items()}
        study = {**STUDY, "arms": arms, "analysis": {**STUDY["analysis"], "baseline": LONG["full"]}}
        levels = {LONG.get(name, name): level for name, level in LEVELS.items()}
        options = dataclasses.replace(options, study=study, levels=levels)
    return bundle_of(recorded(write_results(tmp_path_factory.mktemp(request.param), options)))


def written(figure: Canvas) -> list[tuple[str, Bbox]]:
    """Every text that is seen, with its place in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    found = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in (axes for axes in figure.axes if axes.get_visible()):
        found += axes.texts
        found += [title for place in ("left", "center", "right") if (title := _title(axes, place))]
        if axes.axison:
            found += [text for axis in (axes.xaxis, axes.yaxis) for text in (axis.label, *_ticks(axis))]
        if legend := axes.get_legend():
            found += legend.get_texts()
    return [
        (text.get_text(), text.get_window_extent(renderer)) for text in found if text.get_visible() and text.get_text().strip()
    ]


def _title(axes: object, place: str) -> Text | None:
    names = {"left": "_left_title", "center": "title", "right": "_right_title"}
    return getattr(axes, names[place], None)


def _ticks(axis: Axis) -> Iterator[Text]:
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks():
        if tick.get_visible() and low - 1e-9 <= tick.get_loc() <= high + 1e-9 and tick.label1.get_visible():
            yield tick.label1


def overlaps(found: list[tuple[str, Bbox]]) -> list[tuple[str, str]]:
    """Texts that lie on one another by more than a pixel and a half."""
    return [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(found, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1.5
    ]


def odd_steps(figure: Canvas) -> list[float]:
    """Steps at which some axis would have its ticks, were its values others, and in which nobody counts: 1.5, 3, 8."""
    found = []
    for axis in (axis for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)):
        locator = axis.get_major_locator()
        for span in (1.3, 2.7, 3.2, 6.1) if isinstance(locator, MaxNLocator) else ():
            first, second, *_ = locator.tick_values(0, span)
            step = (second - first) / 10 ** math.floor(math.log10(second - first))
            found += [] if any(step == pytest.approx(even) for even in (1, 2, 2.5, 5, 10)) else [step]
    return found


@pytest.mark.parametrize("cls", FIGURES, ids=lambda c: c.name)
def test_texts_stay_in_the_picture_and_apart(cls: type[Figure], bundle: Bundle) -> None:
    if cls().absent(bundle):
        pytest.skip("nothing to draw with these names")
    with style():
        figure = settle(cls().draw(bundle))
        found = written(figure)
    assert found
    whole = figure.bbox
    beyond = [
        text for text, b in found if b.x0 < whole.x0 - 1 or b.y0 < whole.y0 - 1 or b.x1 > whole.x1 + 1 or b.y1 > whole.y1 + 1
    ]
    assert beyond == []
    assert overlaps(found) == []
    assert odd_steps(figure) == []


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_no_line_goes_through_the_name_of_another(tmp_path: Path, metric: str) -> None:
    """The baseline's and the margin's, one per cent apart: the margin is the lower where higher is better, else the upper."""
    analysis = {"metric": metric, "baseline": "full", "margin": {"relative": 0.01}}
    options = Options(failed=(), diverged=(), flags={}, study={**STUDY, "analysis": analysis})
    bundle = bundle_of(recorded(write_results(tmp_path, options)))
    (cls,) = (cls for cls in FIGURES if cls.name == "accuracy_vs_parameters")
    with style():
        figure = settle(cls().draw(bundle))
        names = [box for text, box in written(figure) if text in ("full", "1 % margin") and box.height < figure.bbox.height / 2]
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(set(line.get_ydata())) == 1 and len(line.get_ydata()) == 2]
    heights = [float(axes.transData.transform((1, line.get_ydata()[0]))[1]) for line in lines]
    assert len(names) >= 2 and len(heights) >= 2
    named = [
        box for box in names if axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
    ]  # those beside the lines, not the legend's
    assert len(named) == 2
    assert [height for height in heights for box in named if box.y0 + 1 < height < box.y1 - 1] == []


def test_the_check_sees_an_overlap() -> None:
    with style():
        figure = Canvas(figsize=(3, 2))
        axes = figure.add_subplot()
        axes.set_xticks([0.5, 0.51], ["a longer name", "another one"])
        assert ("a longer name", "another one") in overlaps(written(figure))


def test_the_check_sees_an_odd_step() -> None:
    figure = Canvas()
    figure.add_subplot().xaxis.set_major_locator(MaxNLocator(4))
    assert odd_steps(figure) == pytest.approx([4, 8, 8])


@pytest.mark.parametrize(("low", "high"), [(30_000, 44_000), (970, 460_000), (4_042, 50_122), (8_960, 260_032), (5_000, 5_000)])
def test_counts_on_a_narrow_panel(low: float, high: float) -> None:
    with style():
        figure = Canvas(figsize=(2.4, 2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([low, high], [0, 1])
        log_counts(axes, [low, high])
        found = written(settle(figure))
    assert overlaps(found) == []


@pytest.mark.parametrize("span", [0.013, 0.8, 5.3, 37, 1040])
def test_steps_between_ticks_are_those_that_people_count_in(span: float) -> None:
    values = even_ticks(5).tick_values(0.1, 0.1 + span)
    step = float(f"{values[1] - values[0]:.6e}".split("e")[0])
    assert any(step == pytest.approx(even) for even in (1, 2, 5, 10))
    assert 2 <= len(values) <= 8


@pytest.mark.parametrize("count", [1, 2, 5, 7, 13, 21])
def test_rows_of_a_legend_are_as_equal_as_can_be(count: int) -> None:
    """Five entries of which four would fit side by side make rows of three and two, and no row of one."""
    with style():
        figure = Canvas(figsize=(5.5, 4), layout="constrained")
        figure.add_subplot()
        entries_below(figure, [Line2D([], [], label="lora[rank=8]") for _ in range(count)])
        boxes = [box for text, box in written(settle(figure)) if text.startswith("lora")]
    rows: dict[int, int] = {}
    for box in boxes:
        rows[round(box.y0)] = rows.get(round(box.y0), 0) + 1
    assert len(boxes) == count
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert max(rows.values()) - min(rows.values()) < len(rows) + 1
