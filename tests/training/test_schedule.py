"""Positions, order and learning rate are pure functions of the step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.study.schema import Train
from peftlab.training.schedule import Schedule

trains = st.builds(
    lambda epochs, batch, factor, warmup, shape: Train(
        epochs=epochs, batch_size=batch, effective_batch_size=batch * factor, warmup=warmup, schedule=shape
    ),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 3),
    st.floats(0, 1),
    st.sampled_from(["cosine", "linear", "constant"]),
)


@given(trains, st.integers(1, 50), st.integers(0, 5), st.booleans())
def test_every_epoch_sees_every_example_once(train: Train, examples: int, seed: int, bucketing: bool) -> None:
    schedule = Schedule.of(train, examples)
    indices = np.arange(100, 100 + examples)
    lengths = np.arange(examples) * 7 % 13 if bucketing else None
    for epoch in range(int(train.epochs)):
        steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
        seen = [i for step in steps for part in schedule.micro_batches(step, indices, seed, lengths) for i in part]
        assert sorted(seen) == list(indices)


@given(trains, st.integers(1, 200))
def test_learning_rate_stays_within_its_bounds_and_is_positive_in_every_step(train: Train, examples: int) -> None:
    schedule = Schedule.of(train, examples)
    rates = [schedule.rate(step) for step in range(schedule.total)]
    assert all(0 < rate <= train.learning_rate * (1 + 1e-12) for rate in rates)
    warm = rates[: schedule.warmup_steps]
    assert warm == sorted(warm)
    rest = rates[schedule.warmup_steps :]
    assert rest == sorted(rest, reverse=True)


def test_cosine_without_warm_up_is_the_textbook_curve() -> None:
    schedule = Schedule.of(Train(epochs=1, batch_size=1, learning_rate=2.0, warmup=0.0), 8)
    assert [schedule.rate(s) for s in range(8)] == pytest.approx([1 + math.cos(math.pi * s / 8) for s in range(8)])


def test_max_steps_caps_and_fractional_epochs_count() -> None:
    assert Schedule.of(Train(epochs=10, batch_size=10, max_steps=7), 100).total == 7
    assert Schedule.of(Train(epochs=0.5, batch_size=10), 100).total == 5
    assert Schedule.of(Train(epochs=0.01, batch_size=10), 100).total == 1  # never none


def test_order_differs_between_epochs_and_seeds_and_never_between_calls() -> None:
    schedule = Schedule.of(Train(epochs=2, batch_size=64), 64)
    indices = np.arange(64)

    def order(step: int, seed: int) -> list[int]:
        return schedule.micro_batches(step, indices, seed)[0].tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)


def test_texts_of_similar_length_meet_in_an_order_that_is_drawn_anew() -> None:
    schedule = Schedule.of(Train(epochs=2, batch_size=16), 1000)
    lengths = np.random.default_rng(0).integers(5, 100, 1000)
    indices = np.arange(1000)

    def epoch(number: int, seed: int = 0) -> list[np.ndarray]:
        steps = range(number * schedule.steps_per_epoch, (number + 1) * schedule.steps_per_epoch)
        return [schedule.micro_batches(step, indices, seed, lengths)[0] for step in steps]

    first, second = epoch(0), epoch(1)
    plain = [schedule.micro_batches(step, indices, 0)[0] for step in range(schedule.steps_per_epoch)]
    padding, unsorted = (
        sum(lengths[batch].max() * len(batch) - lengths[batch].sum() for batch in batches) for batches in (first, plain)
    )
    assert padding < 0.15 * unsorted
    assert {tuple(sorted(batch)) for batch in first} & {tuple(sorted(batch)) for batch in second} == set()
    longest = [lengths[batch].max() for batch in first]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3  # long batches come at any time
    assert all((a == b).all() for a, b in zip(first, epoch(0), strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first, epoch(0, seed=1), strict=True))


@pytest.mark.parametrize(("every", "steps"), [(0.01, 1), (0.1, 1), (0.15, 2), (0.5, 5), (1.0, 10), (2.0, 20)])
def test_a_share_of_an_epoch_between_two_evaluations_is_a_step_at_least(every: float, steps: int) -> None:
    schedule = Schedule.of(Train(epochs=2, batch_size=4, evaluate_every=every), 40)
    assert schedule.evaluate_steps == steps
    assert [t for t in range(1, 21) if schedule.evaluates_after(t)] == sorted({*range(steps, 21, steps), 20})


def test_the_rate_of_every_step_by_hand() -> None:
    """Three of nine steps warm up from 1/4; the six others fall from the whole rate towards 0."""
    expected = {
        "constant": [0.5, 1.0, 1.5, *[2.0] * 6],
        "linear": [0.5, 1.0, 1.5, *[2.0 * (1 - s / 6) for s in range(6)]],
        "cosine": [0.5, 1.0, 1.5, *[1 + math.cos(math.pi * s / 6) for s in range(6)]],
    }
    for shape, rates in expected.items():
        schedule = Schedule.of(Train(epochs=1, batch_size=1, learning_rate=2.0, warmup=1 / 3, schedule=shape), 9)  # pyright: ignore
        assert schedule.warmup_steps == 3
        assert [schedule.rate(step) for step in range(9)] == pytest.approx(rates)
        warm = Schedule.of(Train(epochs=1, batch_size=1, learning_rate=2.0, warmup=1.0, schedule=shape), 3)  # pyright: ignore
        assert [warm.rate(step) for step in range(3)] == pytest.approx([0.5, 1.0, 1.5])


def test_the_lines_up_to_a_step_are_those_that_are_told() -> None:
    """A hundred of training, if there are as many steps, and the last step's; and every validation."""
    short = Schedule.of(Train(batch_size=10, epochs=2, evaluate_every=0.4), 50)
    told = {(step, "train") for step in (1, 2, 3, 4, 5)} | {(2, "validation"), (4, "validation")}
    assert short.lines(5, validated=True) == told and short.lines(1, validated=True) == {(1, "train")}
    assert short.lines(4, validated=False) == {(step, "train") for step in (1, 2, 3, 4)} and not short.lines(0, validated=True)
    long = Schedule.of(Train(batch_size=1, epochs=1), 250)
    assert [step for step in range(1, 251) if long.logs_after(step)] == [*range(2, 251, 2)]
    odd = Schedule.of(Train(batch_size=1, epochs=1), 251)
    assert sorted(odd.lines(251, validated=True))[-3:] == [(250, "train"), (251, "train"), (251, "validation")]


def test_evaluations_and_epochs_are_counted_in_steps() -> None:
    schedule = Schedule.of(Train(epochs=2, batch_size=4, evaluate_every=0.5), 15)
    assert (schedule.steps_per_epoch, schedule.total, schedule.evaluate_steps) == (4, 8, 2)
    assert [schedule.evaluates_after(done) for done in range(1, 9)] == [False, True] * 4
    assert [schedule.epoch(done) for done in (0, 2, 8)] == [0.0, 0.5, 2.0]
    odd = Schedule.of(Train(epochs=1, batch_size=1, evaluate_every=1 / 3, max_steps=5), 9)
    assert [done for done in range(1, 6) if odd.evaluates_after(done)] == [3, 5], "after the last step too"


@given(examples=st.integers(1, 60), batch=st.integers(1, 70), effective=st.integers(1, 3), steps=st.integers(0, 30))
def test_examples_are_those_of_the_micro_batches(examples: int, batch: int, effective: int, steps: int) -> None:
    """100 examples in batches of 64 are 100 an epoch, not 128."""
    schedule = Schedule.of(Train(epochs=30, batch_size=batch, effective_batch_size=effective * batch), examples)
    seen = [schedule.micro_batches(step, np.arange(examples), 0) for step in range(steps)]
    assert schedule.seen(steps) == sum(len(batch) for step in seen for batch in step)
