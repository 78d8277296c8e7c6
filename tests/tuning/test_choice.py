"""Equal tuning: the best mean over tuning seeds wins; what diverged is out; what lies at the edge is said."""

from __future__ import annotations

import pytest

from peftlab.errors import RecordError
from peftlab.study.load import validate_study
from peftlab.study.schema import Study
from peftlab.tuning.grid import Trial, as_mapping, choose

RATES = [1e-4, 1e-3, 1e-2]


def study() -> Study:
    return validate_study(
        {
            "study": "s",
            "backbone": "b",
            "task": {"kind": "image-classification", "data": "digits"},
            "seeds": [0],
            "arms": {"a": {"adapter": "full"}},
            "tune": {"learning_rate": RATES, "seeds": [100, 101]},
        }
    )


def trial(rate: float, seed: int, value: float | None, status: str = "completed", label: str = "a") -> Trial:
    return Trial(
        label=label, backbone="b", task="t", values={"learning_rate": rate}, seed=seed, run_id="x", value=value, status=status
    )


def trials(values: dict[float, tuple[float | None, float | None]], label: str = "a") -> list[Trial]:
    return [
        trial(rate, seed, value, "completed" if value is not None else "diverged", label)
        for rate, pair in values.items()
        for seed, value in zip((100, 101), pair, strict=True)
    ]


def test_the_best_mean_over_tuning_seeds_is_chosen() -> None:
    found = trials({1e-4: (0.80, 0.80), 1e-3: (0.95, 0.75), 1e-2: (0.60, 0.99)})
    (chosen,) = choose(study(), found, higher_is_better=True)
    assert chosen.values == {"learning_rate": 1e-3}
    assert chosen.mean == pytest.approx(0.85)
    assert chosen.at_edge == ()
    (lowest,) = choose(study(), found, higher_is_better=False)
    assert lowest.values == {"learning_rate": 1e-2}
    assert lowest.at_edge == ("learning_rate",)


def test_values_that_diverged_on_any_seed_are_out_and_counted() -> None:
    (chosen,) = choose(study(), trials({1e-4: (0.7, 0.7), 1e-3: (0.8, 0.8), 1e-2: (0.99, None)}), higher_is_better=True)
    assert chosen.values == {"learning_rate": 1e-3}
    assert chosen.lost == 1
    assert chosen.trials == 6


def test_if_all_values_lost_a_trial_the_best_of_what_is_left_is_taken() -> None:
    (chosen,) = choose(study(), trials({1e-4: (None, 0.7), 1e-3: (0.8, None), 1e-2: (None, None)}), higher_is_better=True)
    assert chosen.values == {"learning_rate": 1e-3}


def test_ties_go_to_the_earlier_value() -> None:
    (chosen,) = choose(study(), trials({1e-4: (0.8, 0.8), 1e-3: (0.8, 0.8), 1e-2: (0.1, 0.1)}), higher_is_better=True)
    assert chosen.values == {"learning_rate": 1e-4}


def test_every_arm_is_chosen_for_by_itself() -> None:
    found = trials({1e-4: (0.9, 0.9), 1e-3: (0.8, 0.8)}, "a") + trials({1e-4: (0.1, 0.1), 1e-3: (0.8, 0.8)}, "b")
    mapping = as_mapping(choose(study(), found, higher_is_better=True))
    assert mapping == {("a", "b", "t"): {"learning_rate": 1e-4}, ("b", "b", "t"): {"learning_rate": 1e-3}}


def test_an_arm_without_any_value_is_an_error_with_a_remedy() -> None:
    with pytest.raises(RecordError, match="no tuning run of a") as raised:
        choose(study(), trials({1e-4: (None, None)}), higher_is_better=True)
    assert "retry-failed" in raised.value.remedy
