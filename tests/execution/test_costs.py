"""Nobody who asks what a run took is given what several took together, and rates count what was really seen."""

from __future__ import annotations

from pathlib import Path

from peftlab.execution.costs import shared, stack_note, times_of
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


def test_the_rate_of_a_run_counts_what_was_left_of_its_epochs(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, "linear-probe", train={"epochs": 2, "batch_size": 64})
    fitted = trainer.fit()
    assert (fitted.steps, trainer.schedule.examples) == (4, 90)
    times = times_of(fitted, trainer, trainer.spent.state())
    assert times["samples_per_s"] == 2 * 90 / fitted.train_s
    assert times["total_s"] >= times["train_s"] and not {"part_s", "given_up"} & set(times)
    spent = {"total_s": 9.0, "cpu_s": 8.0, "part_s": 3.0, "stacked": {"runs": 4}, "given_up": {"total_s": 2.0, "cpu_s": 1.0}}
    times = times_of(fitted, trainer, spent)
    assert {key: times[key] for key in ("total_s", "cpu_s", "part_s", "given_up")} == {
        key: spent[key] for key in ("total_s", "cpu_s", "part_s", "given_up")
    }


__all__ = ["cache", "lab", "tiny_backbone"]
