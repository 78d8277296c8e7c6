"""Ranks follow importance."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.allocators._adaptive import Adaptive, Task


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proportional(Adaptive):
    """r_m proportional to the importance of module m, by largest remainders between min_rank and max_rank.

    All importances zero: equal ranks. That importance decides is of Zhang et al. 2023 (AdaLoRA), the rule and ranks that really
    change size are our own.
    """

    name: ClassVar[str] = "proportional"
    citation: ClassVar[str] = """@inproceedings{zhang2023adalora,
  title = {Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning},
  author = {Zhang, Qingru and Chen, Minshuo and Bukharin, Alexander and He, Pengcheng and Cheng, Yu and Chen, Weizhu
    and Zhao, Tuo},
  booktitle = {International Conference on Learning Representations}, year = {2023},
  url = {https://openreview.net/forum?id=lq62uWRJjiY}
}"""

    def decide(self, task: Task) -> dict[str, int]:
        return task.proportional(task.importance)
