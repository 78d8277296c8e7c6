"""Ranks as they are written down."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from peftlab.allocators._static import Report
from peftlab.allocators.contract import Allocator
from peftlab.errors import OptionError, nearest
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.roles import Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pattern(Allocator):
    """r_m = the rank that ``ranks`` gives module m; what `peftlab choose DIR --ranks` prints can be pasted here.

    A key is the name of a layer, a role (q, v, up, ...) or a regular expression that matches a layer's whole name. A layer's own
    name goes before roles and expressions, whatever their order. Every key must match, and every adapted layer must be matched.
    What ``rank_pattern`` is in PEFT (Mangrulkar et al. 2022).
    """

    name: ClassVar[str] = "pattern"
    acts: ClassVar[bool] = False
    citation: ClassVar[str] = """@misc{mangrulkar2022peft,
  title = {{PEFT}: State-of-the-art Parameter-Efficient Fine-Tuning methods},
  author = {Mangrulkar, Sourab and Gugger, Sylvain and Debut, Lysandre and Belkada, Younes and Paul, Sayak and Bossan, Benjamin},
  howpublished = {\\url{https://github.com/huggingface/peft}}, year = {2022}
}"""

    ranks: Mapping[str, int]  #: layer, role or regular expression -> rank; 0 = not adapted

    def __post_init__(self) -> None:
        if not self.ranks:
            raise OptionError("no ranks are given", where="ranks", remedy="e.g. {q: 4, v: 8}")
        for key, rank in self.ranks.items():
            if rank < 0:
                raise OptionError(f"a rank must not be negative, got {rank}", where=f"ranks.{key}", remedy="0 = not adapted")
            try:
                re.compile(key)
            except re.error as error:
                raise OptionError(
                    f"{key!r} is no regular expression: {error}", where="ranks", remedy="name a layer or role"
                ) from error

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Any = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        used: set[str] = set()
        found = {}
        for site in sites:
            keys = [key for key in self.ranks if _matches(key, site)]
            used |= set(keys)
            keys = [site.name] if site.name in keys else keys
            if len({self.ranks[key] for key in keys}) != 1:
                what = f"is matched by {', '.join(map(repr, keys))} with different ranks" if keys else "is matched by no key"
                raise OptionError(f"{site.name} {what}", where="allocator.ranks", remedy="name the layer itself")
            found[site.name] = self.ranks[keys[0]]
            if found[site.name] > min(site.d_in, site.d_out):
                raise OptionError(
                    f"rank {found[site.name]} is above min(d_in, d_out) = {min(site.d_in, site.d_out)} of {site.name}",
                    where=f"allocator.ranks.{keys[0]}",
                    remedy="lower it",
                )
        if unused := [key for key in self.ranks if key not in used]:
            known = {name for site in sites for name in (site.name, site.role)}
            raise OptionError(
                f"{unused[0]!r} matches none of the adapted layers", where="allocator.ranks", remedy=nearest(unused[0], known)
            )
        return found

    def hook(self, adapted) -> TrainingHook:
        return Report(self, adapted, None)


def _matches(key: str, site: Site) -> bool:
    return key == site.role or re.fullmatch(key, site.name) is not None
