"""Seeds in pairs: the pairs are those of the findings, the numbers what scipy makes of them, and all stays readable."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import sem, ttest_rel

from peftlab.report.figures.contract import Bundle
from peftlab.report.figures.paired_seeds import MOST, PairedSeeds, rows_of
from peftlab.report.style import settle, style
from tests.report.fixtures import STUDY, Options
from tests.report.look import bundle_of, crowded


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Six arms over five seeds, one of which failed in one arm and diverged in another."""
    return bundle_of(Options(), tmp_path_factory.mktemp("pairs"))


def drawn(bundle: Bundle) -> FigureCanvasAgg:
    with style():
        canvas = FigureCanvasAgg(settle(PairedSeeds().draw(bundle)))
        canvas.draw()
    return canvas


def test_the_interval_drawn_is_that_of_the_pairs_drawn(bundle: Bundle) -> None:
    rows = rows_of(bundle)
    assert [len(row.pairs) for row in rows] == [5, 4, 5, 5, 5, 5]
    for row in rows:
        expected = ttest_rel([p.arm for p in row.pairs], [p.baseline for p in row.pairs]).confidence_interval(0.95)
        assert row.finding.interval == pytest.approx((expected.low, expected.high))
    assert [row.label for row in rows if any(p.diverged for p in row.pairs)] == ["lora[rank=32]"]


def test_what_pairing_saves_is_the_ratio_of_standard_errors(bundle: Bundle) -> None:
    for row in rows_of(bundle):
        sound = [p for p in row.pairs if not p.diverged]
        alone = math.hypot(sem([p.arm for p in sound]), sem([p.baseline for p in sound]))
        assert row.gain == pytest.approx(alone / sem([p.difference for p in sound]))


def test_the_seed_named_moves_the_mean_most(bundle: Bundle) -> None:
    for row in rows_of(bundle):
        differences = [p.difference for p in row.pairs]
        mean = sum(differences) / len(differences)
        moves = [abs((sum(differences) - d) / (len(differences) - 1) - mean) for d in differences]
        assert row.driver is row.pairs[moves.index(max(moves))]
    diverged = next(row for row in rows_of(bundle) if row.label == "lora[rank=32]")
    assert diverged.driver is not None and diverged.driver.diverged and diverged.driver.seed == "4"


def test_a_diverged_run_stands_at_the_edge_and_hides_nothing(bundle: Bundle) -> None:
    left, right = drawn(bundle).figure.axes
    assert left.get_xlim()[0] > 0.9  # the diverged run counts as 0.1
    edge = [line for line in left.lines if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in edge] == [left.get_xlim()[0]]  # pyright: ignore[reportIndexIssue]
    assert {"<", ">"} <= {str(line.get_marker()) for line in right.lines}  # its interval goes on
    assert "Crosses at the edge: runs that diverged, counted at chance level." in PairedSeeds().caption(bundle)


@pytest.mark.parametrize(("arms", "seeds"), [(1, 1), (1, 15), (12, 15), (MOST + 2, 2)])
def test_few_and_many_arms_and_seeds(arms: int, seeds: int, tmp_path: Path) -> None:
    options = crowded(arms, seeds)
    many = bundle_of(dataclasses.replace(options, failed=(), diverged=()), tmp_path)
    canvas = drawn(many)
    left, right = canvas.figure.axes
    shown = min(arms, MOST)
    assert sum(len(line.get_xdata()) == 2 and line.get_clip_on() for line in left.lines) == shown * (seeds + 1) - 1  # pyright: ignore[reportArgumentType]
    words = [text for text in (*left.get_yticklabels(), *right.texts) if text.get_text()]
    assert sum(text.get_text().startswith("seed ") for text in words) == (shown if seeds > 2 else 0)
    whole = canvas.figure.bbox
    boxes = [text.get_window_extent() for text in words]
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 for box in boxes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])
    assert (f"The first {MOST} of {arms}" in PairedSeeds().caption(many)) == (arms > MOST)
    assert ("–" in [text.get_text() for text in right.texts]) == (seeds == 1)  # one seed: nothing is said of pairing


def test_folds_are_pairs_of_their_own(tmp_path: Path) -> None:
    options = Options(study={**STUDY, "seeds": [0, 1], "task": {**STUDY["task"], "folds": 3}}, folds=3, failed=(), diverged=())
    rows = rows_of(bundle_of(options, tmp_path))
    assert [p.seed for p in rows[0].pairs] == [f"{seed}, fold {fold}" for seed in (0, 1) for fold in range(3)]


def test_without_a_common_seed_there_is_nothing_to_draw(tmp_path: Path) -> None:
    apart = tuple((label, 0) for label in ("linear-probe", "bitfit", "lora[rank=2]", "lora[rank=8]", "lora[rank=32]", "lora-all"))
    options = Options(study={**STUDY, "seeds": [0, 1]}, failed=(), diverged=(), skip=(*apart, ("full", 1)))
    assert PairedSeeds().absent(bundle_of(options, tmp_path)) == "no arm shares a seed with the baseline"
