"""From a study to its runs: every run with its id, what is refused and why, predicted memory and time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftlab.errors import PlanRefused, nearest
from peftlab.planning.budgets import resolve_budgets
from peftlab.planning.estimate import Estimate
from peftlab.planning.forecast import Forecast, forecast
from peftlab.planning.machine import Machine
from peftlab.records.record import RunConfig
from peftlab.study.expand import Cell, cells, select_cells
from peftlab.study.schema import Study, Train
from peftlab.tasks.contract import TaskInfo
from peftlab.training.assemble import Ingredients
from peftlab.training.schedule import Schedule


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of the plan. ``config`` is None while its tuned values are not known yet."""

    label: str
    backbone: str
    task: str
    seed: int
    fold: int
    purpose: str
    config: RunConfig | None
    steps: int
    trainable: int
    total_parameters: int
    estimate: Estimate | None
    predicted_s: float | None
    refusal: str | None = None

    def row(self) -> dict[str, Any]:
        """JSON-ready."""
        raw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("config", "estimate")}
        raw["run_id"] = self.config.run_id if self.config else None
        raw["predicted_memory_mb"] = self.estimate.parts_mb if self.estimate else None
        raw["predicted_peak_mb"] = self.estimate.peak_mb if self.estimate else None
        return raw


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All runs of a study: tuning first, then evaluation."""

    study: str
    question: str
    tuning: tuple[PlannedRun, ...]
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...]
    machine: Mapping[str, Any]
    higher_is_better: bool  #: of the study's metric

    @property
    def pending(self) -> bool:
        """Whether evaluation runs wait for the tuning."""
        return any(run.config is None and run.refusal is None for run in self.runs)

    @property
    def refusals(self) -> list[PlannedRun]:
        return [run for run in (*self.tuning, *self.runs) if run.refusal]

    def rows(self) -> list[dict[str, Any]]:
        return [run.row() for run in (*self.tuning, *self.runs)]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, as written to ``plan.json``."""
        total = sum(run.predicted_s or 0.0 for run in (*self.tuning, *self.runs) if not run.refusal)
        return {
            "study": self.study,
            "question": self.question,
            "runs": self.rows(),
            "predicted_total_s": total,
            "notes": list(self.notes),
            "machine": dict(self.machine),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What narrows or colours a plan without changing the study."""

    cache: Path
    device: str = "auto"
    only: Sequence[str] = ()  #: arms, by name or label
    max_runs: int | None = None  #: evaluation runs at most, with the tuning that these need
    chosen: Mapping[tuple[str, str, str], Mapping[str, Any]] | None = None  #: (label, backbone, task key) -> tuned values
    predict: bool = True  #: predict memory and time (a second or so per distinct arm)


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
        batch = item.train.batch_size if isinstance(item.train.batch_size, int) else 1
        schedule = Schedule.of(item.train.model_copy(update={"batch_size": batch}), item.info.sizes["train"])
        allocator = item.ingredients.allocator
        if allocator is not None:
            allocator.check(item.forecast.sites, item.forecast.ranks or {}, schedule.total, item.train)
        config = None if item.refusal or chosen is None else self._config(item, seed, fold, purpose, chosen)
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

    def _config(self, item: _Ready, seed: int, fold: int, purpose: str, chosen: Mapping[str, Any]) -> RunConfig:
        train = Train.model_validate({**item.train.model_dump(), **chosen})
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


def task_name(task: Mapping[str, Any]) -> str:
    """A short name of a task: its data, or kind:data with further options where needed to tell tasks apart."""
    data = task.get("data", "")
    data = data.get("path") or data.get("name", "") if isinstance(data, Mapping) else data
    extra = ",".join(f"{k}={v}" for k, v in sorted(task.items()) if k not in ("kind", "data"))
    return f"{task.get('kind')}:{data}" + (f"[{extra}]" if extra else "")
