"""Nobody who asks what a run took is given what several took together, and rates count what was really seen."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from peftlab.execution.costs import examples_seen, shared, stack_note, times_of
from peftlab.study.schema import Train
from peftlab.training.schedule import Schedule
from tests.training.conftest import Lab, cache, lab, tiny_backbone


def test_figures_of_a_stack_stand_apart() -> None:
    memory = {"measured_peak_mb": 700.0, "measured": {"weights": 2.0}, "device": "cpu", "notes": ["scarce"]}
    times = {"train_s": 3.0, "total_s": 5.0, "hooks_s": {}, "threads": 1, "device": "cpu", "precision": "float32"}
    about = {"runs": 4, "passes": 9, "joint_passes": 8, "mean_runs": 3.5}
    memory, times = shared(memory, times, about)
    assert set(memory) == {"device", "notes", "stacked", "shared"} and memory["shared"]["measured_peak_mb"] == 700.0
    assert memory["notes"] == ["scarce", "of all runs in the process"]
    assert set(times) == {"threads", "device", "precision", "stacked", "shared"} and times["shared"]["train_s"] == 3.0
    assert "memory and time are those of all" in stack_note(about) and "alone" not in stack_note(about)
    assert stack_note({**about, "why_alone": "a hook acts on x"}).endswith("by itself in the end: a hook acts on x")
    assert "not computed together: a hook" in stack_note({**about, "joint_passes": 0, "why_alone": "a hook"})


@given(examples=st.integers(1, 60), batch=st.integers(1, 70), effective=st.integers(1, 3), steps=st.integers(0, 30))
def test_examples_are_those_of_the_micro_batches(examples: int, batch: int, effective: int, steps: int) -> None:
    """100 examples in batches of 64 are 100 an epoch, not 128."""
    schedule = Schedule.of(Train(epochs=30, batch_size=batch, effective_batch_size=effective * batch), examples)
    seen = [schedule.micro_batches(step, np.arange(examples), 0) for step in range(steps)]
    assert examples_seen(schedule, steps) == sum(len(batch) for step in seen for batch in step)


def test_the_rate_of_a_run_counts_what_was_left_of_its_epochs(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, "linear-probe", train={"epochs": 2, "batch_size": 64})
    fitted = trainer.fit()
    assert (fitted.steps, trainer.schedule.examples) == (4, 90)
    times = times_of(fitted, trainer, time.perf_counter(), time.process_time())
    assert times["samples_per_s"] == 2 * 90 / fitted.train_s


__all__ = ["cache", "lab", "tiny_backbone"]
