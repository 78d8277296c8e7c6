"""Which tests of a race are made, beside the differences and intervals of `test_anytime.py`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from peftlab.analysis import anytime
from peftlab.analysis.comparison import margin_differences, paired_difference
from peftlab.analysis.efficiency import efficiency
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.intervals import t_interval
from peftlab.analysis.race_tests import as_raced, compare, differences, efficiency_of, interval_of
from peftlab.analysis.raced import heat_of, in_order
from peftlab.analysis.setting import Setting
from peftlab.study.schema import Analysis, Margin, Racing
from peftlab.study.task_key import task_key
from tests.report.fixtures import Options, write_results


@pytest.mark.parametrize(
    ("margin", "higher", "chance", "above"),
    [
        (Margin(relative=0.05), True, 0.1, True),
        (Margin(absolute=0.05), True, 0.1, False),
        (Margin(relative=0.05), False, 0.1, False),
        (Margin(relative=0.05), True, None, False),
        (Margin(relative=0.05), True, 0.0, False),
    ],
)
def test_above_chance_is_asked_of_a_relative_margin_where_there_is_a_chance(
    margin: Margin, higher: bool, chance: float | None, above: bool
) -> None:
    values = pd.DataFrame(np.random.default_rng(0).normal(0.7, 0.02, (6, 2)), columns=pd.Index(["base", "arm"]))
    setting = Setting(
        task="t",
        backbone="b",
        values=values,
        runs=pd.DataFrame(),
        chance=chance,
        higher_is_better=higher,
        folds=1,
        sequence=values,
    )
    found = compare(setting, "arm", Analysis(baseline="base", margin=margin), margin)
    assert (found.above_chance is not None) == above


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Frame, Frame]:
    """The same records of a study of two folds, without and with a race."""
    frame = load_frame(write_results(tmp_path_factory.mktemp("results"), Options(folds=2)))
    return frame, dataclasses.replace(frame, study=frame.study.model_copy(update={"search": Racing(method="racing")}))


def about(frame: Frame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and values of its one setting."""
    return frame.primary(), frame.values(*frame.settings[0])


def test_a_race_knows_half_a_step_of_its_metric_and_the_order_of_its_seeds(frames: tuple[Frame, Frame]) -> None:
    plain, raced = frames
    runs, values = about(raced)
    assert as_raced(plain, *about(plain), 2) == {}
    known = as_raced(raced, runs, values, 2)
    assert known["resolution"] == 0.5 / 720, "360 test images, over two folds"
    assert as_raced(raced, runs, values, 1)["resolution"] == 0.5 / 360
    pd.testing.assert_frame_equal(known["sequence"], in_order(values, raced.study.seeds, 2))
    assert known["heat"] is None and len(known["sequence"]) == 5
    assert as_raced(raced, runs.assign(examples=0), values, 2)["resolution"] == 0.0
    assert as_raced(raced, runs.assign(examples=1), values, 1)["resolution"] == 0.5
    loss = raced.study.analysis.model_copy(update={"metric": "loss"})
    other = dataclasses.replace(raced, study=raced.study.model_copy(update={"analysis": loss}))
    assert as_raced(other, runs, values, 2)["resolution"] == 0.0, "a loss has no steps"


def test_a_race_is_found_by_any_of_its_runs(frames: tuple[Frame, Frame]) -> None:
    _, raced = frames
    runs, values = about(raced)
    config = raced.records[0].config
    heat = {"task_spec": dict(config.task), "backbone": config.backbone, "seeds": [], "arms": [], "left": []}
    raced = dataclasses.replace(raced, race={"heats": [heat]})
    assert as_raced(raced, runs, values, 2)["heat"] == heat
    assert as_raced(raced, runs.iloc[:0], values, 2)["heat"] is None


def test_the_race_of_a_task_with_an_option_is_not_that_of_the_task_without() -> None:
    short = {"kind": "image-classification", "data": "digits"}
    heats = [
        {"task": task_key(task), "task_spec": {**short, "image_size": size}, "backbone": "b", "seeds": [], "arms": [], "left": []}
        for task, size in (({**short, "image_size": 64}, 64), (short, None))
    ]
    for number, heat in enumerate(heats):
        asked = [{**short, "image_size": 64}, short][number]
        assert heat_of({"heats": heats}, asked, "b") == heat == heat_of({"heats": heats}, heat["task_spec"], "b")


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_two_arms_are_compared_by_the_studys_own_test(frames: tuple[Frame, Frame], confidence: float) -> None:
    plain, raced = (
        dataclasses.replace(
            f, study=f.study.model_copy(update={"analysis": f.study.analysis.model_copy(update={"confidence": confidence})})
        )
        for f in frames
    )
    values = plain.values(*plain.settings[0])
    arms = ("lora-all", "linear-probe")
    wanted = paired_difference(*(values[arm] for arm in arms), confidence=confidence, folds=2)
    assert differences(plain, *plain.settings[0])(*arms) == wanted
    table = in_order(values, raced.study.seeds, 2)
    wanted = anytime.difference(*(table[arm] for arm in arms), confidence=confidence, resolution=0.5 / 720)
    assert differences(raced, *raced.settings[0])(*arms) == wanted


def raced_setting(resolution: float = 0.01) -> Setting:
    values = pd.DataFrame(np.random.default_rng(1).normal(0.7, 0.03, (6, 2)), columns=pd.Index(["base", "arm"]))
    return Setting(
        task="t", backbone="b", values=values, runs=pd.DataFrame(), chance=0.1, higher_is_better=True, folds=2,
        sequence=values[::-1], resolution=resolution,
    )  # fmt: skip


def test_the_interval_of_a_mean_is_that_of_the_design() -> None:
    raced = raced_setting(0.1)
    fixed = dataclasses.replace(raced, sequence=None)
    assert interval_of(fixed, "arm", 0.9) == t_interval(fixed.values["arm"], 0.9, 2)
    wanted = anytime.confidence_sequence(raced.values["arm"][::-1], 0.9, resolution=0.1)
    assert interval_of(raced, "arm", 0.9) == wanted != anytime.confidence_sequence(raced.values["arm"][::-1], 0.9)


@pytest.mark.parametrize("margin", [Margin(relative=0.2), Margin(absolute=0.1)], ids=["relative", "absolute"])
@pytest.mark.parametrize("higher", [True, False])
def test_a_comparison_is_of_the_sequence_by_tests_at_any_time(margin: Margin, higher: bool) -> None:
    setting = dataclasses.replace(raced_setting(), higher_is_better=higher)
    plan, sequence = Analysis(baseline="base", margin=margin, confidence=0.9), setting.values[::-1]
    arm, base, known = sequence["arm"], sequence["base"], {"confidence": 0.9, "resolution": 0.01}
    found = compare(setting, "arm", plan, margin)
    assert (found.arm, found.baseline, found.setting) == ("arm", "base", setting)
    assert found.difference == anytime.difference(arm, base, **known)
    assert found.margin == anytime.margin_test(margin_differences(arm, base, margin, higher_is_better=higher), **known)
    assert found.p_equivalence == anytime.equivalence_p(arm, base, margin, resolution=0.01)
    if margin.relative and higher:
        assert found.above_chance == anytime.margin_test(margin_differences(arm, base, margin, chance=0.1), **known)


def test_an_interval_of_a_share_takes_the_seeds_as_fixed() -> None:
    columns = pd.Index(["start", "base", "arm"])
    values = pd.DataFrame([[0.5, 0.9, 0.8], [0.5, 0.9, 0.7], [0.5, 0.9, 0.9]], columns=columns)
    runs = pd.DataFrame({"label": columns, "steps": [0, 9, 9], "adapted": [0, 9, 9], "trainable": [1, 100, 50]})
    fixed = dataclasses.replace(raced_setting(), values=values, runs=runs, sequence=None)
    plan = Analysis(baseline="base", confidence=0.9)
    found, raced = (efficiency_of(s, "arm", plan, "start") for s in (fixed, dataclasses.replace(fixed, sequence=values)))
    assert found == efficiency(fixed, "arm", "base", "start", "accuracy", 0.9) and found is not None and raced is not None
    assert found.interval is not None and found.ratio_interval is not None
    assert (raced.interval, raced.ratio_interval, raced.kept, raced.ratio) == (None, None, found.kept, found.ratio)
    flat = dataclasses.replace(fixed, values=values.assign(base=0.5), sequence=values)
    assert efficiency_of(flat, "arm", plan, "start") is None
