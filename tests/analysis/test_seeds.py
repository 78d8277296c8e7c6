"""How many seeds are needed: what is promised of the number, held against simulated studies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from typer.testing import CliRunner

from peftlab.analysis.power import power
from peftlab.analysis.seeds import ASSURANCE, from_records, from_sd, upper_limit
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
