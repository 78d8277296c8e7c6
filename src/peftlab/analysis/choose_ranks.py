"""Ranks for the next study, from what runs recorded about their layers, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from peftlab.analysis.agreement import between_seeds
from peftlab.analysis.findings import Form
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.importance import Group, groups_of, module_map
from peftlab.analysis.maps import Place, module_runs, share_maps
from peftlab.analysis.ranks import RANK, rank_groups
from peftlab.errors import StudyError, nearest
from peftlab.study.expand import cells

RESAMPLES = 10_000
FEWEST_SEEDS = 3  #: below, no interval of the agreement exists
METRIC = "sensitivity"  #: read where ranks were not decided during training
Unit = Literal["ranks", "parameters"]
Ranks = NDArray[np.int_]
Cost = Callable[[Ranks], Ranks]


class ModuleRank(Form):
    """The proposed rank of one module, and what it rests on."""

    site: str
    block: int | None
    role: str
    rank: int
    share: float  #: mean over seeds, of the sum over modules
    interval: tuple[float, float] | None  #: t over seeds, not adjusted for the number of modules
    probability_above_uniform: float  #: share of resamples of the seeds in which its mean share is above 1/M


class RankChoice(Form):
    """The answer of ``choose --ranks``. ``ranks`` is what may be pasted; uniform where no pattern is supported."""

    arm: str
    task: str
    backbone: str
    basis: str  #: final ranks, or importance by a metric
    supported: bool
    sentence: str
    budget: dict[str, int]
    spent: dict[str, int]
    ranks: dict[str, int]
    modules: list[ModuleRank]
    tau: float | None  #: agreement between seeds
    tau_interval: tuple[float, float] | None
    seeds: int
    notes: list[str]


def choose_ranks(
    folder: str | Path,
    *,
    arm: str | None = None,
    budget: tuple[Unit, int] | None = None,
    metric: str | None = None,
    seed: int = 0,
) -> RankChoice:
    """A pattern of ranks, proportional to what one arm's runs say about their modules.

    Args:
        folder: ``results/<study>``.
        arm: label; default the first whose ranks were decided during training, else the first that recorded importance.
        budget: ("ranks" or "parameters", amount); default the ranks that the arm itself ends with.
        metric: importance to go by; default the final ranks where they were decided during training, else :data:`METRIC`.
        seed: of the bootstrap.

    Raises:
        RecordError: the folder cannot be read.
        StudyError: nothing was recorded, no such arm or metric, or the budget is below one rank a module or above all.
    """
    frame = load_frame(folder)
    group, places, usual = _evidence(frame, arm, metric)
    unit, amount = budget or ("ranks", usual)
    confidence = frame.study.analysis.confidence
    shares = group.values / group.values.sum(axis=1, keepdims=True)
    tau = between_seeds(dict(zip(group.seeds, shares, strict=True)), confidence)
    supported = tau is not None and tau.interval is not None and tau.interval[0] > 0
    means = shares.mean(axis=0)
    tops, parameters = np.array([largest_rank(place) for place in places]), prices(places)
    cost = parameters if unit == "parameters" else _number
    ranks = share_out(means if supported else np.ones_like(means), amount, cost, tops)
    probabilities = _above_uniform(shares, np.random.default_rng(seed))
    about = {m.site: m for m in module_map(_with(group, shares), confidence).modules}
    modules = [
        ModuleRank(
            site=site, block=about[site].block, role=about[site].role, rank=int(rank), share=about[site].mean,
            interval=about[site].interval, probability_above_uniform=float(p),
        )
        for site, rank, p in zip(group.sites, ranks, probabilities, strict=True)
    ]  # fmt: skip
    spent = {"ranks": int(ranks.sum()), "parameters": int(parameters(ranks).sum())}
    return RankChoice(
        arm=group.arm, task=group.task, backbone=group.backbone,
        basis="final ranks" if group.metric == RANK else f"importance by {group.metric}",
        supported=supported, sentence=_sentence(group, supported, tau.tau if tau else None, tau.interval if tau else None),
        budget={unit: amount}, spent=spent, ranks={m.site: m.rank for m in modules}, modules=modules,
        tau=tau.tau if tau else None, tau_interval=tau.interval if tau else None, seeds=len(group.seeds),
        notes=_notes(frame, group, supported, priced=all(place.cost is not None for place in places)),
    )  # fmt: skip


def _evidence(frame: Frame, arm: str | None, metric: str | None) -> tuple[Group, list[Place], int]:
    """(values of the modules over seeds, what is known of these modules, ranks that the arm ends with)."""
    runs, _ = module_runs(frame)
    dynamic, _ = rank_groups(runs)
    maps = groups_of(share_maps(runs))
    candidates = [g for g in [*dynamic, *maps] if len(g.seeds) > 1]
    have_rank = {run.arm for run in runs if run.utilisation is not None}
    candidates = [g for g in candidates if g.arm in have_rank]
    if not candidates:
        raise StudyError(
            "no arm with ranks recorded its layers in two seeds or more", where=str(frame.folder), remedy="run more seeds"
        )
    arms = list(dict.fromkeys(g.arm for g in candidates))
    if arm is not None and arm not in arms:
        known = {cell.label for cell in cells(frame.study)}
        what = "has no layers with ranks recorded in two seeds or more" if arm in known else "is no arm of this study"
        raise StudyError(f"{arm!r} {what}", where="--arm", remedy=nearest(arm, arms))
    own = [g for g in candidates if g.arm == (arm or arms[0])]
    wanted = metric or (RANK if own[0].metric == RANK else METRIC)
    group = next((g for g in own if g.metric == wanted), None)
    if group is None:
        raise StudyError(
            f"{own[0].arm} recorded no importance by {wanted!r}",
            where="--metric",
            remedy=nearest(wanted, {g.metric for g in own}),
        )
    members = [r for r in runs if (r.arm, r.task, r.backbone) == (group.arm, group.task, group.backbone)]
    places = {s: p for run in members if run.importance is not None for s, p in run.importance.sites.items()}
    kept = [i for i, site in enumerate(group.sites) if site in places]
    values = np.nan_to_num(group.values[:, kept])
    usable = values.sum(axis=1) > 0
    seeds = [s for s, good in zip(group.seeds, usable, strict=True) if good]
    group = _with(group, values[usable], [group.sites[i] for i in kept], seeds)
    if len(seeds) < 2:
        raise StudyError(f"fewer than two seeds of {group.arm} say anything", where="--arm", remedy="run more seeds")
    totals = [sum(site.rank for site in run.utilisation.sites.values()) for run in members if run.utilisation is not None]
    return group, [places[site] for site in group.sites], round(float(np.mean(totals)))


def _with(group: Group, values: NDArray[np.float64], sites: list[str] | None = None, seeds: list[int] | None = None) -> Group:
    return Group(
        arm=group.arm, task=group.task, backbone=group.backbone, metric=group.metric, places=group.places, values=values,
        sites=group.sites if sites is None else sites, seeds=group.seeds if seeds is None else seeds,
    )  # fmt: skip


def largest_rank(place: Place) -> int:
    """That the adapter could have at a module."""
    return place.largest_rank if place.largest_rank is not None else min(place.d_in, place.d_out)


def prices(places: Sequence[Place]) -> Cost:
    """Trainable parameters that the modules cost at ranks of 1 and more: the adapter's own formula, in older records LoRA's."""
    lora = ((p.d_in + p.d_out, p.d_in + p.d_out, 0) for p in places)
    first, second, growth = np.array([p.cost or known for p, known in zip(places, lora, strict=True)], dtype=np.int64).T
    return lambda ranks: first + (ranks - 1) * second + (ranks - 1) * (ranks - 2) // 2 * growth


def _number(ranks: Ranks) -> Ranks:
    return ranks


def share_out(weights: NDArray[np.float64], amount: int, cost: Cost, tops: Ranks) -> Ranks:
    """Whole ranks, at least 1 and at most ``tops``, proportional to ``weights``, never dearer than ``amount``.

    ``cost``: ranks of all modules -> what each of them costs, in the unit of ``amount``.

    One rank a module first; then, while one can be paid, the next rank goes where the quotient weight / (rank + 1/2) is largest
    (the divisor method of Webster and Sainte-Lague, which rounds proportional shares without a bias for large or small ones).

    Raises:
        StudyError: the amount is below one rank a module, or above all ranks there can be.
    """
    ranks = np.ones(len(weights), dtype=int)
    least, most = int(cost(ranks).sum()), int(cost(tops).sum())
    if not least <= amount <= most:
        raise StudyError(
            f"the budget of {amount} must lie between {least} (one rank a module) and {most} (all)",
            where="--budget",
            remedy="give another one, or adapt other layers",
        )
    left = amount - least
    while (open_ := (ranks < tops) & ((next_ := cost(ranks + 1) - cost(ranks)) <= left)).any():
        quotients = np.where(open_, weights / (ranks + 0.5), -np.inf)
        best = int(np.argmax(quotients))
        ranks[best] += 1
        left -= int(next_[best])
    return ranks


def _above_uniform(shares: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    seeds, modules = shares.shape
    weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    return (weights @ shares > 1 / modules).mean(axis=0)


def _sentence(group: Group, supported: bool, tau: float | None, interval: tuple[float, float] | None) -> str:
    seeds = len(group.seeds)
    if tau is None:
        return "No pattern is supported: use uniform ranks. The modules do not differ, or are fewer than three."
    shown = f"τ {tau:.2f}" + (f", interval {interval[0]:.2f} to {interval[1]:.2f}" if interval else "") + f", {seeds} seeds"
    if supported:
        return f"The {seeds} seeds of {group.arm} agree on the order of the modules ({shown}): the pattern below follows it."
    if interval is None:
        return f"No pattern is supported: use uniform ranks. It takes {FEWEST_SEEDS} seeds to see whether seeds agree ({shown})."
    return (
        f"No pattern is supported: use uniform ranks. It is not shown that the seeds agree on the order of the modules ({shown})."
    )


def _notes(frame: Frame, group: Group, supported: bool, priced: bool) -> list[str]:
    found = []
    if not priced:
        found.append(
            "These records do not say what a rank of their adapter costs: LoRA's price is taken, d_in + d_out of the layer."
        )
    if supported:
        found.append(
            "That modules differ in importance does not show that a model trains better with such ranks: run the pattern beside "
            "uniform ranks, on other seeds than these."
        )
        found.append(f"Probabilities come from a bootstrap over {len(group.seeds)} seeds, which understates uncertainty.")
    if len(frame.settings) > 1:
        found.append(f"The pattern is from {group.task} with {group.backbone}, the first setting of {group.arm}.")
    return found
