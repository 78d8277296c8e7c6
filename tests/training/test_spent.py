"""What a run has taken adds up over its processes, once, and says what was taken together with others or given up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import Stopped
from peftlab.training.checkpoint import Checkpoints, flatten, unflatten
from peftlab.training.spent import ALONE, Spent
from tests.training.conftest import Lab, cache, lab, tiny_backbone

STACK = {"runs": 4, "passes": 9, "joint_passes": 8, "mean_runs": 3.5}


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Seconds go by: of the clock as many, of the processor half."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: now[0] / 2)
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def kept(state: Any) -> Any:
    """As a checkpoint gives it back."""
    tensors, values = flatten({"spent": state})
    return unflatten(tensors, json.loads(json.dumps(values)))["spent"]


def test_processes_add_up_and_what_came_after_a_checkpoint_is_lost(wait: Callable[[float], None]) -> None:
    first = Spent()
    wait(10)
    saved = kept(first.state())
    wait(5)
    second = Spent()
    wait(2)
    second.load(saved)  # loading counts as well
    wait(1)
    saved = kept(second.state())
    assert (saved["total_s"], saved["cpu_s"], saved["part_s"]) == (13.0, 6.5, 13.0)
    assert saved["stacked"] == saved["given_up"] == {}
    third = Spent()
    third.load(saved)
    assert third.state() == saved


def test_what_was_computed_together_is_known_to_the_end(wait: Callable[[float], None]) -> None:
    first = Spent(lambda: STACK)
    wait(40)
    saved = kept(first.state())
    assert (saved["stacked"], saved["total_s"], saved["part_s"]) == (STACK, 40.0, 10.0)
    second = Spent()
    second.load(saved)
    wait(5)
    found = second.state()
    assert found["stacked"] == {**STACK, "why_alone": ALONE}
    assert (found["total_s"], found["part_s"]) == (45.0, 15.0), "a quarter of what four took, and all that it took alone"
    third = Spent()
    third.load({**saved, "stacked": {**STACK, "why_alone": "a hook acts on x"}})
    assert third.state()["stacked"]["why_alone"] == "a hook acts on x"


def test_attempts_given_up_are_part_of_the_total(wait: Callable[[float], None]) -> None:
    first = Spent()
    wait(10)
    given_up = kept(first.give_up())
    wait(4)
    assert first.state() == {"total_s": 14.0, "cpu_s": 7.0, "part_s": 14.0, "stacked": {}, "given_up": given_up["given_up"]}
    second = Spent()
    second.load(given_up)  # the process before left no checkpoint of its second attempt
    wait(3)
    found = second.state()
    assert (found["total_s"], found["given_up"]) == (13.0, {"total_s": 10.0, "cpu_s": 5.0})
    assert second.give_up()["given_up"] == {"total_s": 13.0, "cpu_s": 6.5}, "both"


def test_what_nobody_wrote_down_stays_unknown(wait: Callable[[float], None]) -> None:
    spent = Spent()
    spent.load(None)
    wait(1)
    assert spent.state()["total_s"] is spent.state()["cpu_s"] is spent.give_up()["given_up"]["total_s"] is None


def test_checkpoints_carry_it(lab: Lab, tmp_path: Path) -> None:
    first = lab.trainer(tmp_path, should_stop=iter([False, True]).__next__)
    first.spent = Spent(lambda: STACK)
    with pytest.raises(Stopped):
        first.fit()
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    saved = found[1]["loop"]["spent"]
    assert saved["total_s"] >= first.train_s > 0
    second = lab.trainer(tmp_path)
    fitted = second.fit()
    state = second.spent.state()
    assert state["total_s"] >= fitted.train_s and state["total_s"] > saved["total_s"]
    assert state["stacked"]["runs"] == 4


__all__ = ["cache", "lab", "tiny_backbone"]
