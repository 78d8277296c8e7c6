"""From a study to its plan."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from peftlab.errors import PlanRefused, nearest
from peftlab.planning.budgets import resolve_budgets
from peftlab.planning.estimate import Estimate
from peftlab.planning.forecast import Forecast, forecast
from peftlab.planning.machine import Machine
from peftlab.planning.plan import Plan, PlannedRun, PlanOptions, task_name
from peftlab.records.record import RunConfig
from peftlab.study.expand import Cell, cells, checked_train, select_cells
from peftlab.study.schema import Study, Train
from peftlab.tasks.contract import TaskInfo
from peftlab.training.assemble import Ingredients
from peftlab.training.schedule import Schedule


def make_plan(study: Study, options: PlanOptions) -> Plan:
    """Plan a study.

    Raises:
        StudyError, OptionError, DataError, BackboneError: the study cannot be run as it is written.
        PlanRefused: ``only`` names no arm.
    """
    known = cells(study)
    wanted = resolve_budgets(select_cells(known, options.only), known)
    machine = Machine.here(options.cache, device=options.device)
    planner = _Planner(study, options, machine)
    ready = [planner.ready(cell) for cell in wanted]
    ready = planner.settle_batches(ready)
    pairs = list(itertools.islice(((item, run) for item in ready for run in planner.runs(item)), options.max_runs))
    runs = tuple(run for _, run in pairs)
    needed = {id(item) for item, _ in pairs}
    tuning = tuple(run for item in ready if id(item) in needed for run in planner.tuning_runs(item))
    if not any(run.refusal is None for run in runs):
        reasons = "; ".join(dict.fromkeys(run.refusal or "" for run in runs))
        raise PlanRefused(f"no run of the study can be run here: {reasons}", where=study.study, remedy="see the reasons")
    return Plan(
        study=study.study,
        question=study.question,
        tuning=tuning,
        runs=runs,
        notes=tuple(planner.notes(ready)),
        machine=machine.as_dict(),
        higher_is_better=ready[0].info.higher_is_better[study.analysis.metric],
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A cell whose components exist and whose data and backbone are known."""

    cell: Cell
    ingredients: Ingredients
    info: TaskInfo
    train: Train
    backbone_fingerprint: str
    data_fingerprint: str
    predict_at: Callable[[int], Forecast]
    forecast: Forecast
    refusal: str | None


class _Planner:
    def __init__(self, study: Study, options: PlanOptions, machine: Machine) -> None:
        self.study, self.options, self.machine = study, options, machine
        self.infos: dict[str, TaskInfo] = {}
        self.fingerprints: dict[str, str] = {}

    def ready(self, cell: Cell) -> _Ready:
        ingredients = Ingredients.of(
            backbone=cell.backbone,
            task=cell.task,
            adapter=cell.adapter,
            allocator=cell.allocator,
            quantizer=cell.quantizer,
            quantize=cell.quantize,
            where=f"arms.{cell.arm}",
        )
        task_key, task = task_name(cell.task), ingredients.task
        info = self.infos.setdefault(task_key, task.info()) if task_key not in self.infos else self.infos[task_key]
        data = self.fingerprints.get(task_key) or self.fingerprints.setdefault(task_key, task.fingerprint())
        weights = self.fingerprints.get(cell.backbone) or self.fingerprints.setdefault(
            cell.backbone, ingredients.source.fingerprint(cell.backbone)
        )
        metric = self.study.analysis.metric
        if metric not in info.higher_is_better:
            raise PlanRefused(
                f"the task has no metric {metric!r}", where="analysis.metric", remedy=nearest(metric, info.higher_is_better)
            )

        def predict_at(batch: int) -> Forecast:
            return forecast(ingredients, info, cell.train, batch, self.machine, detailed=self.options.predict)

        batch = cell.train.batch_size if isinstance(cell.train.batch_size, int) else 1
        found = predict_at(batch)
        return _Ready(
            cell=cell,
            ingredients=ingredients,
            info=info,
            train=cell.train,
            backbone_fingerprint=weights,
            data_fingerprint=data,
            predict_at=predict_at,
            forecast=found,
            refusal=self._refusal(cell, ingredients, found, predict_at),
        )

    def _refusal(
        self, cell: Cell, ingredients: Ingredients, found: Forecast, predict_at: Callable[[int], Forecast]
    ) -> str | None:
        """Why this arm cannot be run here, or None."""
        if reason := ingredients.quantizer.refuse(self.machine.device):
            return reason
        limit = self.study.require.trainable_percent
        share = 100 * found.trainable / found.total
        if limit is not None and share > limit and not found.trains_all:
            return f"trains {share:.3g} % of the parameters, the study requires at most {limit:g} %"
        if found.estimate is None or cell.train.batch_size == "auto":
            return None
        return self.machine.refusal(
            found.estimate, lambda batch: _estimated(predict_at(batch)), cell.train.effective_batch_size or cell.train.batch_size
        )

    def settle_batches(self, ready: list[_Ready]) -> list[_Ready]:
        """``batch_size: auto``: one micro-batch for all arms of a backbone and task, the largest that all of them can run."""
        groups: dict[tuple[str, str], list[_Ready]] = {}
        for item in ready:
            if item.cell.train.batch_size == "auto" and item.refusal is None:
                groups.setdefault((item.cell.backbone, task_name(item.cell.task)), []).append(item)
        batches = {}
        for key, items in groups.items():
            effective = [item.cell.train.effective_batch_size or 64 for item in items]
            batches[key] = min(
                self.machine.largest_batch(lambda b, i=item: _estimated(i.predict_at(b)), e)
                for item, e in zip(items, effective, strict=True)
            )
        return [self._settled(item, batches.get((item.cell.backbone, task_name(item.cell.task)))) for item in ready]

    def _settled(self, item: _Ready, batch: int | None) -> _Ready:
        if item.cell.train.batch_size != "auto" or batch is None:
            return item
        effective = item.cell.train.effective_batch_size or 64
        train = item.train.model_copy(update={"batch_size": batch, "effective_batch_size": effective})
        if batch == 0:
            return dataclasses.replace(item, train=train, refusal="not even a batch of one fits in memory")
        return dataclasses.replace(item, train=train, forecast=item.predict_at(batch))

    def tuning_runs(self, item: _Ready) -> Iterator[PlannedRun]:
        tune = self.study.tune
        if tune is None:
            return
        for values in itertools.product(*tune.grid.values()):
            chosen = dict(zip(tune.grid, values, strict=True))
            for seed in tune.seeds:
                yield self._planned(item, seed, 0, "tuning", chosen)

    def runs(self, item: _Ready) -> Iterator[PlannedRun]:
        chosen: Mapping[str, Any] | None = {}
        if self.study.tune is not None:
            key = (item.cell.label, item.cell.backbone, task_name(item.cell.task))
            chosen = (self.options.chosen or {}).get(key)
        for fold, seed in itertools.product(range(item.info.folds), self.study.seeds):
            yield self._planned(item, seed, fold, "evaluation", chosen)

    def _planned(self, item: _Ready, seed: int, fold: int, purpose: str, chosen: Mapping[str, Any] | None) -> PlannedRun:
        train = checked_train({**item.train.model_dump(), **(chosen or {})}, where="tune")
        batch = train.batch_size if isinstance(train.batch_size, int) else 1
        schedule = Schedule.of(train.model_copy(update={"batch_size": batch}), item.info.sizes["train"])
        parts = item.ingredients
        if chosen is not None:  # else: checked for every value that the tuning tries
            parts.quantizer.check(train, parts.quantize)
            if parts.allocator is not None:
                parts.allocator.check(item.forecast.sites, item.forecast.ranks or {}, schedule.total, train)
        config = None if item.refusal or chosen is None else self._config(item, train, seed, fold, purpose, chosen)
        return PlannedRun(
            label=item.cell.label,
            backbone=item.cell.backbone,
            task=task_name(item.cell.task),
            seed=seed,
            fold=fold,
            purpose=purpose,
            config=config,
            steps=schedule.total,
            trainable=item.forecast.trainable,
            total_parameters=item.forecast.total,
            estimate=item.forecast.estimate,
            predicted_s=item.forecast.seconds(schedule, item.info.sizes),
            refusal=item.refusal,
        )

    def _config(self, item: _Ready, train: Train, seed: int, fold: int, purpose: str, chosen: Mapping[str, Any]) -> RunConfig:
        parts = item.ingredients
        return RunConfig(
            study=self.study.study,
            arm=item.cell.arm,
            label=item.cell.label,
            slug=item.cell.slug,
            factors=dict(item.cell.factors),
            backbone=item.cell.backbone,
            backbone_fingerprint=item.backbone_fingerprint,
            task=parts.task.spec("kind"),
            data_fingerprint=item.data_fingerprint,
            adapter=parts.adapter.spec(),
            allocator=parts.allocator.spec() if parts.allocator else None,
            quantizer=parts.quantizer.spec(),
            quantize=parts.quantize,
            train=train.model_dump(mode="json"),
            seed=seed,
            fold=fold,
            purpose=purpose,  # pyright: ignore
            tuned=dict(chosen),
            predicted=self._predicted(item),
            evaluate_test=purpose == "evaluation",
        )

    def _predicted(self, item: _Ready) -> dict[str, Any]:
        estimate = item.forecast.estimate
        if estimate is None:
            return {}
        return {"peak_mb": round(estimate.peak_mb, 3), "parts_mb": {k: round(v, 3) for k, v in estimate.parts_mb.items()}}

    def notes(self, ready: Sequence[_Ready]) -> Iterator[str]:
        """What a reader of the plan should know before it is run."""
        yield from dict.fromkeys(warning for item in ready for warning in item.info.warnings)
        effective = {item.train.effective_batch_size or item.train.batch_size for item in ready}
        if len(effective) > 1:
            yield f"the arms differ in effective batch size ({', '.join(str(e) for e in sorted(effective, key=str))}): a confound"
        yield from dict.fromkeys(note for item in ready for note in item.forecast.notes)


def _estimated(found: Forecast) -> Estimate:
    assert found.estimate is not None
    return found.estimate
