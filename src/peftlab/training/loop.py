"""The training loop. It knows no adapter, allocator or quantizer by name: who wants to act gives it a hook (nn/hooks.py).

A resumed run equals the uninterrupted one bit for bit on the same machine, versions and thread count: data order, dropout and
augmentation are functions of (seed, step), and checkpoints lie between optimizer steps only.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from peftlab.adapters.contract import Adapted
from peftlab.errors import NonFinite, RecordError, Stopped, TrainingError
from peftlab.nn.hooks import HookChain, TrainingHook
from peftlab.nn.modes import frozen_layers, train_mode, unmoved
from peftlab.nn.seeding import derive, seed_default
from peftlab.study.schema import Train
from peftlab.tasks.contract import Meter, PreparedTask, Splits
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.evaluation import check_finite, evaluate
from peftlab.training.feed import Feed
from peftlab.training.listener import Listener, gap
from peftlab.training.optimizers import clip, decay_changed, make_optimizer, optimizer_tensors, restore_optimizer
from peftlab.training.passes import Passes
from peftlab.training.precision import Precision, autocast
from peftlab.training.proof import Movement, assert_frozen, frozen_hash
from peftlab.training.recompute import enable_checkpointing
from peftlab.training.schedule import Schedule
from peftlab.training.selection import Selection, Selector
from peftlab.training.spent import Spent
from peftlab.training.team import Team
from peftlab.training.updates import Updates


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """When checkpoints are written. Has no influence on any result."""

    seconds: float = 30.0
    steps: int | None = None  #: also after every so many steps


@dataclasses.dataclass(slots=True)
class Fitted:
    """Outcome of :meth:`Trainer.fit`."""

    steps: int
    diverged_at: int | None
    selected: Selection  #: what is tested
    train_s: float
    evaluate_s: float
    step_s: list[float]
    resumed: int
    notes: list[str]
    flags: list[str]


@dataclasses.dataclass(kw_only=True)
class Trainer:
    """Trains one adapted backbone on one task.

    ``adapted`` is what is trained, already on ``device``; ``should_stop`` is asked between two steps: when it says yes the
    state is saved and Stopped is raised.
    """

    adapted: Adapted
    task: PreparedTask
    splits: Splits
    train: Train
    seed: int
    device: torch.device
    precision: Precision
    checkpoints: Checkpoints
    cadence: Cadence = Cadence()
    hooks: Sequence[TrainingHook] = ()
    listener: Listener = dataclasses.field(default_factory=Listener)
    should_stop: Callable[[], bool] = lambda: False
    team: Team = dataclasses.field(default_factory=Team)  #: the processes of the run, of which this is one
    passes: Passes = dataclasses.field(default_factory=Passes)  #: who computes the forward and backward passes of its steps
    spent: Spent = dataclasses.field(default_factory=Spent)  #: what the run has taken, before its training too

    def __post_init__(self) -> None:
        self.chain = HookChain(self.hooks)
        self.schedule = Schedule.of(self.train, len(self.splits.train))
        self.feed = Feed(self.task, self.splits.train, self.schedule, self.seed, self.team, self.device)
        self.trainable, self.learnt = self.adapted.trainable(), self.adapted.learnt()
        self.statistics = {name: t for name, t in self.learnt.items() if name not in self.trainable}  #: that move
        self.still = frozen_layers(self.adapted.module)  #: statistics of theirs do not
        self.vectors = sorted(self.adapted.vectors())  #: without weight decay although they have several dimensions
        self.optimizer = make_optimizer(self.trainable, self.train, self.device, self.vectors)
        self.updates = Updates(self.optimizer, self.precision, self.device, self.schedule.total)
        self.selector = Selector(self.train, self.task.info)
        self.selected = Selection()
        self.step = self.resumed = 0
        self.train_s = self.evaluate_s = 0.0
        self.window: list[float] = []  #: losses since the last line of metrics
        self.notes: list[str] = []
        self.base_check: dict[str, Any] = {}  #: what was found of the frozen tensors in the end

    def fit(self) -> Fitted:
        """Train to the end, or to divergence, or until asked to stop.

        Raises:
            Stopped: asked to; a checkpoint of the step in flight's end is on disk.
            DidNothing: a trainable tensor did not move in the first two updates.
            BaseChanged: a frozen weight changed.
        """
        try:
            return self._fit()
        finally:
            self.feed.close()
            self.chain.close()

    def _fit(self) -> Fitted:
        if self.train.gradient_checkpointing:
            enable_checkpointing(self.adapted)
        base = frozen_hash(self.adapted.module)
        self.chain.start(self.schedule.total, self.optimizer)
        self._resume(base)
        if self.statistics and self.team.size > 1:
            what = "batch normalisation that trains looks at whole batches, of which no process has all"
            raise TrainingError(what, where=next(iter(self.statistics)), remedy="use --processes 1")
        self.team.align(self.learnt, base, self.step)
        unproved = self.step - self.updates.left_out < Movement.updates <= self.schedule.total - self.step
        movement = Movement(self.trainable, self.adapted.backbone.roles.sites, self.adapted.module) if unproved else None
        steps, diverged_at, saved_at = [], None, time.monotonic()
        while self.step < self.schedule.total and not self.selector.out_of_patience():
            begin, step = time.perf_counter(), self.step
            try:
                loss = self._one_step(movement)
                steps.append(time.perf_counter() - begin)
                self.train_s += steps[-1]
                self.listener.on_step(self.step, self.schedule.total, loss, self.schedule.rate(step))
                if self.schedule.logs_after(self.step):
                    self._log_train()
                if self.schedule.evaluates_after(self.step):
                    self._validate()
            except NonFinite as error:
                diverged_at = self._diverged(error, step)
                break
            due = self.cadence.steps is not None and self.step % self.cadence.steps == 0
            if due or time.monotonic() - saved_at > self.cadence.seconds:
                self._save(base)
                saved_at = time.monotonic()
            if self.team.stops(self.should_stop) and self.step < self.schedule.total:
                self._save(base)
                raise Stopped(
                    f"stopped after step {self.step} of {self.schedule.total}", remedy="run the same command to continue"
                )
        self.base_check = assert_frozen(self.adapted.module, base)
        if self.schedule.total == 0:
            try:
                self._validate()
            except NonFinite as error:
                diverged_at = self._diverged(error, 0)
        self.selected = self.selector.settle(self.step, self.learnt, diverged=diverged_at is not None)
        self.team.agree(self.learnt)
        self.chain.finish()
        return Fitted(
            steps=self.step,
            diverged_at=diverged_at,
            selected=self.selected,
            train_s=self.train_s,
            evaluate_s=self.evaluate_s,
            step_s=steps,
            resumed=self.resumed,
            notes=[*self.notes, *self.updates.notes(self.step)],
            flags=self.updates.flags(self.step),
        )

    def _one_step(self, movement: Movement | None) -> float:
        """One optimizer step over the effective batch; returns its mean loss."""
        step, module = self.step, self.adapted.module
        train_mode(module, self.still)
        seed_default(derive(self.seed, "step", step, *self.team.own), self.device)  # dropout: a function of (seed, step)
        self.chain.before_step(step)
        total = 0.0
        for share, batch in self.feed.step(step):
            loss = self._loss(batch)
            with unmoved(self.statistics if self.train.gradient_checkpointing else {}):  # computed again, they would move twice
                self.passes.backward(self.updates.scale(loss * share))
            total += loss.item() * share
        total = self.team.sum([*self.trainable.values()], total, self.should_stop)
        self.updates.unscale()
        self.chain.after_backward(step)
        norm = clip(self.trainable.values(), self.train.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)
        try:
            updated = self.updates.take(step, total, norm)
        except NonFinite:
            self.chain.non_finite(step)
            self.optimizer.zero_grad()
            raise
        if movement is not None and updated:
            movement.observe()
        self.chain.after_step(step, updated)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if movement is not None:
            movement.verify()
        self.window.append(total)
        return total

    def _loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with autocast(self.precision, self.device):
            outputs = self.passes.outputs(self.adapted, self.task.inputs(batch))
        loss = self.task.loss(outputs, batch, self.train.label_smoothing)
        penalty = self.chain.penalty()
        return loss if penalty is None else loss + penalty

    def evaluate(self, split: str) -> Meter:
        """A meter over all examples of a split (training/evaluation.py), in evaluation mode.

        The thresholds of test data are those of the validation that selected the weights.
        """
        begin = time.perf_counter()
        module = self.adapted.module
        module.eval()
        with self.adapted.reading(), autocast(self.precision, self.device):
            meter = evaluate(
                self.task,
                self.splits[split],
                lambda inputs: self.adapted.backbone.outputs(module, inputs),
                self.schedule.batch,
                self.device,
                thresholds=self.selected.thresholds if split == "test" else None,
            )
        self.evaluate_s += time.perf_counter() - begin
        return meter

    def _diverged(self, error: NonFinite, step: int) -> int:
        self.notes.append("; ".join(filter(None, (error.what, error.remedy))))
        return step

    def _validate(self) -> None:
        if len(self.splits.validation):
            meter = self.evaluate("validation")
            self.team.same(meter.compute())
            metrics = self.selector.observe(self.step, meter, self.learnt)
            self._line("validation", metrics)
            check_finite(metrics, "validation")

    def _log_train(self) -> None:
        self._line("train", {"loss": statistics.fmean(self.window), "learning_rate": self.schedule.rate(self.step - 1)})
        self.window = []

    def _line(self, split: str, metrics: Mapping[str, float]) -> None:
        epoch = round(self.schedule.epoch(self.step), 6)
        self.listener.on_metrics({"step": self.step, "epoch": epoch, "split": split, "time_s": round(self.train_s, 4), **metrics})

    def _save(self, base: str) -> None:
        if self.team.rank:
            return
        self.listener.on_save(self.step)
        names = {id(p): n for n, p in self.trainable.items()}
        notes = self.checkpoints.save(
            self.step,
            {
                "weights": dict(self.learnt),
                "optimizer": optimizer_tensors(self.optimizer, names),
                "scaler": self.updates.state(),
                "hooks": self.chain.state(),
                "selection": self.selector.state(),
                "loop": {
                    "base": base,
                    "train_s": self.train_s,
                    "evaluate_s": self.evaluate_s,
                    "spent": self.spent.state(),
                    "window": self.window,
                    "resumed": self.resumed,
                    "notes": self.notes,
                    "vectors": self.vectors,
                },
            },
        )
        self._note(notes)

    def _resume(self, base: str) -> None:
        found = self.team.in_turn(self.checkpoints.latest)
        if found is None:
            self.listener.on_truncate(0)
            return
        self.step, state, notes = found
        kept = self.listener.on_truncate(self.step)
        if state:
            loop = state["loop"]
            if loop["base"] != base or self.learnt.keys() - state["weights"].keys():
                raise RecordError(
                    "the checkpoint belongs to other frozen weights or running statistics than those loaded now",
                    where=str(self.checkpoints.folder),
                    remedy="the backbone, a library or peftlab changed; move the run's folder away to start afresh",
                )
            self.chain.load_state(state.get("hooks", {}))
            for name, tensor in self.learnt.items():
                tensor.data.copy_(state["weights"][name])
            restore_optimizer(self.optimizer, self.trainable, state.get("optimizer", {}))
            self.updates.load_state(state["scaler"])
            notes += self.selector.load_state(state["selection"], self.device)
            self.train_s, self.evaluate_s = loop["train_s"], loop["evaluate_s"]
            self.spent.load(loop.get("spent"))
            self.window, self.notes, self.resumed = list(loop["window"]), list(loop["notes"]), loop["resumed"]
            notes += decay_changed(self.vectors, loop.get("vectors", ()), self.train, self.step)
        self.resumed += 1
        self._note([*notes, *gap(self.schedule.lines(self.step, validated=len(self.splits.validation) > 0), kept)])

    def _note(self, notes: Iterable[str]) -> None:
        """Each once, however often the run is resumed."""
        self.notes += [note for note in notes if note not in self.notes]
