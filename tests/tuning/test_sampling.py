"""Draws: Optuna's own, the same whenever they are made, and never outside of what was asked for."""

from __future__ import annotations

import math
import sys
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.errors import MissingExtra
from peftlab.planning.search import Space, Values, grid
from peftlab.study.schema import Range, Tune
from peftlab.tuning import sampling
from peftlab.tuning.sampling import draw, round_of, seed_of

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "schedule": ["cosine", "linear", "constant"],
    "adapter.rank": {"low": 2, "high": 32, "log": True},
    "adapter.targets": [["q", "v"], "all-linear"],
}


def tune(sampler: str, trials: int, **space: Any) -> Tune:
    return Tune.model_validate({"sampler": sampler, "trials": trials, "seeds": [100], **(space or SPACE)})


def objective(values: Values) -> float:
    return -((math.log10(values["learning_rate"]) + 2) ** 2) - 0.01 * abs(values["adapter.rank"] - 8)


def search(asked: Tune, score: Any = objective, higher: bool = True) -> list[Values]:
    """All trials, each told as soon as its round is over."""
    done: list[Values] = []
    for number in range(asked.number):
        first, _ = round_of(asked, number)
        told = [(values, score(values) if i < first else None) for i, values in enumerate(done)]
        done.append(draw(asked, asked.space, told, higher))
    return done


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_draws_are_the_same_every_time_and_lie_in_the_space(sampler: str) -> None:
    asked = tune(sampler, 20)
    found = search(asked)
    assert search(asked) == found
    assert search(tune(sampler, 20, **{**SPACE, "schedule": ["cosine", "linear"]})) != found
    for values in found:
        assert list(values) == list(asked.space)
        assert 1e-4 <= values["learning_rate"] <= 1e-1 and values["schedule"] in SPACE["schedule"]
        assert isinstance(values["adapter.rank"], int) and 2 <= values["adapter.rank"] <= 32
        assert values["adapter.targets"] in SPACE["adapter.targets"], "a list is one value, and comes back as a list"
    assert len({str(values) for values in found}) == 20


def test_random_draws_are_those_of_optunas_random_sampler() -> None:
    asked = tune("random", 5)
    for number, values in enumerate(search(asked)):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed_of(asked, number)))
        trial = study.ask()
        assert values["learning_rate"] == trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        assert values["schedule"] == trial.suggest_categorical("schedule", ["cosine", "linear", "constant"])
        assert values["adapter.rank"] == trial.suggest_int("adapter.rank", 2, 32, log=True)


def test_tpe_draws_are_those_of_optunas_sampler_told_the_same_trials() -> None:
    asked = tune("tpe", 18, learning_rate=SPACE["learning_rate"], **{"adapter.rank": SPACE["adapter.rank"]})
    found = search(asked)
    kinds = {
        "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "adapter.rank": optuna.distributions.IntDistribution(2, 32, log=True),
    }
    sampler = optuna.samplers.TPESampler(seed=seed_of(asked, 13), n_startup_trials=9, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number, values in enumerate(found[:13]):  # 0 to 8 at random, 9 to 12 and 13 to 16 are rounds
        study.add_trial(optuna.create_trial(params=dict(values), distributions=kinds, value=objective(found[number])))
    assert found[13] == study.ask(fixed_distributions=kinds).params


def test_tpe_goes_by_the_results_and_random_does_not() -> None:
    def other(values: Values) -> float:
        return -objective(values)

    half = 10
    assert search(tune("random", 20)) == search(tune("random", 20), other)
    ours, theirs = search(tune("tpe", 20)), search(tune("tpe", 20), other)
    assert ours[:half] == theirs[:half] and ours[half:] != theirs[half:]
    assert search(tune("tpe", 20), other, higher=False) == ours, "the direction is that of the metric"


def test_a_trial_of_its_own_round_tells_nothing() -> None:
    asked = tune("tpe", 20)
    found = search(asked)
    before = [(values, objective(values)) for values in found[:10]]
    assert draw(asked, asked.space, [*before, (found[10], None)], True) == found[11]
    assert draw(asked, asked.space, [*before, (found[10], objective(found[10]))], True) != found[11]


def test_more_trials_continue_fewer() -> None:
    assert search(tune("random", 30))[:20] == search(tune("random", 20))
    assert search(tune("tpe", 30))[:20] == search(tune("tpe", 20))


def test_arms_that_lack_an_option_share_the_draws_of_the_others() -> None:
    asked = tune("random", 6)
    without: Space = {key: values for key, values in asked.space.items() if not key.startswith("adapter.")}
    for number in range(6):
        before = [({}, None)] * number
        whole = draw(asked, asked.space, [(asked_values(asked), None)] * number, True)
        assert draw(asked, without, [({k: whole[k] for k in without}, None)] * number, True) == {k: whole[k] for k in without}
        assert draw(asked, {}, before, True) == {}


def asked_values(asked: Tune) -> Values:
    return {"learning_rate": 1e-2, "schedule": "cosine", "adapter.rank": 8, "adapter.targets": "all-linear"}


def test_diverged_trials_count_as_the_worst_and_do_not_stop_the_search() -> None:
    assert len(search(tune("tpe", 20), lambda values: -math.inf if values["learning_rate"] > 1e-2 else objective(values))) == 20
    assert len(search(tune("tpe", 20), lambda _: math.inf, higher=False)) == 20


@given(st.integers(2, 100), st.sampled_from(["random", "tpe"]))
def test_rounds_follow_one_another_without_gap(trials: int, sampler: str) -> None:
    asked = tune(sampler, trials)
    number, rounds = 0, []
    while number < trials:
        first, end = round_of(asked, number)
        assert first == number and number < end <= trials
        assert all(round_of(asked, inside) == (first, end) for inside in range(first, end))
        rounds.append(end - first)
        number = end
    if sampler == "tpe":
        assert rounds[0] == min(10, -(-trials // 2)) and all(size == 4 for size in rounds[1:-1]) and len(rounds) > 1
    else:
        assert rounds == [trials]


def test_the_own_grid_is_that_of_optunas_sampler() -> None:
    space: dict[str, list[Any]] = {"learning_rate": [1e-3, 3e-3, 1e-2], "schedule": ["cosine", "linear"], "adapter.rank": [4, 8]}
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(space, seed=0))

    def run(trial: optuna.Trial) -> float:
        return sum(hash(str(trial.suggest_categorical(key, values))) % 7 for key, values in space.items())

    study.optimize(run, n_trials=50)
    theirs = [trial.params for trial in study.trials]
    ours = grid(space)
    assert len(ours) == len(theirs) == 12
    assert sorted(map(str, ours)) == sorted(str({key: params[key] for key in space}) for params in theirs)
    assert Tune.model_validate({"seeds": [1], **space}).number == 12


@given(st.floats(1e-8, 1e8, allow_subnormal=False), st.integers(1, 10**6))
def test_values_come_back_from_optunas_form_as_they_were(number: float, whole: int) -> None:
    space: Space = {
        "a": Range(low=1e-9, high=1e9, log=True),
        "b": Range(low=1, high=10**6),
        "c": [[1, "x"], None, True, 1, {"k": 2}],
    }
    for value in space["c"]:  # pyright: ignore[reportGeneralTypeIssues]
        values = {"a": number, "b": whole, "c": value}
        back = sampling.decoded(space, sampling.encoded(space, values))
        assert back == values and [type(v) for v in back.values()] == [type(v) for v in values.values()]


def test_without_optuna_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match="Optuna cannot be imported") as caught:
        draw(tune("random", 3), {}, [], True)
    assert ".[optuna]" in caught.value.remedy and "grid" in caught.value.remedy
