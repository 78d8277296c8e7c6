"""Faults 16, 21, 27 and 28: other processes, other programs, and the clock of the machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from peftlab.execution.memory_guard import Shortage
from peftlab.execution.progress import NullListener
from peftlab.execution.silence import Silence
from peftlab.records.store import verify
from tests.execution.test_local import start_runner
from tests.faults.conftest import Ground
from tests.faults.inject import order, wait_until

GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
LIMIT = 2**28


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 256 MB, where this user may make one."""
    name = f"peftlab-fault-{os.getpid()}"
    for root, limits in zip(GROUPS, (("memory.limit_in_bytes",), ("memory.max", "memory.swap.max")), strict=True):
        group = root / name
        with suppress(OSError):
            group.mkdir()
            with suppress(OSError):
                for limit in limits:
                    (group / limit).write_text(str(LIMIT) if limit != "memory.swap.max" else "0")
                yield group
                for _ in range(50):
                    with suppress(OSError):
                        group.rmdir()
                        break
                    time.sleep(0.1)
                return
            group.rmdir()
    pytest.skip("no control group with a limit of memory can be made here")


def test_21_the_out_of_memory_killer_ends_one_worker_and_its_siblings_go_on(ground: Ground, small_group: Path) -> None:
    struck, other = ground.config(), ground.config(seed=1)
    outcome = ground.run(struck, other, jobs=2, fault={"fault": "eat", "step": 7, "group": str(small_group)})
    how = {ending.config.run_id: ending for ending in outcome.endings}
    endings = sorted(ending.how for ending in outcome.endings)
    assert endings == ["failed", "finished"]
    failed = next(ending for ending in how.values() if ending.how == "failed")
    assert failed.error["type"] == "WorkerDied" and "the system ran out of memory" in failed.error["what"]
    assert "--jobs" in failed.error["remedy"]
    for config in (struck, other):
        ground.run(config)
        ground.same(config)
    assert verify(ground.here) == []


class Watcher(NullListener):
    def __init__(self) -> None:
        self.silences: list[Silence] = []
        self.shortages: list[Shortage] = []

    def silent(self, silence: Silence) -> None:
        self.silences.append(silence)

    def waiting(self, shortage: Shortage) -> None:
        self.shortages.append(shortage)


def test_27_a_hung_step_is_ended_where_its_study_says_so(ground: Ground) -> None:
    """With its stack in its log; tried again only on request, and then as if nothing had been. Reported and left: test_local."""
    config = ground.config(seed=2, on_hang="fail", hang_limit_s=6.0)
    assert config.run_id == ground.config(seed=2).run_id, "when a run is given up is no part of what it is"
    watcher = Watcher()
    began = time.monotonic()
    outcome = ground.run(config, fault={"fault": "hang", "step": 7, "seconds": 600.0}, listener=watcher)
    assert time.monotonic() - began < 300
    error = outcome.endings[0].error
    assert outcome.counts == {"failed": 1} and error["type"] == "Hung" and "hang_limit_s" in error["what"]
    assert [silence.ends for silence in watcher.silences] == [True] and watcher.silences[0].step is not None
    record = ground.here.run(config).error()
    assert record is not None and "inject.py" in record.traceback, "the stack names what hangs"
    assert ground.run(config, retry_failed=False).counts == {"failed-before": 1}
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 1


@pytest.mark.parametrize("by_s", [86400.0, -86400.0], ids=["ahead", "back"])
def test_28_the_clock_jumps(ground: Ground, by_s: float) -> None:
    """A second runner still sees that the run is being worked on, though its heartbeat is a day old, or of tomorrow."""
    config = ground.config()
    mark = order(ground.here.path)
    said: list[str] = []

    def rival() -> None:
        wait_until(mark.with_suffix(".jumped").exists)
        said.append(start_runner(ground.here, [config]).communicate(timeout=120)[0])
        mark.with_suffix(".released").touch()

    thread = threading.Thread(target=rival)
    thread.start()
    outcome = ground.run(config, fault={"fault": "clock", "step": 6, "by_s": by_s})
    thread.join()
    assert outcome.counts == {"finished": 1}
    assert '"how": "leased"' in said[0]
    ground.same(config)
    assert verify(ground.here) == []
