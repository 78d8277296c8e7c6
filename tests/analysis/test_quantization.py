"""What quantized arms cost and save, against scipy, statsmodels' own formulas and sums written out."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from peftlab.analysis.anytime import p_two_sided
from peftlab.analysis.assess_quantization import QuantizationTables, _saved, assess_quantization
from peftlab.analysis.convergence import area, area_between, steps_to, target
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.interaction import slope, two_way
from peftlab.analysis.literature import literature
from peftlab.analysis.literature_weights import _differs
from peftlab.analysis.quantization_history import History
from peftlab.analysis.quantized import _Keys, quantized_runs
from peftlab.study.schema import Racing
from tests.report.fixtures import write_results
from tests.report.quantized import COSTS, HALF, LEVELS, PARAMETERS, RANKS, REST_BYTES, SCHEDULES, SCHEMES, arm, write_quantized

stats: Any = scipy.stats


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Frame:
    return load_frame(write_quantized(tmp_path_factory.mktemp("quantized")))


@pytest.fixture(scope="module")
def tables(frame: Frame) -> QuantizationTables:
    return assess_quantization(frame)


def values(frame: Frame) -> pd.DataFrame:
    return frame.values(*frame.settings[0])


def test_the_table_has_every_scheme_of_every_treatment(tables: QuantizationTables) -> None:
    cells = {(c.treatment, c.scheme): c for c in tables.quantization.cells}
    assert set(cells) == {(f"lora[rank={r}]", s) for r in RANKS for s in SCHEMES} | {("linear-probe", "float")}
    found = cells["lora[rank=2]", "nf4"]
    whole, stored = 4 * PARAMETERS + REST_BYTES, PARAMETERS * 4.5 / 8 + REST_BYTES
    assert found.times_smaller == pytest.approx(whole / stored)
    assert found.weight_error == pytest.approx(COSTS["nf4"][2], rel=0.05)
    assert found.prediction_error == pytest.approx(0.03)
    assert cells["lora[rank=2]", "float"].times_smaller is None


def test_in_a_race_no_test_takes_the_seeds_as_fixed(frame: Frame) -> None:
    raced = dataclasses.replace(frame, study=frame.study.model_copy(update={"search": Racing(method="racing")}))
    said, known = assess_quantization(raced).quantization, values(frame)
    assert len(said.effects) == 6 and not said.interactions and not said.two_way
    examples = float(frame.primary()["examples"].max())
    expected = [p_two_sided(known[e.arm] - known[e.float_arm], resolution=0.5 / examples) for e in said.effects]
    assert [e.p for e in said.effects] == pytest.approx(expected) and all(e.p_sign_flip is None for e in said.effects)
    assert [e.p_adjusted for e in said.effects] == pytest.approx(multipletests(expected, method="holm")[1])
    assert all(c.value is None or c.value.interval is None for c in said.cells) and "anytime-valid" in said.method[0]


def test_changes_are_paired_t_tests_with_holm(tables: QuantizationTables, frame: Frame) -> None:
    effects = tables.quantization.effects
    assert len(effects) == 6 and {e.family_size for e in effects} == {6}
    table = values(frame)
    expected = []
    for e in effects:
        mine, other = table[e.arm], table[e.float_arm]
        assert e.float_arm == arm("float", int(e.arm[4]))
        result = stats.ttest_rel(mine, other)
        low, high = result.confidence_interval(0.95)
        assert e.change == pytest.approx(float((mine - other).mean()))
        assert e.interval == pytest.approx((low, high))
        assert e.p == pytest.approx(result.pvalue)
        expected.append(result.pvalue)
    from statsmodels.stats.multitest import multipletests

    assert [e.p_adjusted for e in effects] == pytest.approx(multipletests(expected, method="holm")[1])


def test_memory_saved_is_a_ratio_without_the_process(tables: QuantizationTables, frame: Frame) -> None:
    effect = next(e for e in tables.quantization.effects if e.arm == arm("nf4", 8))

    def peaks(label: str) -> np.ndarray:
        rows = frame.primary()
        folders = rows[rows["label"] == label].sort_values("seed")["folder"]
        return np.array([json.loads((frame.folder / f / "memory.json").read_text())["measured_peak_mb"] - 600 for f in folders])

    assert effect.peak_saved is not None
    assert effect.peak_saved.mean == pytest.approx(1 - stats.gmean(peaks(effect.arm) / peaks(effect.float_arm)))
    assert effect.peak_saved.interval is not None and effect.peak_saved.interval[0] < effect.peak_saved.mean
    whole, stored = 4 * PARAMETERS + REST_BYTES, PARAMETERS * 4.5 / 8 + REST_BYTES
    assert effect.stored_saved == pytest.approx(1 - stored / whole)


def test_interaction_is_the_difference_of_differences(tables: QuantizationTables, frame: Frame) -> None:
    """With two ranks a factor of four apart the slope is half of it, and its test the paired t test."""
    table = values(frame)
    found = {i.scheme: i for i in tables.quantization.interactions}
    assert set(found) == set(SCHEMES) - {"float"}
    for scheme, interaction in found.items():
        low, high = ((table[arm(scheme, r)] - table[arm("float", r)]).to_numpy() for r in RANKS)
        assert interaction.slope == pytest.approx((high - low).mean() / 2)
        assert interaction.p == pytest.approx(stats.ttest_1samp(high - low, 0).pvalue)
    assert found["nf4"].slope > 0 and found["nf4"].n == 5


def test_two_by_two_analysis_of_variance_is_the_squared_t() -> None:
    values = np.random.default_rng(0).normal(size=(6, 2, 2))
    t = stats.ttest_1samp(values[:, 1, 1] - values[:, 1, 0] - values[:, 0, 1] + values[:, 0, 0], 0)
    test = two_way(values)
    assert test is not None and test.degrees == (1, 5)
    assert test.f == pytest.approx(t.statistic**2) and test.p == pytest.approx(t.pvalue)


def test_a_larger_design_against_sums_of_squares() -> None:
    y = np.random.default_rng(1).normal(size=(5, 3, 4)) + np.arange(12).reshape(3, 4) ** 1.5
    n, r, q = y.shape
    cells = y.mean(0)
    part = cells - cells.mean(1, keepdims=True) - cells.mean(0) + cells.mean()
    between = n * (part**2).sum()
    rest = y - y.mean((1, 2), keepdims=True) - y.mean(0) + y.mean()
    rows = (y.mean(2) - y.mean((1, 2))[:, None] - y.mean((0, 2)) + y.mean())[:, :, None]
    columns = (y.mean(1) - y.mean((1, 2))[:, None] - y.mean((0, 1)) + y.mean())[:, None, :]
    within = ((rest - rows - columns) ** 2).sum()
    degrees = ((r - 1) * (q - 1), (n - 1) * (r - 1) * (q - 1))
    test = two_way(y)
    assert test is not None and test.degrees == degrees
    assert test.f == pytest.approx(between / degrees[0] / (within / degrees[1]))
    assert test.p == pytest.approx(stats.f.sf(test.f, *degrees))


def test_nothing_that_varies_is_no_test() -> None:
    assert two_way(np.ones((5, 2, 2))) is None
    assert two_way(np.random.default_rng(0).normal(size=(1, 2, 2))) is None


def test_slope_rejects_a_true_null_as_often_as_it_says() -> None:
    """2,000 studies without an interaction: 5 % +- 3 standard errors of rejections at level 0.05."""
    random, ranks = np.random.default_rng(2), np.array([2.0, 4.0, 8.0])
    found = [slope(random.normal(size=(5, 3)) - 0.3, ranks) for _ in range(2000)]
    rejected = [(each.p or 1) <= 0.05 for each in found]
    assert abs(np.mean(rejected) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert [not each.interval.low <= 0 <= each.interval.high for each in found] == rejected  # pyright: ignore


def test_curves() -> None:
    curve = [(0, 0.0), (10, 1.0), (30, 1.0)]
    assert area(curve) == pytest.approx((5 + 20) / 30)
    assert area(curve[:1]) is None
    assert target(0.9, 0.1, higher_is_better=True) == pytest.approx(0.86)
    assert target(0.38, 2.3, higher_is_better=False) == pytest.approx(0.4)
    assert steps_to(curve, 0.5, higher_is_better=True) == 10
    assert steps_to(curve, 1.1, higher_is_better=True) is None
    assert steps_to([(1, 2.0), (2, 0.3)], 0.4, higher_is_better=False) == 2


def test_curves_are_compared_over_the_steps_that_both_have() -> None:
    rising = [(float(step), 1 - 1 / step) for step in range(1, 11)]
    assert area_between(rising[:4], rising) == 0 == area_between(rising, rising[:4])  # the same curve, ended early
    higher = [(step, value + 0.1) for step, value in rising]
    assert area_between(higher[:3], rising) == pytest.approx(0.1)
    assert area_between(higher, rising) == pytest.approx(area(higher) - area(rising))  # pyright: ignore[reportOperatorIssue]
    assert area_between(rising[:1], rising) is None is area_between(rising[:4], rising[4:])


def test_a_curve_that_early_stopping_ended_is_set_against_the_same_steps_of_the_other(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path)
    paths = [
        {
            json.loads((run / "config.json").read_text())["seed"]: run / "metrics.jsonl"
            for run in (folder / "runs" / label).iterdir()
        }
        for label in (arm("float", 2), arm("nf4", 2))
    ]
    for seed, path in paths[0].items():  # the same curve 0.01 lower, two of its five evaluations
        lines = [line for text in path.read_text().splitlines() if (line := json.loads(text))["split"] == "validation"]
        lowered = [{**line, "accuracy": line["accuracy"] - 0.01} for line in lines[:2]]
        paths[1][seed].write_text("".join(json.dumps(line) + "\n" for line in lowered))
    effects = assess_quantization(load_frame(folder)).quantization.effects
    found = next(e for e in effects if e.arm == arm("nf4", 2))
    assert found.area is not None and found.area.n == 5 and found.area.mean == pytest.approx(-0.01)


def test_arms_that_never_arrive_have_no_mean(tables: QuantizationTables) -> None:
    for cell in tables.quantization.cells:
        assert cell.runs == 5 and 0 <= cell.arrived <= 5
        assert (cell.steps_to_goal is None) == (cell.arrived < 5)
        assert cell.area is not None


def test_sentences_say_what_was_found(tables: QuantizationTables) -> None:
    said = "\n".join(tables.quantization.sentences)
    assert "lora2-nf4: " in said and "fewer bytes stored" in said
    assert "not evidence of equality" in said
    assert "rank x quantizer F(3, 12)" in said
    assert "take back at most 16 %" in said and "off by at most 3.0 %" in said


def test_arms_whose_bound_is_not_known_are_not_among_those_spoken_of(tmp_path: Path) -> None:
    """A rank above those of which bounds are kept: the record has no bound of all layers together."""
    whole = load_frame(write_quantized(tmp_path))
    rows = whole.primary()
    for folder in rows[rows["label"] == arm("nf4", RANKS[-1])]["folder"]:
        path = whole.folder / folder / "quantization_analysis.json"
        content = json.loads(path.read_text())
        del content["cancellation"]["bound"]
        path.write_text(json.dumps(content))
    found = assess_quantization(load_frame(whole.folder))
    cell = next(c for c in found.quantization.cells if c.arm == arm("nf4", RANKS[-1]))
    assert cell.bound is None and cell.aligned is not None
    said = "\n".join(found.quantization.sentences)
    assert "% of it (not counting 1 arm with a layer whose bound is not known)." in said
    assert "ranks above 64" in "\n".join(found.quantization.method)


def test_a_scheme_tried_at_one_rank_does_not_hide_what_the_others_say_of_ranks(tmp_path: Path) -> None:
    whole = load_frame(write_quantized(tmp_path))
    rows = whole.primary()
    for folder in rows[rows["label"] == arm("nf4", RANKS[0])]["folder"]:
        shutil.rmtree(whole.folder / folder)
    said = assess_quantization(load_frame(whole.folder)).quantization
    (test,) = said.two_way
    assert set(test.schemes) == set(SCHEMES) - {"nf4"} and test.ranks == list(RANKS)
    assert {i.scheme for i in said.interactions} == set(SCHEMES) - {"nf4", "float"}


def test_a_dependence_on_the_rank_that_is_not_shown_is_told_with_its_interval(tables: QuantizationTables) -> None:
    quiet = [i for i in tables.quantization.interactions if not i.shown]
    (line,) = [line for line in tables.quantization.sentences if "depends on the rank is not shown" in line]
    assert quiet and all(f"{i.scheme} " in line for i in quiet)
    assert line.count("[") == len(quiet) and "not evidence" in line


def test_files(tables: QuantizationTables, frame: Frame) -> None:
    tables.write(frame)
    rows = list(csv.DictReader((frame.folder / "analysis" / "quantization.csv").open()))
    assert len(rows) == 5 * len(LEVELS)
    read = json.loads((frame.folder / "analysis" / "quantization.json").read_text())
    assert len(read["effects"]) == 6
    one = next(r for r in rows if r["arm"] == "lora8-int8")
    assert float(one["bits_per_parameter"]) == 8.1 and float(one["bound"]) == 0.16


def test_the_course_of_a_schedule(tables: QuantizationTables, frame: Frame) -> None:
    """rho as recorded; the balance is the median over layers, mean over seeds, with its interval."""
    courses = {c.arm: c for c in tables.quantization.courses}
    assert set(courses) == {arm(s, r) for s in SCHEDULES for r in RANKS}
    linear, constant = courses[arm("nf4", 2)], courses[arm("int8", 2)]
    assert [p.rho for p in linear.points[:3]] == [0.0, 3 / HALF, 6 / HALF] and linear.points[-1].rho == 1.0
    assert {p.rho for p in constant.points} == {1.0}
    assert (linear.full_from_step, constant.full_from_step) == (HALF, 0)
    assert (linear.float_weights_mb, constant.float_weights_mb) == (4 * PARAMETERS / 1e6, 0.0)
    rows = frame.primary()
    files = [frame.folder / f / "quantization_history.json" for f in rows[rows["label"] == linear.arm]["folder"]]
    histories = [json.loads(path.read_text())["history"] for path in files]
    for place, found in ((0, linear.balance_start), (-1, linear.balance_end)):
        medians = [np.median(list(h[place]["balance"].values())) for h in histories]
        assert found is not None and found.mean == pytest.approx(np.mean(medians)) and found.n == 5
        assert found.interval == pytest.approx(stats.t.interval(0.95, 4, np.mean(medians), stats.sem(medians)))
    assert linear.swamped is not None and linear.swamped.mean == pytest.approx(0.5, abs=0.26)
    last = linear.points[-1]
    assert last.low is not None and last.balance is not None and last.high is not None and last.low < last.balance < last.high
    assert "the update of the median layer is" in "\n".join(tables.quantization.sentences)


def test_a_history_that_is_none_says_nothing() -> None:
    assert History.of({}).end is None and History.of({"float_weights": 3, "quantizer": {}}).lines == ()
    broken = {"float_weights": {}, "quantizer": {}, "history": [{"step": "x"}, {"step": 1, "rho": 0.5, "balance": None}, 7]}
    assert [(line.step, line.median) for line in History.of(broken).lines] == [(1, None)]


def test_weights_stand_beside_published_figures(tables: QuantizationTables) -> None:
    found = {(b.scheme, b.metric, b.row.source): b for b in tables.quantization.weights_beside}
    plain, double = (found[s, "bits_per_parameter_of_statistics", "dettmers2023qlora"] for s in ("nf4", "nf4-double"))
    assert plain.ours == pytest.approx(0.5) and plain.ratio == pytest.approx(1)
    assert double.ours == pytest.approx(0.13) and double.ratio == pytest.approx(0.13 / 0.127)
    assert plain.arms == [arm("nf4", r) for r in RANKS]
    eight = found["int8", "weight_memory_reduction", "secondary"]
    assert eight.ours == pytest.approx(100 * (1 - 8.1 / 16)) and eight.row.value == 50
    assert any(d.startswith("base: float32 (published: 16 bits)") for d in eight.differs)
    error = found["nf4", "relative_weight_error", "gaussian"]
    assert error.ratio == pytest.approx(COSTS["nf4"][2] / 0.092, rel=0.05)
    assert any(d.startswith("model: ") for d in error.differs) and any(d.startswith("protocol: ") for d in error.differs)


def test_a_group_size_that_differs_is_told() -> None:
    row = next(r for r in literature()[0] if r.metric == "relative_weight_error" and r.method == "NF4")
    cell: Any = types.SimpleNamespace(backbone="b")
    assert "group size: 32 (published: 64)" in _differs(row, cell, {"quantizer": {"name": "groupwise", "group_size": 32}})
    assert not any(d.startswith("group") for d in _differs(row, cell, {"quantizer": {"name": "bnb", "bits": 4}}))


def test_rows_of_other_tasks_are_named_not_hidden(tables: QuantizationTables) -> None:
    named = {(e.row.source, e.row.method): e for e in tables.quantization.elsewhere}
    qlora = named["dettmers2023qlora", "NF4 with double quantization"]
    assert qlora.row.task == "language-modeling" and qlora.arms == [arm("nf4-double", r) for r in RANKS]
    assert qlora.row.model != "not stated" and "not fine-tuned" in qlora.row.protocol
    assert all(e.row.task not in ("image-classification", "any") for e in named.values())


def test_memory_of_the_process_before_and_after(tables: QuantizationTables) -> None:
    cells = {(c.treatment, c.scheme): c for c in tables.quantization.cells}
    found = cells["lora[rank=2]", "nf4"]
    assert found.process_before_mb is not None and found.process_after_mb is not None
    assert found.process_before_mb.mean == pytest.approx(640, abs=0.5) and found.process_after_mb.mean == 620
    assert cells["lora[rank=2]", "float"].process_before_mb is None


def test_one_seed_has_no_interval_and_no_test(tmp_path: Path) -> None:
    said = assess_quantization(load_frame(write_quantized(tmp_path, seeds=(0,)))).quantization
    assert all(e.p is None and e.interval is None for e in said.effects)
    assert not said.two_way and all(i.p is None for i in said.interactions)


def test_diverged_and_missing_runs(tmp_path: Path) -> None:
    options: dict[str, Any] = {"diverged": ((arm("nf4", 2), 1),), "skip": ((arm("float", 2), 0),)}
    said = assess_quantization(load_frame(write_quantized(tmp_path, **options))).quantization
    effect = next(e for e in said.effects if e.arm == arm("nf4", 2))
    assert effect.n == 4  # the diverged run counts, at chance level
    assert effect.interval is not None and effect.interval[0] < -0.1


def test_a_study_without_quantized_arms_says_nothing(tmp_path: Path) -> None:
    frame = load_frame(write_results(tmp_path))
    found = assess_quantization(frame)
    assert quantized_runs(frame) == [] and found.empty
    found.write(frame)
    assert not (frame.folder / "analysis").exists()


def test_a_rate_that_the_study_states_is_part_of_the_treatment_a_tuned_one_is_not() -> None:
    def keys(rate: float, **more: object) -> _Keys:
        return _Keys.of({"adapter": {"name": "lora", "rank": 4}, "train": {"learning_rate": rate, "epochs": 1}, **more})

    assert keys(1e-3).treatment != keys(1e-2).treatment
    assert keys(1e-3, tuned={"learning_rate": 1e-3}).treatment == keys(1e-2, tuned={"learning_rate": 1e-2}).treatment


def test_two_way_rejects_a_true_null_as_often_as_it_says() -> None:
    """20,000 studies of 3 ranks x 2 schemes with effects of both and of the seeds, but no interaction, of equal variances.

    The F of all at once, by sums of squares; that the function gives the same is checked on the first 30, as it takes 20 ms.
    """
    random, n, r, q = np.random.default_rng(3), 5, 3, 2
    effects = np.array([0.0, 1.0, 3.0])[:, None] + np.array([0.0, -2.0])
    y = random.normal(size=(20_000, n, r, q)) + effects + 3 * random.normal(size=(20_000, n, 1, 1))
    inner = y - y.mean(2, keepdims=True) - y.mean(3, keepdims=True) + y.mean((2, 3), keepdims=True)
    means = inner.mean(1, keepdims=True)
    top, below = (r - 1) * (q - 1), (n - 1) * (r - 1) * (q - 1)
    f = n * (means**2).sum((1, 2, 3)) / top / (((inner - means) ** 2).sum((1, 2, 3)) / below)
    for table, expected in zip(y[:30], f[:30], strict=True):
        test = two_way(table)
        assert test is not None and test.f == pytest.approx(expected) and test.degrees == (top, below)
        assert test.p == pytest.approx(stats.f.sf(expected, top, below))
    assert np.mean(stats.f.sf(f, top, below) <= 0.05) == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 20_000))


def test_the_interval_of_memory_saved_covers_what_is_saved() -> None:
    """2,000 studies of 5 seeds: peaks vary by a factor, what quantizing saves by another one."""
    random, trials, hits = np.random.default_rng(4), 2000, 0
    floats = 60 * np.exp(0.3 * random.normal(size=(trials, 5)))
    ratios = np.exp(np.log(0.7) + 0.2 * random.normal(size=(trials, 5)))
    for other, ratio in zip(floats, ratios, strict=True):
        pairs: Any = [
            (types.SimpleNamespace(tensors_peak_mb=a), types.SimpleNamespace(tensors_peak_mb=b))
            for a, b in zip(ratio * other, other, strict=True)
        ]
        found = _saved(pairs, 0.95, 1)
        assert found is not None and found.interval is not None
        hits += found.interval[0] <= 1 - 0.7 <= found.interval[1]
    assert hits / trials == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / trials))
