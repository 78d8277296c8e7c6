"""The arms of a study, looked at once: their components, data, backbone, prediction, and whether they can be run here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from peftlab.errors import OptionError, StudyError, nearest
from peftlab.planning.begun import Begun, begun_as
from peftlab.planning.estimate import Estimate
from peftlab.planning.forecast import Forecast, forecast, matters
from peftlab.planning.machine import Machine
from peftlab.planning.plan import PlanOptions
from peftlab.planning.search import ArmKey, Search, Values, adapter_options, shown_values
from peftlab.registry import component
from peftlab.study.expand import Cell, checked_train
from peftlab.study.schema import ADAPTER, Arm, Require, Study, Train
from peftlab.study.task_key import task_key
from peftlab.tasks.contract import TaskInfo
from peftlab.training.assemble import Ingredients

EFFECTIVE = 64  #: batch of an arm whose micro-batch is ``auto``, where it names none


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
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
    searches: tuple[Search, ...] = ()  #: one per fold; none where nothing is tuned

    @property
    def key(self) -> ArmKey:
        return (self.cell.label, self.cell.backbone, task_key(self.cell.task))


class Arms:
    """Makes the arms of a study ready."""

    def __init__(self, study: Study, options: PlanOptions) -> None:
        self.study, self.options = study, options
        self.machine = Machine.here(options.cache, device=options.device)
        if options.available_mb is not None and self.machine.device == "cpu":
            self.machine = dataclasses.replace(self.machine, available_mb=options.available_mb)
        self.infos: dict[tuple[str, str], TaskInfo] = {}
        self.fingerprints: dict[str, str] = {}
        self._variants: dict[str, Ready] = {}

    def ready(self, cell: Cell) -> Ready:
        with of_arm(cell):
            return self._ready(cell)

    def _ready(self, cell: Cell) -> Ready:
        ingredients = dataclasses.replace(Ingredients.of_cell(cell), fused=self.options.fused)
        key, task = task_key(cell.task), ingredients.task
        place = (key, cell.backbone)
        if place not in self.infos:
            self.infos[place] = task.info_for(ingredients.preprocessing, self.options.cache)
        info = self.infos[place]
        data = self.fingerprints.get(key) or self.fingerprints.setdefault(key, task.fingerprint())
        weights = self.fingerprints.get(cell.backbone) or self.fingerprints.setdefault(
            cell.backbone, ingredients.source.fingerprint(cell.backbone)
        )
        self._check_metric(info)

        def predict_at(batch: int) -> Forecast:
            return forecast(ingredients, info, cell.train, batch, self.machine, detailed=self.options.predict)

        batch = cell.train.batch_size if isinstance(cell.train.batch_size, int) else 1
        found = predict_at(batch)
        return Ready(
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
        if reason := _too_many(found, self.study.require):
            return reason
        if found.estimate is None or cell.train.batch_size == "auto":
            return None
        return self.machine.refusal(
            found.estimate, lambda batch: _estimated(predict_at(batch)), cell.train.effective_batch_size or cell.train.batch_size
        )

    def settle_batches(self, ready: list[Ready], tried: Mapping[ArmKey, Sequence[Values]]) -> list[Ready]:
        """``batch_size: auto``: one micro-batch for all arms of a backbone and task, the largest that all of them can run.

        It divides the effective batch of each. A study that is continued keeps the one it was begun with.

        Args:
            tried: values that the tuning tries of an arm, each of which has to fit.
        """
        groups: dict[tuple[str, str], list[Ready]] = {}
        for item in ready:
            if item.train.batch_size == "auto" and item.refusal is None:
                groups.setdefault((item.cell.backbone, task_key(item.cell.task)), []).append(item)
        batches = {key: self._batch(items, tried) for key, items in groups.items()}
        return [self._settled(item, batches.get((item.cell.backbone, task_key(item.cell.task)))) for item in ready]

    def _batch(self, items: Sequence[Ready], tried: Mapping[ArmKey, Sequence[Values]]) -> int:
        variants = [self.variant(item, values) for item in items for values in tried.get(item.key) or [{}]]
        common = math.gcd(*(item.train.effective_batch_size or EFFECTIVE for item in (*items, *variants)))
        begun = {self.options.begun.get(_begun(item)) for item in items} - {None}
        if len(begun) == 1 and (batch := begun.pop()) and not common % batch:
            return batch
        distinct = {id(item): item for item in variants}.values()
        return min(self.machine.largest_batch(lambda b, i=item: _estimated(i.predict_at(b)), common) for item in distinct)

    def _check_metric(self, info: TaskInfo) -> None:
        metric, known = self.study.analysis.metric, info.higher_is_better
        if metric in known:
            return
        if "metric" in self.study.analysis.model_fields_set:
            raise StudyError(f"the task has no metric {metric!r}", where="analysis.metric", remedy=nearest(metric, known))
        what = f"the task has no {metric}, by which a study is judged unless it names another metric"
        remedy = f"write analysis: {{metric: {info.primary_metric}}}, or one of {', '.join(sorted(known))}"
        raise StudyError(what, where="analysis.metric", remedy=remedy)

    def _settled(self, item: Ready, batch: int | None) -> Ready:
        if item.train.batch_size != "auto" or batch is None or item.refusal is not None:
            return item
        effective = item.train.effective_batch_size or EFFECTIVE
        train = item.train.model_copy(update={"batch_size": batch, "effective_batch_size": effective})
        if batch == 0:
            return dataclasses.replace(item, train=train, refusal="not even a batch of one fits in memory")
        found = item.predict_at(batch)
        refusal = None
        if found.estimate is not None:  # a batch from before may not fit any more
            refusal = self.machine.refusal(found.estimate, lambda b: _estimated(item.predict_at(b)), effective)
        return dataclasses.replace(item, train=train, forecast=found, refusal=refusal)

    def variant(self, item: Ready, values: Values) -> Ready:
        """The item with tuned values in it, where another value is another forecast."""
        values = forecast_by(values)
        if not values:
            return item
        options = adapter_options(values)
        tuned = {key: value for key, value in values.items() if not key.startswith(ADAPTER)}
        train = checked_train({**item.train.model_dump(), **tuned}, where="tune")
        key = json.dumps([item.key, train.model_dump(mode="json"), options], sort_keys=True)
        if key not in self._variants:
            cell = dataclasses.replace(item.cell, adapter={**item.cell.adapter, **options}, train=train)
            try:
                found = self.ready(cell)
            except OptionError as error:
                what = f"{item.cell.label} with {shown_values(values)}: {error.what}"
                raise OptionError(what, where="tune", remedy=error.remedy) from error
            self._variants[key] = found
        found = self._variants[key]
        return dataclasses.replace(found, refusal=item.refusal or found.refusal)


def forecast_by(values: Values) -> Values:
    """Those of the values that memory, counts or the time of a step depend on."""
    return {key: value for key, value in values.items() if key.startswith(ADAPTER) or matters(key)}


@contextlib.contextmanager
def of_arm(cell: Cell) -> Iterator[None]:
    """Mistakes are found where an arm's name is not known, in one of its options or in a layer: here they get it."""
    try:
        yield
    except OptionError as error:
        key = error.where.partition(".")[0]
        if key in Study.model_fields:
            raise
        place = f"arms.{cell.arm}{'.' if key in Arm.model_fields else ', '}{error.where}"
        place = f"task.{error.where}" if key in task_options(cell.task) else place
        raise OptionError(error.what, where=place, remedy=error.remedy) from error


def check_tasks(ready: Iterable[Ready]) -> None:
    """Each run is of one task of the matrix.

    Raises:
        StudyError: two of its tasks are the same one, once their defaults are filled in.
    """
    seen: dict[str, str] = {}
    for item in ready:
        key = task_key(item.cell.task)
        first = seen.setdefault(json.dumps(item.ingredients.task.spec("kind"), sort_keys=True, default=str), key)
        if first != key:
            raise StudyError(f"{first} and {key} are the same task", where="matrix.task", remedy="leave one of them out")


def task_options(task: Mapping[str, Any]) -> set[str]:
    """Names of the options that this kind of task has."""
    found: Any = component("task", str(task.get("kind")))
    return {field.name for field in dataclasses.fields(found)}


def _too_many(found: Forecast, require: Require) -> str | None:
    """Why an arm trains more than the study allows, or None; full fine-tuning, which is the reference, may."""
    limit = require.trainable_percent
    counted = found.trainable - (0 if require.count_head else found.head)
    share = 100 * counted / found.total
    if limit is None or share <= limit or found.trains_all:
        return None
    head = "with" if require.count_head else "without"
    return (
        f"trains {share:.3g} % of the parameters ({counted:,} of {found.total:,}, {head} the head's {found.head:,}), the study "
        f"requires at most {limit:g} %; lower its rank, adapt fewer layers, or raise require.trainable_percent"
    )


def _begun(item: Ready) -> Begun:
    return begun_as(item.cell.label, item.cell.backbone, item.ingredients.task.spec("kind"), item.data_fingerprint)


def _estimated(found: Forecast) -> Estimate:
    assert found.estimate is not None
    return found.estimate
