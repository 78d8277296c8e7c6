"""Parameters: how many there are, how many train, and where."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, ClassVar

from peftlab.adapters.contract import Adapted
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.quantized import parameter_sizes
from peftlab.probes.contract import Probe, View


def count_parameters(adapted: Adapted) -> dict[str, Any]:
    """Counts of an adapted model. The head is counted once (PEFT counts it twice in "all parameters"), quantized weights in full.

    Returns:
        full: parameters of the plain backbone with its head (what full fine-tuning trains);
        total: full + parameters the adapter adds; trainable; adapter (trainable outside the head); head;
        trainable_percent of total; reduction_percent = 100 (1 - trainable/full); times_fewer = full / trainable;
        by_role, by_block: trainable parameters, head apart.
    """
    trainable = adapted.trainable()
    head = sum(p.numel() for n, p in trainable.items() if adapted.is_head(n))
    number = sum(p.numel() for p in trainable.values())
    total = sum(size for n, size in parameter_sizes(adapted.module).items() if "original_module" not in n)
    added = sum(p.numel() for n, p in trainable.items() if "original_module" not in n and _is_added(n, adapted))
    full = total - added
    roles, blocks = Counter(), Counter()
    for name, parameter in trainable.items():
        role, block = _place(name, adapted)
        roles[role] += parameter.numel()
        blocks[block] += parameter.numel()
    return {
        "full": full,
        "total": total,
        "trainable": number,
        "adapter": number - head,
        "head": head,
        "trainable_percent": 100 * number / total,
        "reduction_percent": 100 * (1 - number / full),
        "times_fewer": full / number if number else None,
        "by_role": dict(sorted(roles.items())),
        "by_block": dict(sorted(blocks.items())),
        "ranks": dict(adapted.ranks),
    }


def _is_added(name: str, adapted: Adapted) -> bool:
    """Whether a trainable parameter is none of the backbone's own. A copy of the head counts as its own."""
    return not adapted.is_head(name) and name.removeprefix("base_model.model.") not in adapted.own_parameters


def _place(name: str, adapted: Adapted) -> tuple[str, str]:
    """(role, block) of a parameter."""
    if adapted.is_head(name):
        return "head", "head"
    plain = name.removeprefix("base_model.model.")
    site = next(
        (s for s in sorted(adapted.backbone.roles.sites, key=lambda s: -len(s.name)) if plain.startswith(s.name + ".")), None
    )
    if site is not None:
        return site.role, str(site.block) if site.block is not None else "outside"
    digits = [part for part in plain.split(".") if part.isdigit()]
    return "norm" if "norm" in plain else "embedding" if "embed" in plain or "token" in plain else "other", digits[
        0
    ] if digits else "outside"


def final_ranks(adapted: Adapted) -> dict[str, int]:
    """Site name -> rank that is left, triplets that are switched off not counted; empty where no rank can have changed."""
    found = {name: part.switched_on for name, part in adapted.adapter.parts(adapted).items() if part.directions}
    return found if found.keys() == {site.name for site in adapted.sites} else {}


class _Hook(TrainingHook):
    name = "parameters"

    def __init__(self, adapted: Adapted) -> None:
        self.adapted, self.at_start = adapted, count_parameters(adapted)

    def report(self) -> dict[str, Any]:
        """Of start and end the larger is what the run had to hold, and counts as trained."""
        adapted, end = self.adapted, count_parameters(self.adapted)
        most = max(self.at_start, end, key=lambda counts: counts["trainable"])
        ranks = final_ranks(adapted)
        left = adapted.adapter.count(adapted.backbone, adapted.sites, ranks) if ranks else end["adapter"]
        at_end = {"trainable": left + end["head"], "adapter": left, "ranks": ranks}
        return {"parameters.json": {**most, "ranks": self.at_start["ranks"], "at_end": at_end}}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameters(Probe):
    """Total, trainable, by role and by block; and what is left at the end where an allocator changed ranks during training."""

    name: ClassVar[str] = "parameters"

    def hook(self, adapted: Adapted, view: View) -> TrainingHook:
        return _Hook(adapted)
