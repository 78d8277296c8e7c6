"""``tune`` in a study file: what can be searched, and every mistake as an error before anything is planned."""

from __future__ import annotations

import pytest

from peftlab.errors import StudyError
from peftlab.study.load import apply_overrides, dump, parse_yaml, validate_study
from peftlab.study.schema import Range

GOOD = """\
study: small
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits}
seeds: [0, 1]
arms: {full: {adapter: full}}
tune: {learning_rate: [3e-4, 1e-3], seeds: [100], on: validation}
"""
TUNE = "tune: {learning_rate: [3e-4, 1e-3], seeds: [100], on: validation}"


@pytest.mark.parametrize(
    ("tune", "what"),
    [
        ("{seeds: [100], sampler: random, learning_rate: {low: 1e-4, high: 1e-1}}", "needs the number of trials"),
        ("{seeds: [100], sampler: tpe, trials: 1, learning_rate: {low: 1e-4, high: 1e-1}}", "trials: 2 or more"),
        ("{seeds: [100], sampler: tpe, trials: 4, learning_rate: {low: 1e-1, high: 1e-4}}", "low must be below high"),
        ("{seeds: [100], sampler: tpe, trials: 4, learning_rate: {low: 1e-3, high: 1e-3}}", "low must be below high"),
        ("{seeds: [100], sampler: tpe, trials: 4, weight_decay: {low: 0.0, high: 1, log: true}}", "log needs a low above 0"),
        ("{seeds: [100], sampler: tpe, trials: 4, learning_rate: {lo: 1e-4, high: 1e-1}}", "learning_rate.lo: unknown key"),
        ("{seeds: [100], sampler: tpe, trials: 4, learning_rate: {low: 1e-4}}", "learning_rate.high: is missing"),
        ("{seeds: [100], sampler: tpe, trials: 4, batch_size: {low: 8.5, high: 64}}", "batch_size takes no such numbers"),
        ("{seeds: [100], sampler: tpe, trials: 4, schedule: {low: 1, high: 2}}", "schedule takes no such numbers"),
        ("{seeds: [100], sampler: tpe, trials: 4, learning_rate: [1e-3, 1e-3]}", "lists a value twice"),
        ("{seeds: [100], sampler: tpe, trials: 4, learning_rate: 1e-3}", "a list of values to try or a range"),
        ("{seeds: [100], sampler: tpe, trials: 4, rank: [2, 4]}", "'rank' is no key of train, nor an option of the adapter"),
        ("{seeds: [100], sampler: tpe, trials: 4}", "name at least one key"),
        ("{seeds: [100], sampler: tpe, trials: 0, learning_rate: [1e-3]}", "must be 1 or more"),
        ("{seeds: [100], sampler: bayes, trials: 4, learning_rate: [1e-3]}", "grid, random, tpe or halving"),
        ("{seeds: [100], learning_rate: {low: 1e-4, high: 1e-1}}", "a range needs sampler: random or tpe"),
        ("{seeds: [100], trials: 3, learning_rate: [1e-3, 1e-2], warmup: [0.0, 0.1]}", "smaller than the grid, which has 4"),
        ("{seeds: [100], trials: 5, learning_rate: [1e-3, 1e-2], warmup: [0.0, 0.1]}", "larger than the grid, which has 4"),
        ("{seeds: [1], sampler: tpe, trials: 4, learning_rate: [1e-3]}", "tuning seeds must not be evaluation seeds"),
    ],
)
def test_what_cannot_be_tuned_is_an_error(tune: str, what: str) -> None:
    with pytest.raises(StudyError) as caught:
        validate_study(parse_yaml(GOOD.replace(TUNE, f"tune: {tune}")))
    assert what in str(caught.value) and "tune" in str(caught.value)


def test_what_is_tuned_has_one_form() -> None:
    tune = "{sampler: tpe, trials: 9, seeds: [100], adapter: {rank: {low: 2, high: 8}}, weight_decay: {low: 0, high: 1}}"
    study = validate_study(apply_overrides(parse_yaml(GOOD.replace(TUNE, f"tune: {tune}")), ["tune.adapter.alpha=[8, 16]"]))
    assert study.tune is not None and study.tune.number == 9
    decay, rank = study.tune.space["weight_decay"], study.tune.space["adapter.rank"]
    assert list(study.tune.space) == ["weight_decay", "adapter.rank", "adapter.alpha"], "keys of train come first"
    assert isinstance(decay, Range) and not decay.whole, "whole ends of a range of fractions are fractions"
    assert isinstance(rank, Range) and rank.whole
    again = validate_study(parse_yaml(dump(study)))
    assert again.tune is not None and again.tune.space == study.tune.space
    grid = validate_study(parse_yaml(GOOD))
    assert grid.tune is not None and (grid.tune.sampler, grid.tune.trials, grid.tune.number) == ("grid", None, 2)
