"""Bars on a terminal, of all runs and of each."""

from __future__ import annotations

import io
import re
import signal

import pytest
from rich.console import Console

from peftlab.execution.bars import RichListener, listener_for
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.progress import JsonListener, PlainListener
from peftlab.execution.protocol import Evaluated, Step
from peftlab.records.record import RunConfig
from tests.execution.targets import configuration
from tests.execution.test_progress import play


def test_bars_on_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, color_system=None)
    listener = RichListener(console)
    play(listener)
    shown = stream.getvalue()
    assert "arm seed 0: finished in 12.3 s" in shown
    assert "arm seed 0: nothing heard for 600 s" in shown
    assert "the loss is [not] finite" in shown, "what looks like markup is shown as it is"
    assert "1 failed, 1 finished, 1 interrupted, 1 reused" in shown
    assert listener.bars == {} and listener.progress.finished


def test_the_bar_of_a_run_shows_step_and_loss() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None)
    listener = RichListener(console)
    listener.begin(2, 1)
    listener.message(configuration(7), Step(30, 120, 0.12345, 1e-3))
    task = next(task for task in listener.progress.tasks if "seed 7" in task.description)
    assert (task.completed, task.total, task.fields["note"]) == (30, 120, "loss 0.1235")
    listener.close(Outcome(()))


@pytest.mark.parametrize(
    ("terminal", "as_json", "kind"), [(True, False, RichListener), (False, False, PlainListener), (True, True, JsonListener)]
)
def test_bars_only_on_a_terminal(terminal: bool, as_json: bool, kind: type) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    assert type(listener_for(console, as_json=as_json)) is kind


def screens(shown: str, width: int) -> list[str]:
    """Every line that was ever drawn; none is wider than the terminal."""
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= width
    return lines


def tuning(seed: int, *, max_steps: int | None = None) -> RunConfig:
    tried = {"learning_rate": 0.00211217, "weight_decay": 0.1, "adapter.rank": 12}
    config = configuration(seed)
    return config.model_copy(
        update={"purpose": "tuning", "tuned": tried, "train": {**config.train, "max_steps": max_steps}, "label": "lora"}
    )


def test_a_long_name_leaves_room_for_times_and_what_is_said_of_stopping() -> None:
    stream = io.StringIO()
    listener = RichListener(
        Console(file=stream, force_terminal=True, width=80, color_system=None, legacy_windows=False), "tuning"
    )
    listener.begin(36, 2)
    listener.message(tuning(100), Step(8, 11, 1.3616, 1e-3))
    listener.progress.refresh()
    listener.stopping(signal.SIGINT, False)
    listener.message(tuning(100), Evaluated({"accuracy": 0.9, "accuracy_top5": 1.0, "macro_f1": 0.9, "loss": 0.3}, step=11))
    listener.progress.refresh()
    listener.close(Outcome(()))
    lines = screens(stream.getvalue(), 80)
    run = next(line for line in lines if "loss 1.3616" in line)
    assert run.startswith("lora seed 100 (learning") and re.search(r" 8/11 loss 1\.3616 0:00:0\d (-:--:--|0:00:0\d)", run), run
    assert any("accuracy 0.9 0:00:0" in line and line.startswith("lora seed 100 (learning") for line in lines)
    assert any(line.strip() == "stopping after the step in flight; once more to stop without saving" for line in lines)
    assert any(re.match(r"tuning .* 0/36 .*0:00:0\d -:--:--", line) for line in lines)


def test_the_rungs_of_a_halving_can_be_told_apart() -> None:
    stream = io.StringIO()
    listener = PlainListener(stream, "tuning, round 2")
    listener.begin(12, 2)
    listener.ended(Ending(tuning(100, max_steps=11), "finished", time_s=1.4))
    listener.ended(Ending(tuning(100), "finished", time_s=4.7))
    assert stream.getvalue().splitlines() == [
        "tuning, round 2: 12 runs, 2 at a time",
        "[1/12] lora seed 100 (tuning: learning_rate 0.00211217, weight_decay 0.1, adapter.rank 12, 11 steps): finished in 1.4 s",
        "[2/12] lora seed 100 (tuning: learning_rate 0.00211217, weight_decay 0.1, adapter.rank 12): finished in 4.7 s",
    ]
