"""One run, from its configuration to its results, in the process it has for itself."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import signal
from multiprocessing.connection import Connection
from typing import Any

import torch

from peftlab.adapters.contract import Adapted
from peftlab.errors import NonFinite, OutOfMemory, Stopped
from peftlab.execution.answered import Answered
from peftlab.execution.compiled_record import CompiledRecord
from peftlab.execution.costs import memory_of, shared, stack_note, times_of
from peftlab.execution.crew import crew
from peftlab.execution.environment_record import write_environment
from peftlab.execution.fallback import Attempt, is_out_of_memory
from peftlab.execution.final_evaluation import FinalEvaluation
from peftlab.execution.follower import build, follow, set_determinism
from peftlab.execution.forward import Forward
from peftlab.execution.frozen_prefix import FrozenPrefix
from peftlab.execution.fused_record import FusedRecord
from peftlab.execution.protocol import Channel, Finished, Noted, WorkerOptions
from peftlab.execution.stop import StopFlag
from peftlab.execution.tracking import Tracking
from peftlab.execution.watching import watching
from peftlab.records.commit import disk_errors
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.run_folder import RunFolder
from peftlab.study.schema import Train
from peftlab.tasks.contract import PreparedTask
from peftlab.trackers.contract import Status
from peftlab.training.assemble import Ingredients
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.loop import Cadence, Fitted, Trainer
from peftlab.training.memory import MemoryMeter
from peftlab.training.passes import Passes
from peftlab.training.precision import resolve_device, resolve_precision
from peftlab.training.quantization import first_batches
from peftlab.training.sharding import shard_frozen
from peftlab.training.spent import Spent
from peftlab.training.team import Team


def main(config_json: str, path: str, options: WorkerOptions, connection: Connection | None = None) -> int:
    """Run to the end; called under the run's lease by execution/child.py, which records whatever is raised.

    Raises:
        Stopped: SIGTERM arrived; the step in flight is finished and saved.
        KeyboardInterrupt: the same for SIGINT.
    """
    config = RunConfig.model_validate_json(config_json)
    stop = StopFlag()
    try:
        Run(config, RunFolder(path), options, Channel(connection), stop).execute()
    except Stopped:
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise
    return 0


class Run:
    """The life of one run in this process: prepared, trained, evaluated, recorded; what was begun before goes on.

    Args:
        config: what defines the run.
        folder: its folder, made with this configuration; the caller holds its lease.
        options: how it is executed, which is no part of its identity.
        channel: to whom progress is told.
        stop: asked whether to stop: between two steps, and wherever the run waits before them.
        passes: who computes its forward and backward passes; None: it does.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        options: WorkerOptions,
        channel: Channel,
        stop: StopFlag,
        passes: Passes | None = None,
    ) -> None:
        self.config, self.folder, self.options, self.channel, self.stop = config, folder, options, channel, stop
        self.passes = passes or Passes()
        self.spent = Spent(self.passes.record)
        self.flags: list[str] = []
        self.notes: list[str] = []
        train, device = Train.model_validate(config.train), resolve_device(options.device)
        self.attempt = Attempt(device=device, precision=resolve_precision(train.precision, device), train=train)
        self.first = self.attempt.name
        self.tracking = Tracking((), folder, config, "")
        self.fused = FusedRecord(folder, options.fused)
        self.prefix = FrozenPrefix(config, folder, options, stop.check)
        self.compiled = CompiledRecord(folder, bool(config.predicted.get("compile")), options.cache)
        self.crew = contextlib.ExitStack()  #: the other processes of the run, while they are needed
        self.sharded: dict[str, float] = {}

    def execute(self) -> None:
        """Run to the end, divergence included; the results are written last, and then the checkpoints deleted.

        Raises:
            Stopped: ``stop`` asked for it; the step in flight is finished and saved.
            PeftlabError: what the run's components, its record or the disk have against it; memory that ran out, where the
                study declares no answer to it.
            RuntimeError: of torch.
        """
        try:
            results = self._results()
        except BaseException as error:
            self.tracking.leave("interrupted" if isinstance(error, Stopped) else "failed")
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                remedy = "lower train.batch_size, set train.gradient_checkpointing, or train.on_out_of_memory: accumulate"
                raise OutOfMemory(str(error).split("\n")[0], where=self.config.label, remedy=remedy) from error
            raise
        results = results.model_copy(update={"notes": [*results.notes, *self._untracked(results.status, results)]})
        self.folder.finish(results)
        for note in self.checkpoints.clear():  # the record is closed
            self.channel.send(Noted(note))
        self.channel.send(Finished(results.status))

    def _untracked(self, status: Status, results: RunResults | None = None) -> list[str]:
        """Ends the trackers; notes on those that did not do their part, told at once as well: whoever waits for curves on a
        server does not look for the reason in the record."""
        notes = self.tracking.end(status, results)
        for note in notes:
            self.channel.send(Noted(note))
        return notes

    def _results(self) -> RunResults:
        """All that the run is, but for its last word."""
        set_determinism(self.options)
        flags, notes = write_environment(self.folder, self.options.processes)
        self.flags += flags
        self.notes += notes
        ingredients = Ingredients.of_run(self.config)
        task = ingredients.task.prepare(ingredients.preprocessing(), self.options.cache)
        adapted, trainer, fitted, memory, metrics = self._fit(ingredients, task)
        if fitted.diverged_at is not None:
            self.flags.append(f"diverged in step {fitted.diverged_at + 1}")
        measured = memory_of(memory.result(adapted, trainer.optimizer), self.config, self.options.processes)
        self.fused.write(trainer.adapted)  # what was trained; of a cut model that is a copy
        with disk_errors(self.folder.adapter):
            ingredients.adapter.save(adapted, self.folder.adapter)
        reports, arrays = trainer.chain.report(), trainer.chain.arrays()
        spent = self.spent.state()  # with what the reports took
        times, stacked = self._times(fitted, trainer, spent), spent["stacked"]
        if stacked:
            measured, times = shared(measured, times, stacked)
            self.notes.append(stack_note(stacked))
        if self.options.processes > 1:
            reports["efficiency.json"] = {**reports.get("efficiency.json", {}), "first_of_processes": self.options.processes}
        elif stacked:
            reports["efficiency.json"] = {"stacked": stacked}  # nothing of it is one run's
        for name, content in reports.items():
            self.folder.write_json(name, content)
        for name, content in arrays.items():
            self.folder.write_arrays(name, content)
        self.folder.write_json("base_check.json", trainer.base_check)
        self.folder.write_json("memory.json", measured)
        self.folder.append_metrics([], durable=True)
        self.checkpoints = trainer.checkpoints
        return RunResults(
            run_id=self.config.run_id,
            status="completed" if fitted.diverged_at is None else "diverged",
            metrics=metrics,
            higher_is_better=dict(task.info.higher_is_better),
            primary_metric=task.info.primary_metric,
            chance=dict(task.info.chance),
            majority=dict(task.info.majority),
            steps=fitted.steps,
            epochs=trainer.schedule.epoch(fitted.steps),
            selected_step=fitted.selected.step,
            thresholds=dict(trainer.selected.thresholds),
            parameters=reports["parameters.json"],
            memory=measured,
            time=times,
            splits={split: len(trainer.splits[split]) for split in ("train", "validation", "test")},
            quantizer=self.attempt.quantizer.spec() if self.attempt.again and self.attempt.quantizer else None,
            flags=[*self.flags, *fitted.flags, *self.prefix.flags, *self.compiled.flags],
            notes=[
                *self.notes,
                *self.compiled.notes,
                *fitted.notes,
                *adapted.backbone.roles.notes,
                *task.info.notes,
            ],
            data_warnings=list(task.info.warnings),
            resumed=fitted.resumed,
        )

    def _fit(
        self, ingredients: Ingredients, task: PreparedTask
    ) -> tuple[Adapted, Trainer, Fitted, MemoryMeter, dict[str, dict[str, float | None]]]:
        """Train and score; again where the study declared an answer to what stopped the attempt (execution/fallback.py)."""
        answered = Answered(self.folder, dataclasses.replace(self.attempt, quantizer=ingredients.quantizer))
        self.attempt, flags = answered.last(self.spent)
        self.flags += flags
        while True:
            tried = dataclasses.replace(ingredients, quantizer=self.attempt.quantizer or ingredients.quantizer)
            try:
                adapted, trainer, fitted, memory = self._attempt(tried, task)
                metrics = self._scores(tried, task, trainer, fitted)
            except (RuntimeError, MemoryError) as error:
                following = self.attempt.after_error(error)
                if following is None:
                    raise
            else:
                following = self.attempt.after_divergence(fitted.diverged_at) if fitted.diverged_at is not None else None
                if following is None:
                    return adapted, trainer, fitted, memory, metrics
                del adapted, trainer
            finally:
                self.crew.close()
            self.prefix.release()
            self.notes += self._untracked("failed")
            given_up, (self.attempt, flag) = self.attempt, following
            answered.add(given_up, flag, self.attempt, self.spent.give_up())
            self.notes += Checkpoints(self.folder.checkpoints / given_up.name).clear()
            self.flags.append(flag)
            gc.collect()  # the tensors of the failed attempt

    def _scores(
        self, ingredients: Ingredients, task: PreparedTask, trainer: Trainer, fitted: Fitted
    ) -> dict[str, dict[str, float | None]]:
        """Metrics by split; none of a run that diverged, be it in its last evaluation."""
        if fitted.diverged_at is not None:
            return {}
        try:
            evaluation = FinalEvaluation(self.folder, ingredients, task, trainer, self.prefix)
            return evaluation.scores(test=self.config.evaluate_test)
        except NonFinite as error:
            fitted.diverged_at = max(0, fitted.steps - 1)
            fitted.notes.append(error.what)
            return {}

    def _attempt(self, ingredients: Ingredients, task: PreparedTask) -> tuple[Adapted, Trainer, Fitted, MemoryMeter]:
        name = self.attempt.name
        self.tracking = Tracking(self.options.trackers, self.folder, self.config, "" if name == self.first else name)
        layers, note = self.fused.begin(name)
        self.notes += note
        checkpoints = self.folder.checkpoints / name
        given = (self.config, self.options, self.attempt, layers, checkpoints)
        with contextlib.ExitStack() as held:
            others = crew(self.options.processes, self.attempt.device, self.config.label, follow, given, self.stop.check)
            team = held.enter_context(others)
            trained = self._train(dataclasses.replace(ingredients, **layers), task, Checkpoints(checkpoints), team)
            self.crew = held.pop_all()  # sharded weights are whole only among all of them
            return trained

    def _train(
        self, ingredients: Ingredients, task: PreparedTask, checkpoints: Checkpoints, team: Team
    ) -> tuple[Adapted, Trainer, Fitted, MemoryMeter]:
        with MemoryMeter(self.attempt.device) as memory:  # before there is a model: see there
            adapted, trainer = self._prepare(ingredients, task, checkpoints, team, memory)
            return adapted, trainer, trainer.fit(), memory

    def _prepare(
        self, ingredients: Ingredients, task: PreparedTask, checkpoints: Checkpoints, team: Team, memory: MemoryMeter
    ) -> tuple[Adapted, Trainer]:
        device, splits = self.attempt.device, task.splits(self.config.seed, self.config.fold)
        batches = first_batches(task, splits.train, device)
        adapted = build(ingredients, task, self.config, self.attempt, self.options, batches)
        if self.options.shard:
            self.sharded = shard_frozen(adapted, device, team)
        self.fused.write(adapted)
        probes, notes = watching(ingredients, task, splits, adapted, self.config, self.options, self.attempt)
        self.notes += notes
        hooks = [*adapted.hooks, *probes, memory.hook(adapted)]
        cut, given = self.prefix.begin(self.attempt, ingredients, task, splits, adapted)
        apart = "its frozen layers are computed once for all runs" if cut is not adapted else ""
        acts = f"{ingredients.allocator.name} moves ranks" if ingredients.allocator and ingredients.allocator.acts else ""
        if apart:
            self.passes.leave(apart)
        passes = self.passes
        if not passes.together:
            passes = self.compiled.passes(self.attempt, adapted, task, splits, apart or acts)
        trainer = Trainer(
            adapted=cut,
            task=given,
            splits=splits,
            train=self.attempt.train,
            seed=self.config.seed,
            device=device,
            precision=self.attempt.precision,
            checkpoints=checkpoints,
            cadence=Cadence(seconds=self.options.checkpoint_every_s, steps=self.options.checkpoint_every_steps),
            hooks=hooks,
            listener=Forward(self.folder, self.channel, memory, self.tracking),
            should_stop=self.stop,
            team=team,
            passes=passes,
            spent=self.spent,
        )
        return adapted, trainer

    def _times(self, fitted: Fitted, trainer: Trainer, spent: dict[str, Any]) -> dict[str, Any]:
        return {
            **times_of(fitted, trainer, spent),
            "threads": torch.get_num_threads(),
            "processes": self.options.processes,
            **({"sharded": self.sharded} if self.sharded else {}),
            "device": self.attempt.device.type,
            "precision": self.attempt.precision,
            **self.fused.counts,
            **({"prefix": self.prefix.record} if self.prefix.record.get("used") else {}),
        }
