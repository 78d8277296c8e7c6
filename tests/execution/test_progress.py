"""What listeners show of the same events."""

from __future__ import annotations

import io
import json
import math
import signal
from typing import Any

import pytest
from rich.console import Console

from peftlab.errors import LeaseHeld
from peftlab.execution.bars import RichListener
from peftlab.execution.memory_guard import Shortage
from peftlab.execution.progress import (
    Ending,
    JsonListener,
    Listener,
    NullListener,
    Outcome,
    PlainListener,
)
from peftlab.execution.protocol import Evaluated, Finished, Noted, Started, Step
from peftlab.execution.silence import Silence
from tests.execution.targets import configuration

ERROR = {"type": "NonFinite", "what": "the loss is [not] finite", "where": "step 3", "remedy": "lower the learning rate"}


def play(listener: Listener) -> Outcome:
    """One execution: a run that finishes, one that fails, one reused, one stopped."""
    configs = [configuration(seed) for seed in range(4)]
    listener.begin(4, 2)
    listener.message(configs[0], Started(0, 10))
    listener.message(configs[1], Started(4, 10))
    listener.message(configs[0], Step(5, 10, 0.25, 1e-3))
    listener.message(configs[1], Step(5, 10, None, 1e-3))
    listener.silent(Silence(configs[0], 71, 600.4, 5, None))
    listener.message(configs[0], Evaluated({"accuracy": 0.97312, "top5": None}, step=10))
    listener.message(configs[0], Finished())
    endings = (
        Ending(configs[0], "finished", time_s=12.3),
        Ending(configs[1], "failed", error=ERROR),
        Ending(configs[2], "reused", "completed"),
        Ending(configs[3], "interrupted"),
    )
    for ending in endings[:3]:
        listener.ended(ending)
    listener.stopping(signal.SIGINT, False)
    listener.ended(endings[3])
    outcome = Outcome(endings, signal.SIGINT)
    listener.close(outcome)
    return outcome


def test_a_run_left_to_another_runner_is_no_success() -> None:
    """It may still fail there."""
    evaluated, tuned = configuration(0), configuration(1).model_copy(update={"purpose": "tuning"})
    assert Outcome((Ending(evaluated, "leased"), Ending(tuned, "finished"))).exit_code == 6
    assert Outcome((Ending(evaluated, "finished"), Ending(tuned, "leased"))).exit_code == LeaseHeld.exit_code == 6
    assert Outcome((Ending(evaluated, "failed", error=ERROR), Ending(tuned, "leased"))).exit_code == 1


def test_the_outcome_counts_and_gives_the_exit_code() -> None:
    outcome = play(NullListener())
    assert outcome.counts == {"finished": 1, "failed": 1, "reused": 1, "interrupted": 1}
    assert outcome.interrupted and outcome.exit_code == 130
    assert [e.config.seed for e in outcome.failed] == [1] and [e.config.seed for e in outcome.reused] == [2]
    assert Outcome(outcome.endings[:3]).exit_code == 1
    assert Outcome(outcome.endings[:1]).exit_code == 0
    assert Outcome(outcome.endings, signal.SIGTERM).exit_code == 75
    assert Outcome(()).counts == {} and Outcome(()).exit_code == 0


def test_plain_lines_say_it_all() -> None:
    stream = io.StringIO()
    play(PlainListener(stream))
    assert stream.getvalue().splitlines() == [
        "4 runs, 2 at a time",
        "arm seed 0: started",
        "arm seed 1: continued at step 4",
        "arm seed 0: nothing heard for 600 s, after step 5; it goes on. If it hangs: `kill -9 71` ends it alone, and"
        " --retry-failed continues it from its last checkpoint",
        "arm seed 0: step 10 validation accuracy 0.9731",
        "[1/4] arm seed 0: finished in 12.3 s",
        "[2/4] arm seed 1: failed: NonFinite: the loss is [not] finite -> lower the learning rate",
        "[3/4] arm seed 2: reused (finished before)",
        "stopping after the step in flight; once more to stop without saving",
        "[4/4] arm seed 3: stopped; run again to continue",
        "1 failed, 1 finished, 1 interrupted, 1 reused",
    ]


def test_one_run_needs_no_word_on_how_many_at_a_time() -> None:
    stream = io.StringIO()
    PlainListener(stream).begin(1, 1)
    assert stream.getvalue() == "1 run\n"


def test_json_lines_are_json() -> None:
    stream = io.StringIO()
    listener = JsonListener(stream)
    play(listener)
    listener.message(configuration(), Step(1, 2, math.nan, 1e-3))
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [e["event"] for e in found] == [
        "begin", "started", "started", "step", "step", "silent", "evaluated", "finished", "ended", "ended", "ended", "stopping",
        "ended", "close", "step",
    ]  # fmt: skip
    assert found[3]["loss"] == 0.25 and found[-1]["loss"] is None
    assert found[9]["error"] == ERROR and found[9]["arm"] == "arm" and found[9]["seed"] == 1
    assert found[13] == {"event": "close", "counts": play(NullListener()).counts, "interrupted": True, "exit_code": 130}


@pytest.mark.parametrize("kind", [PlainListener, JsonListener, RichListener])
def test_a_wait_for_memory_and_a_silence_that_ends_a_run_are_told(kind: Any) -> None:
    stream = io.StringIO()
    listener = kind(Console(file=stream, force_terminal=True, width=160, color_system=None) if kind is RichListener else stream)
    listener.waiting(Shortage(configuration(7), 1234.0, 800.0))
    listener.silent(Silence(configuration(8), 71, 1800.0, 5, None, ends=True))
    shown = stream.getvalue()
    if kind is JsonListener:
        waiting, silent = (json.loads(line) for line in shown.splitlines())
        assert (waiting["event"], waiting["seed"], waiting["needed_mb"], waiting["room_mb"]) == ("waiting", 7, 1234.0, 800.0)
        assert silent["event"] == "silent" and silent["ends"] is True
    else:
        assert "arm seed 7: waits for memory: predicted to need 1,234 MB of its own, room is for 800 MB" in shown
        assert "arm seed 8: nothing heard for 1800 s, after step 5; its process is ended" in shown


@pytest.mark.parametrize("kind", [PlainListener, JsonListener, RichListener])
def test_a_note_is_told_once_a_person_and_of_every_run_to_a_script(kind: Any) -> None:
    stream = io.StringIO()
    listener = kind(Console(file=stream, force_terminal=True, width=160, color_system=None) if kind is RichListener else stream)
    for seed in (0, 1):
        listener.message(configuration(seed), Noted("tracker [x]: no"))
    listener.message(configuration(2), Noted("tracker y: no"))
    shown = stream.getvalue()
    if kind is JsonListener:
        lines = [json.loads(line) for line in shown.splitlines()]
        assert [(line["event"], line["seed"]) for line in lines] == [("noted", 0), ("noted", 1), ("noted", 2)]
        assert lines[0]["what"] == "tracker [x]: no"
    else:
        assert shown.splitlines() == ["arm seed 0: tracker [x]: no", "arm seed 2: tracker y: no"]
