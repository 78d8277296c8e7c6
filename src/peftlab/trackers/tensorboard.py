"""TensorBoard: event files in the results folder, one log directory a run."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from peftlab.trackers.contract import MARK, Line, Session, Status, TrackedRun, Tracker, flat


class _Session(Session):
    def __init__(self, folder: Path, run: TrackedRun) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        written = sorted(folder.glob("events.out.tfevents.*"))
        self.last = _last(written)
        self.writer = EventFileWriter(str(folder))
        if not written:
            self._describe(run)

    def log(self, lines: Sequence[Line]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        for line in lines:  # one record each: there whole, or not at all
            values = [Summary.Value(tag=name, simple_value=value) for name, value in line.values.items()]
            self._write(Summary(value=values), line.step)
        self.writer.flush()

    def close(self, status: Status) -> None:
        self.writer.close()

    def _describe(self, run: TrackedRun) -> None:
        """Settings for the HPARAMS tab, and as text."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb

        plain = {key: value for key, value in flat(run.settings()).items() if isinstance(value, bool | int | float | str)}
        self._write(hparams_pb(plain, trial_id=run.id), 0)
        text = json.dumps({**run.names(), **run.settings()}, indent=1, sort_keys=True)
        self._write(text_pb("config", "\n".join(f"    {row}" for row in text.splitlines())), 0)

    def _write(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def _last(files: Sequence[Path]) -> dict[str, int]:
    """Split -> last step in the event files; half a record at the end of one, left by a crash, is passed over."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    last: dict[str, int] = {}
    for file in files:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                split, _, name = value.tag.rpartition("/")
                if name == MARK:
                    last[split] = max(event.step, last.get(split, -1))
    return last


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorBoard(Tracker):
    """TensorBoard: event files, in ``trackers/tensorboard/ARM/seed-SEED-ID`` of the results folder; values are float32 there.

    Shown by ``tensorboard --logdir results/STUDY/trackers/tensorboard``, on this machine only. The settings of a run are in the
    HPARAMS tab.
    """

    name: ClassVar[str] = "tensorboard"
    modules: ClassVar[tuple[str, ...]] = ("tensorboard",)
    citation: ClassVar[str] = """@inproceedings{abadi2016tensorflow,
  title = {{TensorFlow}: A System for Large-Scale Machine Learning},
  author = {Abadi, Mart{\\'i}n and Barham, Paul and Chen, Jianmin and others},
  booktitle = {12th USENIX Symposium on Operating Systems Design and Implementation (OSDI)}, pages = {265--283}, year = {2016}
}"""

    def open(self, run: TrackedRun) -> Session:
        """The event files of this run so far stay as they are; a new one is begun beside them."""
        place = f"seed-{run.config.seed}-{run.config.run_id[:8]}" + (f"-{run.attempt}" if run.attempt else "")
        return _Session(run.folder / self.name / run.config.slug / place, run)
