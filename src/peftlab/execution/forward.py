"""What a run in progress tells: its record, whoever watches, and the meter of its memory."""

from __future__ import annotations

from typing import Any

from peftlab.execution.protocol import Channel, Evaluated, Started, Step
from peftlab.execution.tracking import Tracking
from peftlab.records.run_folder import RunFolder
from peftlab.training.listener import Listener
from peftlab.training.memory import MemoryMeter


class Forward(Listener):
    """From the loop to the record and to whoever watches. Trackers read the record."""

    def __init__(self, folder: RunFolder, channel: Channel, memory: MemoryMeter, tracking: Tracking) -> None:
        self.folder, self.channel, self.memory, self.tracking = folder, channel, memory, tracking

    def on_step(self, step: int, total: int, loss: float, rate: float) -> None:
        self.memory.sample()
        self.channel.send(Step(step, total, loss, rate))

    def on_metrics(self, line: dict[str, Any]) -> None:
        self.folder.append_metrics([line], durable=False)
        if line["split"] == "validation":
            metrics = {k: v for k, v in line.items() if k not in ("step", "epoch", "split", "time_s")}
            self.channel.send(Evaluated(metrics, step=line["step"]))

    def on_save(self, step: int) -> None:
        self.folder.append_metrics([], durable=True)

    def on_truncate(self, step: int) -> set[tuple[int, str]]:
        self.folder.truncate_metrics(step)
        self.tracking.begin()
        self.channel.send(Started(step))
        return {(line.step, line.split) for line in self.folder.metrics()}
