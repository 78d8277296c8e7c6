"""The same rank everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from peftlab.allocators._static import Static
from peftlab.nn.roles import Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Uniform(Static):
    """r_m = r for every adapted module m (the rule of Hu et al. 2021), or a budget shared out equally."""

    name: ClassVar[str] = "uniform"
    citation: ClassVar[str] = """@inproceedings{hu2022lora,
  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean
    and Wang, Lu and Chen, Weizhu},
  booktitle = {International Conference on Learning Representations}, year = {2022},
  url = {https://openreview.net/forum?id=nZeVKeeFYf9}
}"""

    def weights(self, sites: Sequence[Site]) -> dict[str, float]:
        return {site.name: 1.0 for site in sites}
