"""Which runs of a study share the hidden states before their first trained layer, and whether that pays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from peftlab.planning.arms import Ready
from peftlab.planning.plan import PlanOptions
from peftlab.planning.prefix import Decision
from peftlab.study.schema import Study, Train
from peftlab.training.schedule import Schedule


def schedule_of(item: Ready, train: Train) -> Schedule:
    """Of a run of this arm; a micro-batch that is not decided yet counts as one example."""
    batch = train.batch_size if isinstance(train.batch_size, int) else 1
    return Schedule.of(train.model_copy(update={"batch_size": batch}), item.info.sizes["train"])


def decide(items: Sequence[Ready], item: Ready, schedule: Schedule, study: Study, options: PlanOptions) -> Decision | None:
    """For a run of ``item``, whose hidden states serve all arms of ``items`` that are cut at the same place."""
    if item.forecast.shortcut is None:
        return None
    alike = [other for other in items if other.forecast.shortcut is not None and _needs(other) == _needs(item)]
    runs = sum(runs_of(other, study) for other in alike or [item])
    return item.forecast.decide(schedule, item.info.sizes, min(runs, options.max_runs or runs), options.prefix_cache_mb)


def sentences(items: Sequence[Ready], study: Study, options: PlanOptions) -> Iterator[str]:
    """What the plan says of arms that could share hidden states."""
    for item in items:
        found = decide(items, item, schedule_of(item, item.train), study, options) if item.refusal is None else None
        if found is not None:
            yield found.words(item.cell.label)


def _needs(item: Ready) -> str:
    """What decides hidden states, as far as it is known before the runs."""
    parts, shortcut = item.ingredients, item.forecast.shortcut
    stored = parts.quantizer.spec() if parts.trains_quantized else None
    cut = (shortcut.cut, shortcut.blocks) if shortcut else None
    return json.dumps([parts.backbone, parts.task.spec("kind"), stored, item.train.precision, cut], default=str)


def runs_of(item: Ready, study: Study) -> int:
    """Runs of an arm, tuning included."""
    return item.info.folds * len(study.seeds) + sum(search.trials * len(search.seeds) for search in item.searches)
