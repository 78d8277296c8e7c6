"""When things happen: positions, data order, learning rate as pure functions of the step. Nothing to save or restore."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from peftlab.nn.seeding import derive
from peftlab.study.schema import Train

BUCKET = 32  #: steps whose examples are drawn together, sorted by length and cut into steps again


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

    def micro_batches(
        self, step: int, train_indices: np.ndarray, seed: int, lengths: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Indices of the examples of one step, in micro-batches. Order of an epoch = f(seed, epoch, lengths), nothing else.

        ``lengths`` (of all training examples, int [N]): the examples of a step, and more so those of a micro-batch, are then of
        similar length.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        draws = np.random.Generator(np.random.Philox(derive(seed, "order", epoch)))
        order = draws.permutation(self.examples)
        if lengths is not None:
            order = bucketed(order, lengths, self.effective_batch, draws)
        chosen = train_indices[order[position * self.effective_batch : (position + 1) * self.effective_batch]]
        return [chosen[i : i + self.batch] for i in range(0, len(chosen), self.batch)]

    def seen(self, steps_done: int) -> int:
        """Examples up to there: the last step of an epoch sees what is left of it."""
        epochs, rest = divmod(steps_done, self.steps_per_epoch)
        return epochs * self.examples + min(rest * self.effective_batch, self.examples)

    def evaluates_after(self, steps_done: int) -> bool:
        return steps_done % self.evaluate_steps == 0 or steps_done == self.total

    @property
    def evaluations(self) -> int:
        """Validations of a run that nothing stops early: as :meth:`evaluates_after` says, and one where nothing is trained."""
        return max(1, math.ceil(self.total / self.evaluate_steps))

    def logs_after(self, steps_done: int) -> bool:
        """Whether the training loss is told: a hundred times a run, if it has as many steps."""
        return steps_done % max(1, self.total // 100) == 0 or steps_done == self.total

    def lines(self, steps_done: int, *, validated: bool) -> set[tuple[int, str]]:
        """(step, split) of every line of metrics up to there; ``validated``: there are validation data."""
        steps = range(1, steps_done + 1)
        train = {(step, "train") for step in steps if self.logs_after(step)}
        return train | {(step, "validation") for step in steps if validated and self.evaluates_after(step)}


def bucketed(order: np.ndarray, lengths: np.ndarray, batch: int, draws: np.random.Generator) -> np.ndarray:
    """``order`` changed so that every run of ``batch`` examples is of similar length.

    Each stretch of :data:`BUCKET` batches is sorted by length and cut into batches, and all full batches of the epoch are then
    shuffled: which examples meet is still drawn anew in every epoch, and long and short batches come in random order. What does
    not fill a batch comes last.

    Args:
        order: a permutation of 0 .. N-1, int [N].
        lengths: int [N].
        batch: examples of a step.
        draws: for the order of the batches.
    """
    full = len(order) // batch * batch
    stretches = [order[i : min(i + BUCKET * batch, full)] for i in range(0, full, BUCKET * batch)]
    ordered = [stretch[np.argsort(lengths[stretch], kind="stable")] for stretch in stretches]
    batches = np.concatenate(ordered).reshape(-1, batch) if ordered else np.empty((0, batch), dtype=order.dtype)
    rest = order[full:]
    return np.concatenate([draws.permutation(batches).ravel(), rest[np.argsort(lengths[rest], kind="stable")]])
