"""The micro-batches of training steps, on the device: which examples, which of their weight, and prepared ahead where that helps.

What a batch is depends on (seed, step, number) alone, so preparing the next one while the present one is computed changes nothing
but the time. That is done for CUDA: the processor decodes, collates and pins memory while the GPU works, and the copy does not
wait. A worker on the CPU has one core, which has nothing to gain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from peftlab.nn.seeding import generator
from peftlab.tasks.contract import PreparedTask
from peftlab.training.evaluation import to_device
from peftlab.training.schedule import Schedule
from peftlab.training.team import Team

Batch = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One micro-batch."""

    step: int
    number: int  #: within its step
    examples: np.ndarray  #: that this process computes with
    share: float  #: of the weight of the step's examples; 0: computed with, and not counted (training/team.py)


class Feed:
    """The micro-batches of a run.

    Args:
        examples: of the training split, int64 [N].
        seed: of the run; the random numbers of a micro-batch's augmentation are a function of it, the step and the number.
        ahead: prepare the next micro-batch in a thread meanwhile; None: where the device is a GPU of CUDA.
    """

    def __init__(
        self,
        task: PreparedTask,
        examples: np.ndarray,
        schedule: Schedule,
        seed: int,
        team: Team,
        device: torch.device,
        ahead: bool | None = None,
    ) -> None:
        self.task, self.examples, self.schedule, self.seed, self.team, self.device = task, examples, schedule, seed, team, device
        self.lengths = task.lengths(examples)
        self.pin = device.type == "cuda"
        ahead = self.pin if ahead is None else ahead
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="feed") if ahead else None
        self.prepared: tuple[tuple[int, int], Future[Batch]] | None = None  #: (step, number) of the batch in the thread's hands

    def step(self, step: int) -> Iterator[tuple[float, Batch]]:
        """Share and batch of every micro-batch of an optimizer step; the shares of all processes add up to 1."""
        jobs = self._jobs(step)
        for place, job in enumerate(jobs):
            batch = self._batch(job)
            if self.thread is not None:
                self._ahead(jobs[place + 1 :] or (self._jobs(step + 1) if step + 1 < self.schedule.total else []))
            yield job.share, to_device(batch, self.device)

    def close(self) -> None:
        """Let the thread end; what it was preparing is not wanted any more."""
        self.prepared = None
        if self.thread is not None:
            self.thread.shutdown(wait=True, cancel_futures=True)

    def _jobs(self, step: int) -> list[Job]:
        micro_batches = self.schedule.micro_batches(step, self.examples, self.seed, self.lengths)
        whole = sum(self.task.weight(indices) for indices in micro_batches)
        jobs = []
        for number, indices in enumerate(micro_batches):
            mine = self.team.share(indices, number)
            share = self.task.weight(mine) / whole
            if share or self.team.together:  # else there are fewer examples than processes
                jobs.append(Job(step, number, mine if share else indices, share))
        return jobs

    def _batch(self, job: Job) -> Batch:
        if self.prepared is not None:
            key, future = self.prepared
            self.prepared = None
            if key == (job.step, job.number):
                return future.result()
            future.cancel()
        return self._make(job)

    def _ahead(self, following: list[Job]) -> None:
        if following and self.thread is not None:
            job = following[0]
            self.prepared = (job.step, job.number), self.thread.submit(self._make, job)

    def _make(self, job: Job) -> Batch:
        random = generator(self.seed, "augment", job.step, job.number, *self.team.own)
        batch = self.task.batch(job.examples, random)
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if self.pin else batch
