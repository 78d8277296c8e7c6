"""Effects of options over tasks: against statsmodels' mixed model of the single runs, and by simulation."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from peftlab.analysis.factorial import Effect, contrasts_of, effects
from peftlab.analysis.factors_over_tasks import EffectOverTasks, effects_over_tasks
from peftlab.analysis.intervals import t_interval

ARMS = {(r, q): {"rank": r, "quantizer": q} for r, q in itertools.product(("2", "8"), ("none", "int4"))}
BACKBONES = ("small", "large")


def study(
    generator: np.random.Generator,
    *,
    tasks: int,
    seeds: int = 5,
    backbones: int = 1,
    effect: float = 0.0,
    sds: tuple[float, float, float] = (1.0, 0.5, 0.5),
) -> dict[tuple[str, str], pd.DataFrame]:
    """Runs in which rank 8 adds ``effect`` and what differs by task and by seed (``sds``: task, seed, one run)."""
    by_seed, shared = generator.normal(0, sds[1], seeds), generator.normal(0, 1, seeds)
    found = {}
    for t in range(tasks):
        by_task, level = generator.normal(0, sds[0]), generator.normal(0, 3)
        for b in range(backbones):
            columns = {
                arm: level + b + shared + (arm[0] == "8") * (effect + by_task + by_seed) + generator.normal(0, sds[2], seeds)
                for arm in ARMS
            }
            table = pd.DataFrame(columns, index=pd.RangeIndex(seeds))
            table.columns = pd.Index(list(ARMS), tupleize_cols=False)
            found[f"task {t}", BACKBONES[b]] = table
    return found  # fmt: skip


def within(tables: dict[tuple[str, str], pd.DataFrame]) -> dict[tuple[str, str], list[Effect]]:
    return {setting: effects(ARMS, table) for setting, table in tables.items()}


def rank(tables: dict[tuple[str, str], pd.DataFrame]) -> EffectOverTasks:
    return effects_over_tasks(within(tables))[0]


def test_it_is_the_mixed_model_of_the_single_runs() -> None:
    """Levels fixed, with slopes of every task and of every seed at random; what the two runs of a pair share is taken out."""
    tables = study(np.random.default_rng(3), tasks=6, seeds=5, effect=1.0, sds=(1.0, 0.7, 0.4))
    arms = {arm: ARMS[arm] for arm in (("2", "none"), ("8", "none"))}
    tables = {setting: table.loc[:, list(arms)] for setting, table in tables.items()}
    (found,) = effects_over_tasks({setting: effects(arms, table) for setting, table in tables.items()})
    long = pd.DataFrame(
        [
            (task, seed, f"{task} {seed}", float(arm[0] == "8"), table[arm].iloc[seed])
            for (task, _), table in tables.items()
            for seed in range(5)
            for arm in arms
        ],
        columns=pd.Index(["task", "seed", "pair", "x", "y"]),
    )
    parts = {"xt": "0 + C(task):x", "xs": "0 + C(seed):x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = MixedLM.from_formula(
            "y ~ 0 + C(pair) + x",
            groups=np.ones(len(long)),
            vc_formula=parts,
            re_formula="0",
            data=long.assign(x=long["x"] - 0.5),
        ).fit(reml=True)
    assert found.mixed is not None
    assert found.mixed.interval.mean == pytest.approx(float(fitted.fe_params["x"]), rel=1e-6)
    assert found.mixed.interval.standard_error == pytest.approx(float(fitted.bse_fe["x"]), rel=5e-3)
    sds = dict(zip(fitted.model.exog_vc.names, np.sqrt(fitted.vcomp), strict=True))
    assert found.mixed.sd_rows == pytest.approx(sds["xt"], rel=1e-2) and found.mixed.sd_columns == pytest.approx(
        sds["xs"], rel=1e-2
    )


def drawn(
    generator: np.random.Generator, *, tasks: int, backbones: int = 1, effect: float = 0.0, spread: float = 1.0
) -> EffectOverTasks:
    """``effect`` as it is on tasks in general, on each task another one (standard deviation ``spread``), with five seeds."""
    (contrast,), by_seed, known = contrasts_of("rank", ["2", "8"]), generator.normal(0, 0.5, 5), {}
    for t in range(tasks):
        by_task = generator.normal(0, spread)
        for b in range(backbones):
            values = effect + by_task + by_seed + generator.normal(0, 0.5, 5)
            known[f"task {t}", BACKBONES[b]] = [Effect((contrast,), t_interval(values), None, 1, pd.Series(values))]
    (found,) = effects_over_tasks(known)
    return found


@pytest.mark.parametrize(("tasks", "backbones"), [(3, 1), (3, 2), (6, 1)])
def test_coverage_on_tasks_that_the_study_does_not_have(tasks: int, backbones: int) -> None:
    generator, trials, hits = np.random.default_rng(tasks + 10 * backbones), 1000, np.zeros(2)
    for _ in range(trials):
        found = drawn(generator, tasks=tasks, backbones=backbones, effect=1.0)
        assert found.mixed is not None
        for k, interval in enumerate((found.mixed.interval, found.these)):
            assert interval.low is not None and interval.high is not None
            hits[k] += interval.low <= 1.0 <= interval.high
    covered, these = hits / trials
    assert covered > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials) - 0.015  # Satterthwaite is an approximation
    assert these < 0.85  # what seeds alone say is about these tasks, and no claim about others


def test_coverage_on_the_tasks_themselves() -> None:
    """Where the effect is the same on every task, the mean over seeds is what covers it as often as promised."""
    generator, trials, hits = np.random.default_rng(4), 1000, 0
    for _ in range(trials):
        interval = drawn(generator, tasks=3, effect=1.0, spread=0.0).these
        assert interval.low is not None and interval.high is not None
        hits += interval.low <= 1.0 <= interval.high
    assert abs(hits / trials - 0.95) < 3 * np.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_no_effect_raises_no_more_alarms_than_it_may(spread: float) -> None:
    """With backbones, which must not count as further tasks, whether or not the effect varies between tasks."""
    generator, trials, alarms = np.random.default_rng(8), 1000, 0
    for _ in range(trials):
        mixed = drawn(generator, tasks=3, backbones=2, spread=spread).mixed
        assert mixed is not None and mixed.p is not None
        alarms += mixed.p <= 0.05
    assert alarms / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials) + 0.01


def test_without_noise_it_is_exact() -> None:
    tables = study(np.random.default_rng(0), tasks=3, backbones=2, effect=1.0, sds=(0.0, 0.0, 0.0))
    found = rank(tables)
    assert found.mixed is not None and found.mixed.interval.mean == pytest.approx(1.0) and found.these.mean == pytest.approx(1.0)
    assert found.table.shape == (5, 3) and found.contexts == 2 and found.contrasts[0].words == "8 against 2"


def test_two_tasks_and_one_say_what_they_can() -> None:
    generator = np.random.default_rng(1)
    found = rank(study(generator, tasks=2))
    assert found.mixed is None and found.these.n == 5
    assert effects_over_tasks(within(study(generator, tasks=1, backbones=2))) == []  # backbones are no tasks


def test_a_seed_that_a_task_lacks_is_left_out_and_an_effect_too() -> None:
    tables = study(np.random.default_rng(2), tasks=3, backbones=2)
    tables["task 1", "large"].iloc[0, 0] = np.nan
    assert [e.seeds for e in effects_over_tasks(within(tables))] == [4, 4, 4]
    known = within(tables)
    known["task 2", "small"] = known["task 2", "small"][1:]
    assert [e.contrasts[0].factor for e in effects_over_tasks(known)] == ["quantizer", "rank"]
