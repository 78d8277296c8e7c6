"""What a run tells, on its way to the record: flushed before a checkpoint relies on it, and cut where training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftlab.execution.forward import Forward
from peftlab.execution.protocol import Channel, Started
from peftlab.execution.tracking import Tracking
from peftlab.records.run_folder import RunFolder
from peftlab.training.memory import MemoryMeter
from tests.execution.targets import configuration
from tests.records.disk import Told


class Heard(Channel):
    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, message: Any) -> None:
        self.said.append(message)


def line(step: int, split: str = "train") -> dict[str, Any]:
    return {"step": step, "epoch": step / 4, "split": split, "time_s": 0.0, "loss": 0.5}


@pytest.fixture
def forward(tmp_path: Path) -> Forward:
    folder = RunFolder(tmp_path)
    return Forward(folder, Heard(), MemoryMeter.__new__(MemoryMeter), Tracking((), folder, configuration(), ""))


def test_lines_are_flushed_when_a_checkpoint_is_about_to_rely_on_them(
    forward: Forward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, told = tmp_path / "metrics.jsonl", Told(monkeypatch)
    forward.on_metrics(line(1))
    forward.on_metrics(line(2, "validation"))
    assert told.events == [], "not after every line"
    forward.on_save(2)
    assert told.flushed(journal) and told.flushed(tmp_path)
    forward.on_metrics(line(3))
    assert not told.flushed(journal)
    forward.on_save(3)
    assert told.flushed(journal)


def test_what_is_kept_where_training_goes_on_is_said(forward: Forward) -> None:
    assert forward.on_truncate(0) == set()
    for told in (line(1), line(2), line(2, "validation"), line(3)):
        forward.on_metrics(told)
    assert forward.on_truncate(2) == {(1, "train"), (2, "train"), (2, "validation")}
    assert [found.step for found in forward.folder.metrics()] == [1, 2, 2]
    assert [message for message in forward.channel.said if isinstance(message, Started)] == [Started(0), Started(2)]  # pyright: ignore
