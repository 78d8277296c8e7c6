"""A run beside its record: the interval of a further run holds what it promises, and words follow from numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from peftlab.analysis.reproduction import bit_equal, environment_differences, judge, prediction_interval, same_course, shared
from peftlab.records.record import RunResults


@pytest.mark.parametrize("n", [3, 5])
def test_a_further_run_lies_in_it_as_often_as_it_says(n: int) -> None:
    """However many are compared: each by itself."""
    generator = np.random.default_rng(0)
    trials = 4000
    values = generator.normal(0.9, 0.02, size=(trials, n + 4))
    inside = np.zeros(4)
    for row in values:
        low, high = prediction_interval(row[:n], 0.95) or (0, 0)
        inside += (row[n:] >= low) & (row[n:] <= high)
    assert inside / trials == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / trials))


def test_interval_by_hand() -> None:
    values = [1.0, 2.0, 4.0]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * np.sqrt(4 / 3)
    assert prediction_interval(values) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert prediction_interval([1.0, 2.0]) is None and prediction_interval([1.0, 2.0, np.nan]) is None


def results(**changed: object) -> RunResults:
    about = {"run_id": "a", "metrics": {"test": {"accuracy": 0.9}}, "higher_is_better": {"accuracy": True}, "steps": 5,
             "epochs": 1.0, "parameters": {}, "memory": {"measured_peak_mb": 3.0}, "time": {"train_s": 1.0}}  # fmt: skip
    return RunResults.model_validate({**about, **changed})


def test_time_and_memory_are_no_part_of_the_outcome() -> None:
    assert bit_equal(results(), results(time={"train_s": 9.0}, memory={}))
    assert not bit_equal(results(), results(metrics={"test": {"accuracy": np.nextafter(0.9, 1)}}))
    assert not bit_equal(results(), results(steps=6))
    assert same_course([{"step": 1, "loss": 0.5, "time_s": 1.0}], [{"step": 1, "loss": 0.5, "time_s": 2.0}])
    assert not same_course([{"step": 1, "loss": 0.5}], [{"step": 1, "loss": 0.5000001}])


@pytest.mark.parametrize(
    ("found", "interval", "verdict", "said"),
    [
        (0.91, (0.88, 0.92), "within interval", "inside the interval"),
        (0.93, (0.88, 0.92), "different", "outside the interval"),
        (0.91, None, "different", "no interval to judge it by: 2 finished runs of this arm on record, and it takes 3"),
        (None, (0.88, 0.92), "different", "one of the two has no value"),
        (0.9, (0.9, 0.9), "within interval", "not to the bit"),
    ],
)
def test_verdicts(found: float | None, interval: tuple[float, float] | None, verdict: str, said: str) -> None:
    seeds = 5 if interval else 2
    got, sentence = judge(
        equal=False, diverged=(False, False), recorded=0.9, found=found, interval=interval, seeds=seeds, metric="accuracy"
    )
    assert got == verdict and said in sentence


@pytest.mark.parametrize(
    ("diverged", "said"),
    [
        ((False, True), "finished on record, diverged now"),
        ((True, False), "diverged on record, finished now"),
        ((True, True), "both diverged"),
    ],
)
def test_what_diverged_is_in_no_interval(diverged: tuple[bool, bool], said: str) -> None:
    """A broken model's value may well lie in a wide interval: the outcome is another one all the same."""
    about = {"recorded": 0.9, "found": 0.9, "interval": (0.0, 1.0), "seeds": 5, "metric": "accuracy", "diverged": diverged}
    got, sentence = judge(equal=False, **about)
    assert got == "different" and said in sentence
    if diverged == (True, True):
        assert judge(equal=True, **about)[0] == "bit-equal"


def test_what_differs_in_the_environment() -> None:
    before = {"python": "3.11.7", "host": "a", "packages": {"torch": "2.14.1", "peft": "0.21.2"}, "git": {"commit": "aa"}}
    now = {"python": "3.11.7", "host": "b", "packages": {"torch": "2.15.0", "peft": "0.21.2"}, "git": {"commit": "bb"}}
    found = environment_differences(before, now)
    assert found == {"packages.torch": ("2.14.1", "2.15.0"), "git.commit": ("aa", "bb")}
    assert environment_differences(None, now) == {}  # nothing was recorded, so nothing can be said
    assert shared([found, {"git.commit": ("aa", "bb")}]) == {"git.commit": ("aa", "bb")}
