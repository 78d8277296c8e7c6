"""When things happen: positions, data order, learning rate as pure functions of the step. Nothing to save or restore."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from peftlab.nn.seeding import derive
from peftlab.study.schema import Train


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Optimizer steps 0 .. total-1 over ``examples`` training examples.

    One step sees ``effective_batch`` examples (the last step of an epoch what is left), in micro-batches of ``batch``.
    """

    examples: int
    batch: int
    effective_batch: int
    total: int
    steps_per_epoch: int
    evaluate_steps: int  #: steps between two evaluations on validation
    warmup_steps: int
    learning_rate: float
    shape: str

    @classmethod
    def of(cls, train: Train, examples: int) -> Schedule:
        """The schedule of a resolved ``train`` section (``batch_size: auto`` already decided)."""
        assert isinstance(train.batch_size, int)
        effective = train.effective_batch_size or train.batch_size
        per_epoch = math.ceil(examples / effective)
        total = max(1, round(train.epochs * per_epoch))
        if train.max_steps is not None:
            total = min(total, train.max_steps)
        return cls(
            examples=examples,
            batch=train.batch_size,
            effective_batch=effective,
            total=total,
            steps_per_epoch=per_epoch,
            evaluate_steps=max(1, round(train.evaluate_every * per_epoch)),
            warmup_steps=round(train.warmup * total),
            learning_rate=train.learning_rate,
            shape=train.schedule,
        )

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up from lr/(w+1) over w steps, then cosine or linear towards 0, or constant."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, self.total - self.warmup_steps)
        factor = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[self.shape]
        return self.learning_rate * factor

    def epoch(self, steps_done: int) -> float:
        return steps_done / self.steps_per_epoch

    def micro_batches(self, step: int, train_indices: np.ndarray, seed: int) -> list[np.ndarray]:
        """Indices of the examples of one step, in micro-batches. Order of an epoch = f(seed, epoch), nothing else."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.Generator(np.random.Philox(derive(seed, "order", epoch))).permutation(self.examples)
        chosen = train_indices[order[position * self.effective_batch : (position + 1) * self.effective_batch]]
        return [chosen[i : i + self.batch] for i in range(0, len(chosen), self.batch)]

    def evaluates_after(self, steps_done: int) -> bool:
        return steps_done % self.evaluate_steps == 0 or steps_done == self.total
