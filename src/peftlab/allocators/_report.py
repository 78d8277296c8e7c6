"""What every allocator that acts during training says at the end: ``ranks.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.allocators._budget import factors
from peftlab.allocators.contract import Allocator
from peftlab.nn.roles import Site


def ranks_report(
    allocator: Allocator,
    sites: Sequence[Site],
    *,
    scale: float,
    budget: Mapping[str, int],
    start: Mapping[str, int],
    ranks: Mapping[str, int],
    history: Sequence[Mapping[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """File name -> content.

    Args:
        scale: s, the factor of the update, the same from the start to the export.
        budget: {unit: amount}.
        start, ranks: site name -> rank at the start, and of what is exported.
        history: a line {step, ranks, importance} for each decision; ``step`` counts the optimizer steps done.
    """
    unit, amount = next(iter(budget.items()))
    spent = {"ranks": sum(ranks.values()), "parameters": sum(factors(site, ranks[site.name]) for site in sites)}
    return {
        "ranks.json": {
            "allocator": allocator.spec(),
            "effective_scale": scale,
            "budget": {"unit": unit, "amount": amount, "remainder": amount - spent[unit]},
            "spent": spent,
            **more,
            "ranks_at_start": dict(start),
            "ranks": dict(ranks),
            "history": list(history),
        }
    }
