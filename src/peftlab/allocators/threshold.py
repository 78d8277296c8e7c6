"""Ranks for the modules above a threshold."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from peftlab.allocators._adaptive import Adaptive, Task
from peftlab.errors import OptionError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Threshold(Adaptive):
    """Modules whose importance reaches the threshold share the budget equally, the others get min_rank.

    The threshold is ``fraction`` of the largest importance, or the ``quantile`` of all of them. What the chosen modules cannot
    take (all at max_rank) goes to the others. That importance decides is of Zhang et al. 2023 (AdaLoRA), the rule is our own.
    """

    name: ClassVar[str] = "threshold"
    citation: ClassVar[str] = """@inproceedings{zhang2023adalora,
  title = {Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning},
  author = {Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu
    and Zhao, Tuo},
  booktitle = {International Conference on Learning Representations}, year = {2023},
  url = {https://openreview.net/forum?id=lq62uWRJjiY}
}"""

    fraction: float | None = None  #: of the largest importance; default 0.5 where no quantile is given
    quantile: float | None = None  #: of the importances: 0.5 chooses the upper half

    def __post_init__(self) -> None:
        self._check_options()
        if self.fraction is not None and self.quantile is not None:
            raise OptionError("give either a fraction or a quantile", where="quantile", remedy="remove one of them")
        for option in ("fraction", "quantile"):
            value = getattr(self, option)
            if value is not None and not 0 < value < 1:
                raise OptionError(f"must be between 0 and 1, got {value}", where=option, remedy="e.g. 0.5")

    def level(self, importance: list[float]) -> float:
        """The importance a module must reach."""
        if self.quantile is not None:
            return float(np.quantile(importance, self.quantile))
        return (self.fraction if self.fraction is not None else 0.5) * max(importance)

    def decide(self, task: Task) -> dict[str, int]:
        level = self.level(list(task.importance.values()))
        return task.proportional({name: float(value >= level) for name, value in task.importance.items()})
