"""Parameters, memory and time of an arm, predicted before it runs, and labelled as predicted wherever they are shown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping

from peftlab.adapters.contract import Adapted
from peftlab.backbones.shapes import stamp
from peftlab.nn.modes import moving
from peftlab.nn.roles import Site
from peftlab.planning.estimate import Estimate, estimate
from peftlab.planning.machine import Machine
from peftlab.planning.prefix import Decision, Shortcut, evaluated
from peftlab.study.schema import Train
from peftlab.tasks.contract import TaskInfo
from peftlab.training.assemble import Ingredients
from peftlab.training.prefix import Cut, Uncut
from peftlab.training.schedule import Schedule


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is predicted of an arm x task x backbone at one micro-batch size."""

    trainable: int  #: head included
    head: int  #: of them in the head, which starts untrained
    total: int
    trains_all: bool
    estimate: Estimate | None  #: of the largest batch
    fill: float  #: size of an average batch as a share of that
    notes: tuple[str, ...]
    sites: tuple[Site, ...]
    ranks: Mapping[str, int] | None  #: at the start, as the allocator decides; None without one
    moving: bool = False  #: running statistics (batch normalisation) move in training
    shortcut: Shortcut | None = None  #: the same arm without its frozen prefix, where there is one

    def decide(self, schedule: Schedule, sizes: Mapping[str, int], runs: int, limit_mb: float) -> Decision | None:
        """Whether ``runs`` runs share hidden states; None where there is nothing to decide."""
        if self.estimate is None or self.shortcut is None or limit_mb <= 0:
            return None
        return self.shortcut.decide(self.estimate, self.fill, schedule, sizes, runs, limit_mb)

    def used(self, decision: Decision | None) -> Estimate | None:
        """The estimate of what is run."""
        return self.shortcut.estimate if decision is not None and not decision.why and self.shortcut else self.estimate

    def seconds(self, schedule: Schedule, sizes: Mapping[str, int], decision: Decision | None = None) -> float | None:
        """Training plus evaluations of one run, and its share of computing what is shared."""
        estimate = self.used(decision)
        if estimate is None:
            return None
        micro_batches = schedule.total * schedule.effective_batch / schedule.batch
        evaluating = evaluated(schedule, sizes) * estimate.evaluate_time_per_example_s
        largest = micro_batches * estimate.step_time_s + evaluating
        shared = decision.fill_s / decision.runs + decision.use_s if decision is not None and not decision.why else 0.0
        return self.fill * largest + shared


#: keys of train that change neither memory nor the time of a step; of the last three it matters only whether they act
_NO_MATTER: set[str] = set(
    "learning_rate epochs max_steps beta1 beta2 schedule warmup evaluate_every early_stopping select "
    "weight_decay label_smoothing clip_norm on_hang hang_limit_s".split()
)
_SEEN: dict[str, Forecast] = {}  #: by content; a study asks for the same arm once per seed and again after tuning


def matters(key: str) -> bool:
    """Whether another value of a key of ``train`` is another forecast."""
    return key not in _NO_MATTER


def forecast(ingredients: Ingredients, info: TaskInfo, train: Train, batch: int, machine: Machine, *, detailed: bool) -> Forecast:
    """Predict without weights: shapes on the meta device for counts, one step over fake tensors for memory and time.

    Raises:
        OptionError: adapter, allocator or quantizer do not fit the backbone (a pattern without a match, a rank too large, ...).
    """
    key = json.dumps(
        [
            [ingredients.backbone, stamp(ingredients.backbone)],
            ingredients.task.spec("kind"),  # sizes of its inputs: pixels of images, lengths of texts
            info.outputs,
            ingredients.adapter.spec(),
            ingredients.allocator.spec() if ingredients.allocator else None,
            ingredients.quantizer.spec(),
            ingredients.quantize,
            ingredients.fused,
            train.model_dump(mode="json", exclude=_NO_MATTER),
            [train.weight_decay > 0, train.label_smoothing > 0, train.clip_norm is None],
            batch,
            machine.device,
            detailed,
        ],
        sort_keys=True,
        default=str,
    )
    if key not in _SEEN:
        _SEEN[key] = _forecast(ingredients, info, train, batch, machine, detailed)
    return _SEEN[key]


def _forecast(ingredients: Ingredients, info: TaskInfo, train: Train, batch: int, machine: Machine, detailed: bool) -> Forecast:
    meta = ingredients.load_backbone(info.outputs, seed=0, device="meta")
    full, head = meta.parameters, meta.head_parameters
    adapter = ingredients.adapter
    sites = adapter.sites(meta)
    ranks = ingredients.ranks(meta, sites)
    notes = meta.roles.notes
    if ingredients.allocator is not None:
        notes += ingredients.allocator.notes(sites, adapter.given_rank, ingredients.cost(meta), getattr(adapter, "scale", None))
    adapted_count, added = adapter.count(meta, sites, ranks), adapter.added(meta, sites, ranks)
    trains_all = adapted_count + head == full
    fill = ingredients.task.fill(batch, ingredients.preprocessing()) if detailed else 1.0
    moves = bool(moving(meta.module)) and bool(moving(_adapted(ingredients, info).module))
    ingredients.quantizer.convert(meta)  # before training or after it: the scheme must fit every layer
    found = _estimate(ingredients, info, train, batch, machine) if detailed else None
    frozen = detailed and not ingredients.task.augments and all(site.block != 0 for site in sites)
    shortcut = _shortcut(ingredients, info, train, batch, machine) if frozen else None
    return Forecast(
        trainable=adapted_count + head,
        head=head,
        total=full if trains_all else full + added,
        trains_all=trains_all,
        estimate=found,
        fill=fill,
        notes=notes,
        sites=tuple(sites),
        ranks=ranks,
        moving=moves,
        shortcut=shortcut,
    )


def _adapted(ingredients: Ingredients, info: TaskInfo) -> Adapted:
    """The model of a run, shapes only."""
    return ingredients.attach(ingredients.load_backbone(info.outputs, 0, device="meta"), 0)


def _shortcut(ingredients: Ingredients, info: TaskInfo, train: Train, batch: int, machine: Machine) -> Shortcut | None:
    """What is left of a step without the frozen prefix; None where nothing can be cut off."""
    cuts: list[Cut] = []
    try:
        left = _estimate(ingredients, info, train, batch, machine, cuts.append)
    except Uncut:
        return None  # the run's record says why
    cut = cuts[0]
    row_bytes = math.prod(cut.shape) * cut.dtype.itemsize
    return Shortcut(cut=cut.name, blocks=cut.blocks, row_bytes=row_bytes, estimate=left)


def _estimate(
    ingredients: Ingredients,
    info: TaskInfo,
    train: Train,
    batch: int,
    machine: Machine,
    cut: Callable[[Cut], None] | None = None,
) -> Estimate:
    task, preprocessing = ingredients.task, ingredients.preprocessing()
    return estimate(
        lambda: ingredients.fuse(_adapted(ingredients, info)),
        task.batch_shapes(batch, preprocessing, info),
        task,
        train,
        machine,
        examples=batch,
        cut=cut,
    )
