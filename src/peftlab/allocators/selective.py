"""Rank for some layers, none for the others."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

from peftlab.allocators._static import ATTENTION_ROLES, FEED_FORWARD_ROLES, Static
from peftlab.errors import OptionError, nearest
from peftlab.nn.roles import Site

_KINDS = {"attention": ATTENTION_ROLES, "feed-forward": FEED_FORWARD_ROLES}
_BLOCKS = re.compile(r"blocks?:(\d+)(?:-(\d+))?")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selective(Static):
    """r_m = the same for the modules that ``keep`` names, 0 (not adapted) for all others.

    ``keep``: attention, feed-forward, block ranges (``blocks:8-11``), joined by commas: kinds add up, block ranges restrict.
    Without a budget the kept modules have the adapter's own rank; with one it is shared out equally among them.
    Which layers to adapt is the question of Hu et al. 2021, section 7.1.
    """

    name: ClassVar[str] = "selective"
    citation: ClassVar[str] = """@inproceedings{hu2022lora,
  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean
    and Wang, Lu and Chen, Weizhu},
  booktitle = {International Conference on Learning Representations}, year = {2022},
  url = {https://openreview.net/forum?id=nZeVKeeFYf9}
}"""

    keep: str = "attention"  #: attention, feed-forward, blocks:FIRST-LAST, or several joined by commas

    def __post_init__(self) -> None:
        self._check_options()
        for word in self._words():
            if word not in _KINDS and not _BLOCKS.fullmatch(word):
                raise OptionError(f"cannot keep {word!r}", where="keep", remedy=nearest(word, {*_KINDS, "blocks:0-3"}))

    def _words(self) -> list[str]:
        return [word.strip() for word in self.keep.split(",")]

    def weights(self, sites: Sequence[Site]) -> dict[str, float]:
        kinds = [_KINDS[word] for word in self._words() if word in _KINDS]
        spans = [(int(m[1]), int(m[2] or m[1])) for word in self._words() if (m := _BLOCKS.fullmatch(word))]
        kept = [s for s in sites if not kinds or any(s.role in roles for roles in kinds)]
        for first, last in spans:
            if not any(site.block is not None and first <= site.block <= last for site in kept):
                raise OptionError(
                    f"blocks {first}-{last} hold none of the adapted layers", where="allocator.keep", remedy="name other blocks"
                )
        if spans:
            kept = [s for s in kept if s.block is not None and any(first <= s.block <= last for first, last in spans)]
        if not kept:
            raise OptionError(
                f"{self.keep!r} keeps none of the adapted layers", where="allocator.keep", remedy="keep others, or widen targets"
            )
        return {site.name: 1.0 for site in kept}
