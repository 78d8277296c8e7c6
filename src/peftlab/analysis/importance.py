"""Which layers matter: importance maps over seeds, contrasts between kinds of layers, and how far maps agree.

Importance is compared as a share of its run's sum, so that seeds, whose gradients differ in size, count alike; a share of 1/M,
M modules, is that of the average module. Nothing is said of an arm with fewer than two seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from peftlab.analysis.agreement import FEWEST_SEEDS, Tau, between_seeds, between_settings, tau_b, taus_with
from peftlab.analysis.comparison import holm, sign_flip_p
from peftlab.analysis.findings import alpha_of
from peftlab.analysis.intervals import Interval, t_interval
from peftlab.analysis.layers import Agreement, Contrast, Kind, Module, ModuleMap
from peftlab.analysis.maps import Place, ShareMap, mean_of

ATTENTION, FEED_FORWARD = ("q", "k", "v", "o", "qkv"), ("up", "gate", "down")
#: (what is compared, roles of one side, roles of the other)
CONTRASTS = (
    ("attention − feed-forward", ATTENTION, FEED_FORWARD),
    ("q − k", ("q",), ("k",)),
    ("q − v", ("q",), ("v",)),
    ("q − o", ("q",), ("o",)),
)
EXTREMES = 5  #: most and least important modules that are named


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One arm's map in one setting: a value of every module for every seed [seeds, modules], and its values over time."""

    arm: str
    task: str
    backbone: str
    metric: str
    sites: list[str]
    places: dict[str, Place]
    seeds: list[int]
    values: NDArray[np.float64]
    source: ShareMap | None = None

    @property
    def by_seed(self) -> dict[int, NDArray[np.float64]]:
        return {seed: row for seed, row in zip(self.seeds, self.values, strict=True) if np.isfinite(row).any()}


def groups_of(maps: Sequence[ShareMap]) -> list[Group]:
    """Maps of two seeds or more."""
    return [
        Group(
            arm=m.arm, task=m.task, backbone=m.backbone, metric=m.metric, sites=m.sites, places=m.places, seeds=m.seeds,
            values=m.shares, source=m,
        )
        for m in maps
        if len(m.seeds) > 1
    ]  # fmt: skip


def module_map(group: Group, confidence: float, *, uniform: float | None = None) -> ModuleMap:
    """Means over seeds with t intervals, and the modules at both ends.

    ``uniform`` is the value of a module that stands out neither way (default 1/M): ``above`` and ``below`` say whether the whole
    interval, not adjusted for the number of modules, lies on one side of it.
    """
    level = 1 / len(group.sites) if uniform is None else uniform
    modules = []
    for site, column in zip(group.sites, group.values.T, strict=True):
        interval = t_interval(column, confidence)
        if not interval.n:
            continue
        bounds = bounds_of(interval)
        place = group.places[site]
        modules.append(
            Module(
                site=site, block=place.block, role=place.role, mean=interval.mean, interval=bounds, sd=interval.sd, n=interval.n,
                above=bounds is not None and bounds[0] > level, below=bounds is not None and bounds[1] < level,
            )
        )  # fmt: skip
    ranked = sorted(modules, key=lambda m: (-m.mean, m.site))
    ends = min(EXTREMES, len(ranked) // 2)
    return ModuleMap(
        arm=group.arm, task=group.task, backbone=group.backbone, metric=group.metric, n=len(group.by_seed), uniform=level,
        modules=modules, most=[m.site for m in ranked[:ends]], least=[m.site for m in reversed(ranked[len(ranked) - ends :])],
    )  # fmt: skip


def contrasts(groups: Sequence[Group], confidence: float, generator: np.random.Generator) -> list[Contrast]:
    """Paired differences per block, adjusted over the family of one arm and setting: all its metrics x contrasts."""
    found: list[Contrast] = []
    families = dict.fromkeys((g.arm, g.task, g.backbone) for g in groups)
    for family in families:
        members = [g for g in groups if (g.arm, g.task, g.backbone) == family]
        made = [c for g in members for sides in CONTRASTS if (c := _contrast(g, *sides, confidence, generator)) is not None]
        adjusted = holm([c.p_sign_flip for c in made])
        found += [c.model_copy(update={"p_adjusted": p, "family_size": len(made)}) for c, p in zip(made, adjusted, strict=True)]
    return found


def _contrast(
    group: Group, what: str, first: Sequence[str], second: Sequence[str], confidence: float, generator: np.random.Generator
) -> Contrast | None:
    """d_b = M (mean share of one side in block b - mean share of the other), 1 being the share of the average module.

    The test and the first interval treat the blocks as a sample, of the mean over seeds; the second interval treats the seeds as
    one, of the mean over blocks.
    """
    per_seed = _block_differences(group, first, second)
    if per_seed.size == 0 or per_seed.shape[1] < 2:
        return None
    scale = float(len(group.sites))
    per_block = scale * mean_of(list(per_seed))
    over_blocks = t_interval(per_block, confidence)
    over_seeds = t_interval(scale * mean_of(list(per_seed.T)), confidence)
    if over_seeds.n < 2 or over_blocks.n < 2:
        return None
    return Contrast(
        arm=group.arm, task=group.task, backbone=group.backbone, metric=group.metric, what=what,
        estimate=over_blocks.mean, interval=bounds_of(over_blocks), blocks=over_blocks.n,
        interval_over_seeds=bounds_of(over_seeds), n=over_seeds.n,
        p_sign_flip=sign_flip_p(per_block, generator), p_adjusted=None, alpha=alpha_of(confidence), family_size=0,
    )  # fmt: skip


def _block_differences(group: Group, first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
    """Mean share of one kind of module minus that of the other, for every block that has both in the map [seeds, blocks]."""
    places = [group.places[site] for site in group.sites]
    blocks = sorted({place.block for place in places if place.block is not None})
    values = group.values

    def side(block: int, roles: Sequence[str]) -> list[int]:
        return [k for k, place in enumerate(places) if place.block == block and place.role in roles]

    pairs = [(side(block, first), side(block, second)) for block in blocks]
    columns = [values[:, a].mean(axis=1) - values[:, b].mean(axis=1) for a, b in pairs if a and b]
    return np.stack(columns, axis=1) if columns else np.empty((len(values), 0))


def agreement(groups: Sequence[Group], confidence: float) -> list[Agreement]:
    """Between seeds, between metrics, between settings."""
    found = []
    for g in groups:
        found.append(_agreement("seeds", g, "", between_seeds(g.by_seed, confidence)))
    for a, b in combinations(groups, 2):
        if (a.arm, a.task, a.backbone) == (b.arm, b.task, b.backbone):
            found.append(_agreement("metrics", a, b.metric, _same_seeds(a, b, confidence)))
        elif (a.arm, a.metric) == (b.arm, b.metric):
            other = f"{b.task}, {b.backbone}"
            found.append(_agreement("settings", a, other, between_settings(*_common(a, b), confidence)))
    return [a for a in found if a is not None]


def _agreement(kind: Kind, group: Group, other: str, tau: Tau | None) -> Agreement | None:
    if tau is None:
        return None
    return Agreement(
        kind=kind, arm=group.arm, task=group.task, backbone=group.backbone, metric=group.metric, other=other,
        tau=tau.tau, interval=tau.interval, n=tau.seeds, pairs=tau.pairs,
    )  # fmt: skip


def _same_seeds(a: Group, b: Group, confidence: float) -> Tau | None:
    """Two metrics of the same runs: one tau per seed, and a t interval over seeds, which are independent."""
    columns = [b.sites.index(site) if site in b.sites else -1 for site in a.sites]
    other = {seed: np.where(np.array(columns) >= 0, row[columns], np.nan) for seed, row in b.by_seed.items()}
    taus = [t for seed, row in a.by_seed.items() if seed in other and (t := tau_b(row, other[seed])) is not None]
    return mean_tau(taus, confidence)


def mean_tau(taus: Sequence[float], confidence: float) -> Tau | None:
    """Mean of one tau per seed; None with fewer than two, and no interval with fewer than three.

    Two taus close to 1 are often equal by chance, and an interval from them then has no width: of maps that agree almost
    wholly it covers 57 % (tests/analysis/test_importance.py). Between seeds two give none either (``agreement.jackknife``).
    """
    if len(taus) < 2:
        return None
    interval = t_interval(taus, confidence)
    bounds = bounds_of(interval) if len(taus) >= FEWEST_SEEDS else None
    cut = (max(-1.0, bounds[0]), min(1.0, bounds[1])) if bounds else None
    return Tau(interval.mean, cut, len(taus), len(taus))


def _common(a: Group, b: Group) -> tuple[dict[int, NDArray[np.float64]], dict[int, NDArray[np.float64]]]:
    """Both maps over the modules they share: by name on one backbone, by block and role across backbones."""

    def key(group: Group) -> Callable[[str], object]:
        same = a.backbone == b.backbone
        return (lambda site: site) if same else (lambda site: (group.places[site].block, group.places[site].role))

    here, there = ({key(g)(site): i for i, site in enumerate(g.sites)} for g in (a, b))
    shared = [k for k in here if k in there]
    return (
        {seed: row[[here[k] for k in shared]] for seed, row in a.by_seed.items()},
        {seed: row[[there[k] for k in shared]] for seed, row in b.by_seed.items()},
    )


def stability(group: Group, confidence: float) -> list[Agreement]:
    """Tau of each snapshot with the last of its run: mean over seeds, at every step that two seeds or more recorded."""
    if group.source is None:
        return []
    taus: dict[int, list[float]] = {}
    for folds in group.source.over_time.values():
        by_step: dict[int, list[float]] = {}
        for steps, shares in folds:
            for step, tau in zip(steps[:-1], taus_with(shares[:-1], shares[-1]), strict=True):
                if tau is not None:
                    by_step.setdefault(step, []).append(tau)
        for step, values in by_step.items():
            taus.setdefault(step, []).append(float(np.mean(values)))
    found = [(step, mean_tau(values, confidence)) for step, values in sorted(taus.items())]
    made = [(step, _agreement("last snapshot", group, "", tau)) for step, tau in found]
    return [a.model_copy(update={"step": step}) for step, a in made if a is not None]


def bounds_of(interval: Interval) -> tuple[float, float] | None:
    if interval.low is None or interval.high is None or not math.isfinite(interval.low):
        return None
    return interval.low, interval.high
