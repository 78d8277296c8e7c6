"""The most important directions of all modules."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.allocators._adaptive import Adaptive, Task
from peftlab.allocators._budget import unit_cost


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TopK(Adaptive):
    """The budget buys the k most important rank-1 directions over all modules (as in Zhang et al. 2023, section 3.3).

    AdaLoRA starts with more directions than it keeps; here ranks also grow, so a direction that a module does not have yet
    needs a value: the module's own scores, sorted, s_1 >= ... >= s_r, are continued geometrically, s_(r+j) = s_r g^j with
    g = (s_r / s_1)^(1/(r-1)) (g = 1/2 where r = 1). So a module whose weakest direction matters more than another one's takes
    over its rank. At the same score, directions there are come before directions there might be; min_rank and max_rank hold.
    That ranks grow is our own.
    """

    name: ClassVar[str] = "top_k"
    citation: ClassVar[str] = """@inproceedings{zhang2023adalora,
  title = {Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning},
  author = {Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu
    and Zhao, Tuo},
  booktitle = {International Conference on Learning Representations}, year = {2023},
  url = {https://openreview.net/forum?id=lq62uWRJjiY}
}"""

    def decide(self, task: Task) -> dict[str, int]:
        unit, amount = next(iter(task.budget.items()))
        price = unit_cost(unit, task.cost)
        ordered = sorted(task.sites, key=lambda s: (-1 if s.block is None else s.block, s.name))
        ranks = {site.name: task.low for site in task.sites}
        left = amount - sum(price(site, task.low) for site in ordered)
        candidates = []
        for order, site in enumerate(ordered):
            scores = continued(task.scores[site.name].directions.tolist(), task.top(site))
            for number in range(task.low, task.top(site)):
                candidates.append((-scores[number], number >= task.ranks[site.name], order, number))
        full: set[int] = set()
        for _, _, order, number in sorted(candidates):
            site = ordered[order]
            step = price(site, number + 1) - price(site, number)
            if order in full or step > left:
                full.add(order)  # its next directions matter less and cost as much
                continue
            ranks[site.name], left = number + 1, left - step
        return ranks


def continued(scores: list[float], length: int) -> list[float]:
    """Scores in falling order, continued geometrically (or cut) to ``length``."""
    found = sorted(scores, reverse=True)[:length]
    first, last, count = found[0], found[-1], len(found)
    ratio = 0.5 if count < 2 else (last / first) ** (1 / (count - 1)) if first > 0 else 0.0
    return found + [last * ratio**j for j in range(1, length - count + 1)]
