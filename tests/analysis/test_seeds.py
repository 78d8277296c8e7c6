"""How many seeds are needed: what is promised of the number, held against simulated studies."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, ValidationError
from scipy import stats
from statsmodels.stats.power import TTestPower
from typer.testing import CliRunner

from peftlab.analysis.frame import load_frame
from peftlab.analysis.power import detectable_effect, power, seeds_needed
from peftlab.analysis.seeds import ASSURANCE, Needed, Planned, Seeds, _higher, from_records, from_sd, of_frame, plan, upper_limit
from peftlab.cli import app
from peftlab.errors import StudyError
from peftlab.study.schema import Margin
from tests.report.fixtures import LEVELS, STUDY, Options, write_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"), Options())


@pytest.mark.parametrize("n", [3, 5, 15])
def test_the_upper_limit_covers_as_often_as_it_says(n: int) -> None:
    # 20,000 pilots: standard error 0.0028
    sds = np.random.default_rng(n).normal(size=(20_000, n)).std(axis=1, ddof=1)
    assert np.mean(sds * upper_limit(1.0, n) >= 1.0) == pytest.approx(ASSURANCE, abs=0.0115)


def test_a_study_planned_cautiously_has_its_power_and_one_planned_by_the_pilot_often_not() -> None:
    """A pilot of 5 pairs, true SD 1, a difference of 1.5 that matters: 2,000 pilots, standard error of a share 0.011."""
    sds = np.random.default_rng(0).normal(size=(2_000, 5)).std(axis=1, ddof=1)
    planned = {sd: from_sd(sd, 1.5).rows[0].detect.seeds for sd in {round(float(s), 2) for s in sds} if sd > 0}
    wide = {sd: from_sd(sd * upper_limit(1.0, 5), 1.5).rows[0].detect.seeds for sd in planned}
    enough = [power(1.5, wide[round(float(s), 2)] or 1001) >= 0.8 for s in sds]
    naive = [power(1.5, planned[round(float(s), 2)] or 1001) >= 0.8 for s in sds]
    assert np.mean(enough) >= ASSURANCE - 0.03
    assert np.mean(naive) < 0.65


def test_the_seeds_named_find_the_difference_and_show_the_margin() -> None:
    row = from_sd(1.0, 1.2).rows[0]
    draws = np.random.default_rng(1)
    assert row.detect.seeds and row.non_inferiority.seeds
    assert TTestPower().solve_power(1.2, None, 0.05, 0.8) == pytest.approx(row.detect.seeds, abs=1.0)
    found = stats.ttest_1samp(draws.normal(1.2, 1, (20_000, row.detect.seeds)), 0, axis=1).pvalue <= 0.05
    assert found.mean() >= 0.8 - 0.0115
    # an arm that equals its baseline: its differences lie around 0, the margin around -1.2
    shown = stats.ttest_1samp(draws.normal(0, 1, (20_000, row.non_inferiority.seeds)), -1.2, axis=1, alternative="greater")
    assert (shown.pvalue <= 0.05).mean() >= 0.8 - 0.0115


def test_a_spread_that_is_known_is_planned_with_as_it_is() -> None:
    row = from_sd(0.7, 1.2).rows[0]
    assert (row.n, row.sd_upper) == (0, 0.7)
    for needed in (row.detect, row.non_inferiority):
        assert needed.cautious == needed.seeds


def test_records_give_the_paired_spread_of_each_arm(folder: Path) -> None:
    made = from_records(folder)
    assert {row.arm for row in made.rows} == set(LEVELS) - {"full"} and made.comparisons == len(made.rows)
    assert made.alpha == pytest.approx(0.05 / len(made.rows))
    from peftlab.analysis.frame import load_frame

    frame = load_frame(folder)
    table = frame.values(*frame.settings[0])
    for row in made.rows:
        both = table[[row.arm, "full"]].dropna()
        assert row.sd == pytest.approx(stats.tstd(both[row.arm] - both["full"])) and row.n == len(both)
        assert row.difference == pytest.approx(0.03 * both["full"].mean())
        assert row.detect.cautious is None or (row.detect.seeds or 0) <= row.detect.cautious
    tight = from_records(folder, margin=Margin(relative=0.003))
    for small, large in zip(tight.rows, made.rows, strict=True):
        assert (small.detect.seeds or 1001) > (large.detect.seeds or 0)


def test_an_arm_without_a_run_yet_is_one_of_the_comparisons(tmp_path: Path) -> None:
    """Else the number of seeds would be planned for fewer comparisons than the report will make."""
    skip = tuple(("bitfit", seed) for seed in range(20))
    made = from_records(write_results(tmp_path, Options(skip=skip)))
    assert "bitfit" not in {row.arm for row in made.rows}
    assert made.comparisons == len(LEVELS) - 1 and made.alpha == pytest.approx(0.05 / (len(LEVELS) - 1))


def test_an_arm_and_its_baseline_are_one_comparison(tmp_path: Path) -> None:
    study = {**STUDY, "arms": {name: STUDY["arms"][name] for name in ("full", "bitfit")}}
    made = from_records(write_results(tmp_path, Options(study=study, diverged=(), flags={})))
    assert [row.arm for row in made.rows] == ["bitfit"]
    assert made.comparisons == 1 and made.alpha == pytest.approx(0.05)


def test_bad_questions_are_typed() -> None:
    for sd, difference in ((0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, float("inf"))):
        with pytest.raises(StudyError):
            from_sd(sd, difference)


def test_the_verb(folder: Path) -> None:
    run = CliRunner().invoke
    answer = run(app, ["power", str(folder), "--json"])
    assert answer.exit_code == 0 and len(json.loads(answer.stdout)["rows"]) == len(LEVELS) - 1
    assert "to show within" in run(app, ["power", "--sd", "0.01", "--difference", "0.02"]).stdout
    for wrong in ([], [str(folder), "--sd", "1"], ["--sd", "0.01"], ["--sd", "0.01", "--difference", "0.1", "--power", "120%"]):
        assert isinstance(run(app, ["power", *wrong]).exception, StudyError)


@pytest.mark.parametrize("comparisons", [1, 4])
def test_of_a_known_spread_the_numbers_are_those_of_the_t_test(comparisons: int) -> None:
    made = from_sd(0.7, 1.1, power=0.9, confidence=0.9, comparisons=comparisons)
    (row,) = made.rows
    asked = {"target": 0.9, "alpha": 0.1 / comparisons}
    assert (made.metric, made.power, made.alpha, made.comparisons) == ("", 0.9, pytest.approx(asked["alpha"]), comparisons)
    assert row.detect.seeds == seeds_needed(1.1 / 0.7, **asked)
    assert row.non_inferiority.seeds == seeds_needed(1.1 / 0.7, two_sided=False, **asked)
    assert row.detectable == {n: pytest.approx(0.7 * detectable_effect(n, **asked)) for n in (3, 5, 10, 15)}
    plain = from_sd(0.7, 1.1)
    assert (plain.power, plain.alpha, plain.comparisons) == (0.8, 0.05, 1)  # as it is printed: 1 - 0.95 is not 0.05


@pytest.mark.parametrize(("n", "counts"), [(2, [3, 5, 10, 15]), (4, [3, 4, 5, 10, 15]), (20, [3, 5, 10, 15, 20])])
def test_what_as_many_seeds_as_there_are_would_find_is_told(n: int, counts: list[int]) -> None:
    row = plan(0.5, 0.4, n, 1.0, 1.0, power=0.8, alpha=0.05)
    assert list(row.detectable) == counts and row.n == n
    grown = upper_limit(1.0, n)
    assert row.sd_upper == pytest.approx(0.5 * grown)
    assert row.detect.cautious == seeds_needed(1.0 / (0.5 * grown))
    assert row.non_inferiority.cautious == seeds_needed(1.0 / (0.4 * grown), two_sided=False)
    assert row.detectable[5] == pytest.approx(0.5 * detectable_effect(5))


def test_where_nothing_varies_two_seeds_show_all() -> None:
    row = plan(0.0, 0.0, 5, 1.0, 1.0, power=0.8, alpha=0.05)
    assert row.detect == row.non_inferiority == Needed(seeds=2, cautious=2)


def test_one_value_limits_no_spread_and_two_do() -> None:
    assert upper_limit(1.0, 1) == math.inf and 3.9 < upper_limit(1.0, 2) < 4
    assert upper_limit(2.0, 5) == pytest.approx(2 * 2 / math.sqrt(stats.chi2.ppf(0.2, 4)))
    assert upper_limit(1.0, 5, 0.95) == pytest.approx(2 / math.sqrt(stats.chi2.ppf(0.05, 4)))


def planned(folder: Path, metric: str, **options: Any) -> tuple[Seeds, pd.DataFrame]:
    """Of the same records by another metric, and its values."""
    study = load_frame(folder).study
    study = study.model_copy(update={"analysis": study.analysis.model_copy(update={"metric": metric})})
    frame = load_frame(folder, study=study)
    return of_frame(frame, **options), frame.values(*frame.settings[0])


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize("margin", [Margin(relative=0.05), Margin(absolute=0.02)], ids=["relative", "absolute"])
def test_the_margin_is_tested_in_the_direction_of_the_metric(folder: Path, metric: str, margin: Margin) -> None:
    made, values = planned(folder, metric, margin=margin, power=0.7)
    assert made.metric == metric and made.power == 0.7 and len(made.rows) == made.comparisons == len(LEVELS) - 1
    for row in made.rows:
        both = values[["full", row.arm]].dropna()
        base, arm = both["full"], both[row.arm]
        assert row.difference == pytest.approx(margin.absolute or (margin.relative or 0) * base.mean())
        m = margin.relative or 0.0
        d = arm - (1 - m) * base if metric == "accuracy" else (1 + m) * base - arm
        needed = seeds_needed(row.difference / stats.tstd(d), target=0.7, alpha=made.alpha, two_sided=False)
        assert row.non_inferiority.seeds == needed and row.n == len(both)
        assert row.detect.seeds == seeds_needed(row.difference / stats.tstd(arm - base), target=0.7, alpha=made.alpha)


def test_a_difference_that_is_named_is_the_one_that_matters(folder: Path) -> None:
    made, declared = from_records(folder, difference=0.004), from_records(folder)
    assert {row.difference for row in made.rows} == {0.004}
    # what it takes to be shown within the margin is a question about the margin
    assert [(row.allowed, row.non_inferiority) for row in made.rows] == [
        (row.difference, row.non_inferiority) for row in declared.rows
    ]
    assert all(
        (row.detect.seeds or 1001) > (other.detect.seeds or 0) for row, other in zip(made.rows, declared.rows, strict=True)
    )
    assert [row.arm for row in made.rows] == [arm for arm in load_frame(folder).arms if arm != "full"]


def test_an_arm_with_one_pair_is_told_of_and_not_planned_for(tmp_path: Path) -> None:
    one = tuple(("bitfit", seed) for seed in range(1, 20))
    made = from_records(write_results(tmp_path / "one", Options(skip=one, failed=())))
    assert "bitfit" not in {row.arm for row in made.rows} and [note.split(" on ")[0] for note in made.notes] == ["bitfit"]
    two = from_records(write_results(tmp_path / "two", Options(skip=one[1:], failed=())))
    assert {row.arm: row.n for row in two.rows}["bitfit"] == 2 and two.notes == []


def test_a_seed_with_all_its_folds_is_one_draw(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options(folds=3))
    frame = load_frame(folder)
    means = frame.values(*frame.settings[0]).groupby(level="seed").mean()
    for row in from_records(folder).rows:
        both = means[["full", row.arm]].dropna()
        assert row.n == len(both) and row.sd == pytest.approx(stats.tstd(both[row.arm] - both["full"]))


def test_comparisons_are_counted_over_all_settings(folder: Path) -> None:
    whole = from_records(folder)
    assert whole.comparisons == len(LEVELS) - 1 and whole.alpha == pytest.approx(0.05 / (len(LEVELS) - 1))


@pytest.mark.parametrize("power", [0.0, 1.0, -0.1, 1.5])
def test_a_power_is_a_probability_between_0_and_1(folder: Path, power: float) -> None:
    with pytest.raises(StudyError, match="no probability"):
        from_sd(1.0, 1.0, power=power)
    with pytest.raises(StudyError, match="no probability"):
        from_records(folder, power=power)
    with pytest.raises(StudyError, match="no difference"):
        from_records(folder, difference=-abs(power))
    with pytest.raises(StudyError, match="no standard deviation"):
        from_sd(math.inf, 1.0)


def test_the_direction_is_that_of_the_records_and_higher_where_none_says(folder: Path) -> None:
    frame = load_frame(folder)
    for direction, higher in ((True, True), (False, False), (None, True)):
        assert _higher(dataclasses.replace(frame, rows=frame.rows.assign(higher_is_better=direction))) == higher
    mixed = frame.rows.assign(higher_is_better=False).astype({"higher_is_better": object})
    mixed.loc[mixed.index[: len(mixed) // 2], "higher_is_better"] = None
    assert not _higher(dataclasses.replace(frame, rows=mixed))


@pytest.mark.parametrize("form", [Needed, Planned, Seeds])
def test_an_answer_has_its_fields_alone_and_stays_as_it_is(form: type[BaseModel]) -> None:
    made = form.model_construct()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, next(iter(form.model_fields)), None)
    with pytest.raises(ValidationError, match="Extra inputs"):
        form.model_validate({"more": 1})
