"""Equal tuning: the best mean over tuning seeds wins; what diverged is out; what lies at the edge is said."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from peftlab.errors import RecordError
from peftlab.planning.search import Key, Search
from peftlab.study.schema import Range
from peftlab.tuning import choice
from peftlab.tuning.choice import Choice, TrialRun, _outcome, as_mapping, score

RATES = [1e-4, 1e-3, 1e-2]


def search(label: str = "a", **space: Any) -> Search:
    space = space or {"learning_rate": RATES}
    return Search(key=Key(label, "b", "t"), space=space, lacks=(), trials=3, seeds=(100, 101), about="")


def choose(found: list[TrialRun], higher_is_better: bool, **space: Any) -> list[Choice]:
    searches = [search(label, **space) for label in dict.fromkeys(run.label for run in found)]
    return choice.choose(searches, found, higher_is_better)


def trial(rate: float, seed: int, value: float | None, status: str = "completed", label: str = "a", number: int = 0) -> TrialRun:
    about = {"label": label, "backbone": "b", "task": "t", "seed": seed, "trial": number, "time_s": 1.0}
    return TrialRun(**about, values={"learning_rate": rate}, run_id=f"{rate}/{seed}", value=value, status=status)


def trials(values: dict[float, tuple[float | None, float | None]], label: str = "a") -> list[TrialRun]:
    return [
        trial(rate, seed, value, "completed" if value is not None else "diverged", label)
        for rate, pair in values.items()
        for seed, value in zip((100, 101), pair, strict=True)
    ]


def test_the_best_mean_over_tuning_seeds_is_chosen() -> None:
    found = trials({1e-4: (0.80, 0.80), 1e-3: (0.95, 0.75), 1e-2: (0.60, 0.99)})
    (chosen,) = choose(found, higher_is_better=True)
    assert chosen.values == {"learning_rate": 1e-3}
    assert chosen.mean == pytest.approx(0.85)
    assert chosen.at_edge == ()
    (lowest,) = choose(found, higher_is_better=False)
    assert lowest.values == {"learning_rate": 1e-2}
    assert lowest.at_edge == ("learning_rate",)


def test_ties_are_counted_and_where_nothing_differs_there_is_no_edge() -> None:
    (some,) = choose(trials({1e-4: (0.7, 0.8), 1e-3: (0.8, 0.7), 1e-2: (0.1, 0.2)}), higher_is_better=True)
    assert (some.values, some.tied, some.at_edge) == ({"learning_rate": 1e-4}, 2, ("learning_rate",))
    (none,) = choose(trials({1e-4: (0.7, 0.7), 1e-3: (0.7, 0.7), 1e-2: (0.7, 0.7)}), higher_is_better=True)
    assert (none.tied, none.at_edge) == (3, ())


def test_values_that_diverged_on_any_seed_are_out_and_counted() -> None:
    (chosen,) = choose(trials({1e-4: (0.7, 0.7), 1e-3: (0.8, 0.8), 1e-2: (0.99, None)}), higher_is_better=True)
    assert chosen.values == {"learning_rate": 1e-3}
    assert chosen.lost == 1
    assert (chosen.trials, chosen.different, chosen.runs, chosen.time_s) == (3, 3, 6, 6.0)


def test_if_all_values_lost_a_trial_the_best_of_what_is_left_is_taken() -> None:
    (chosen,) = choose(trials({1e-4: (None, 0.7), 1e-3: (0.8, None), 1e-2: (None, None)}), higher_is_better=True)
    assert chosen.values == {"learning_rate": 1e-3}


def test_ties_go_to_the_earlier_value() -> None:
    (chosen,) = choose(trials({1e-4: (0.8, 0.8), 1e-3: (0.8, 0.8), 1e-2: (0.1, 0.1)}), higher_is_better=True)
    assert chosen.values == {"learning_rate": 1e-4}


def test_every_arm_is_chosen_for_by_itself() -> None:
    found = trials({1e-4: (0.9, 0.9), 1e-3: (0.8, 0.8)}, "a") + trials({1e-4: (0.1, 0.1), 1e-3: (0.8, 0.8)}, "b")
    mapping = as_mapping(choose(found, higher_is_better=True))
    assert mapping == {Key("a", "b", "t"): {"learning_rate": 1e-4}, Key("b", "b", "t"): {"learning_rate": 1e-3}}


def test_an_arm_without_any_value_is_an_error_with_a_remedy() -> None:
    with pytest.raises(RecordError, match="no tuning run of a") as raised:
        choose(trials({1e-4: (None, None)}), higher_is_better=True)
    assert "retry-failed" in raised.value.remedy


def test_a_trial_that_repeats_another_is_counted_as_no_other_value() -> None:
    found = [trial(1e-4, 100, 0.8, number=0), trial(1e-3, 100, 0.9, number=1), trial(1e-4, 100, 0.8, number=2)]
    (chosen,) = choose(found, higher_is_better=True)
    assert (chosen.trials, chosen.different, chosen.runs) == (3, 2, 2)


def test_the_score_of_a_trial_is_its_mean_and_the_worst_there_is_where_a_seed_gave_nothing() -> None:
    good, bad, wait = trial(1e-3, 100, 0.8), trial(1e-3, 101, None, "diverged"), trial(1e-3, 101, None, "missing")
    assert score([good, trial(1e-3, 101, 0.6)], True) == pytest.approx(0.7)
    assert score([good, bad], True) == -math.inf and score([good, bad], False) == math.inf
    assert score([good, trial(1e-3, 101, math.nan)], True) == -math.inf
    assert score([good, wait], True) is None and score([bad, wait], True) is None and score([], True) is None


@pytest.mark.parametrize(
    ("space", "value", "edge"),
    [
        (Range(low=1e-4, high=1e-1, log=True), 1e-1 / 10**0.14, True),  # 5 % of three decades: 0.15
        (Range(low=1e-4, high=1e-1, log=True), 1e-1 / 10**0.16, False),
        (Range(low=1.0, high=2.0), 1.04, True),
        (Range(low=1.0, high=2.0), 1.06, False),
        (Range(low=0.0, high=1.0), 0.0, False),  # nothing lies below
        (Range(low=0.0, high=1.0), 0.96, True),
        ([0.0, 0.01, 0.1], 0.0, False),
        ([0.0, 0.01, 0.1], 0.1, True),
        ([0.0, 0.01, 0.1], 0.01, False),
        (Range(low=2, high=32), 2, True),
        ([1e-2, 1e-4, 1e-3], 1e-3, False),  # in no order
        ([1e-2, 1e-4, 1e-3], 1e-2, True),
        ([1e-3], 1e-3, False),
        (["cosine", "linear"], "cosine", False),
        ([True, False], True, False),
    ],
)
def test_the_edge_of_what_was_searched(space: Any, value: Any, edge: bool) -> None:
    about = {"label": "a", "backbone": "b", "task": "t", "seed": 100, "run_id": "x", "status": "completed"}
    (chosen,) = choose([TrialRun(**about, values={"key": value}, value=0.5)], True, key=space)
    assert chosen.at_edge == (("key",) if edge else ())


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ({"train_s": 2.0, "evaluate_s": 0.5, "total_s": 9.0}, 2.5),
        ({"train_s": 2.0}, 2.0),
        ({"stacked": {"runs": 4}, "shared": {"train_s": 30.0, "evaluate_s": 10.0, "total_s": 60.0, "part_s": 15.0}}, 10.0),
        ({}, 0.0),
    ],
)
def test_a_trial_computed_with_others_counts_its_part_of_their_time(time: dict[str, float], seconds: float) -> None:
    results: Any = SimpleNamespace(metrics={"validation": {"accuracy": 0.5}}, time=time, status="completed")
    record = SimpleNamespace(results=lambda: results, error=lambda: None)
    folder: Any = SimpleNamespace(run=lambda _config: record)
    study: Any = SimpleNamespace(
        tune=SimpleNamespace(rung_of=lambda _trial: (0, 0, 1.0)), analysis=SimpleNamespace(metric="accuracy")
    )
    config = SimpleNamespace(tuned={}, run_id="r")
    run: Any = SimpleNamespace(key=Key("lora", "b", "t"), seed=0, trial=0, steps=3, config=config)
    assert _outcome(folder, study, run).time_s == seconds
