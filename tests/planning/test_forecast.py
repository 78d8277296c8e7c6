"""Time of a run, predicted: as many evaluations as the training loop makes."""

from __future__ import annotations

import pytest

from peftlab.planning.estimate import Estimate
from peftlab.planning.forecast import Forecast
from peftlab.planning.prefix import READ_BYTES_PER_S, Shortcut
from peftlab.study.schema import Train
from peftlab.training.schedule import Schedule

SIZES = {"train": 40, "validation": 7, "test": 11}
SCHEDULES = [
    Train(epochs=epochs, max_steps=steps, batch_size=4, evaluate_every=every)
    for epochs, steps, every in [(0.5, None, 1), (1.5, None, 1), (2.0, None, 1), (2.5, None, 1), (3.0, 7, 0.2), (1.0, 0, 1)]
]


def _estimate(evaluate_s: float) -> Estimate:
    return Estimate(parts_mb={}, evaluate_peak_mb=0, step_flops=0, step_time_s=0, evaluate_time_per_example_s=evaluate_s)


def _in_the_loop(schedule: Schedule) -> int:
    """Examples that are evaluated: training/loop.py asks after every step, and validates a run without steps once."""
    validations = sum(schedule.evaluates_after(done) for done in range(1, schedule.total + 1))
    return (validations if schedule.total else 1) * SIZES["validation"] + SIZES["test"]


@pytest.mark.parametrize("train", SCHEDULES)
def test_every_evaluation_is_predicted_also_that_of_a_shorter_last_stretch(train: Train) -> None:
    schedule = Schedule.of(train, SIZES["train"])
    found = Forecast(
        trainable=1, head=1, total=1, trains_all=False, estimate=_estimate(1.0), fill=1.0, notes=(), sites=(), ranks=None
    )
    assert found.seconds(schedule, SIZES) == pytest.approx(_in_the_loop(schedule))


@pytest.mark.parametrize("train", SCHEDULES)
def test_hidden_states_are_read_for_every_evaluation(train: Train) -> None:
    schedule = Schedule.of(train, SIZES["train"])
    shortcut = Shortcut(cut="head", blocks=4, row_bytes=int(READ_BYTES_PER_S), estimate=_estimate(0.0))
    decision = shortcut.decide(_estimate(1.0), 1.0, schedule, SIZES, 3, 1e9)
    sent = schedule.total * schedule.effective_batch + _in_the_loop(schedule)
    assert decision.use_s == pytest.approx(sent + 2 * sum(SIZES.values()))  # checking takes twice as long as reading
