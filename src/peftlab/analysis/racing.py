"""Racing: all arms run seed by seed, and an arm leaves as soon as what is asked about it is shown, by a test that holds at any n.

====================  ===================================================================  ====================================
goal                  an arm leaves when it is shown                                       hypotheses in one race of K arms
====================  ===================================================================  ====================================
``best``              to be worse than an arm still in the race, by more than the margin   K (K - 1): every ordered pair
``margin``            to be within the declared margin of the baseline, or beyond it       2 (K - 1)
====================  ===================================================================  ====================================

After every seed each hypothesis has the p value of ``anytime.p_process``, adjusted by Holm over the race, at level alpha over the
number of races (task x backbone). Since the p values hold at all n at once, so does the family-wise error rate: with probability
at least 1 - alpha no arm of the study leaves for a reason that is not true, however often one looks. Pure functions of arrays.

With ``futility`` an arm also leaves, its question open, when the chance that any of its hypotheses not shown yet is shown by the
last planned seed is below that: differences to come are drawn from the predictive distribution of a normal mean and variance
(prior 1 / sigma). Tests that hold at any n hold at that one as well, so nothing is paid for it but power.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from peftlab.analysis.anytime import SCALE, earliest, log_e, log_e_two_sided
from peftlab.study.schema import Margin

Why = Literal["worse", "within", "beyond", "open"]
DRAWS = 1000  #: of the future, to see whether a question can still be answered


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When an arm leaves."""

    goal: Literal["best", "margin"]
    level: float  #: alpha of one race: that of the study over the number of races
    minimum: int  #: seeds before the first look
    arms: int  #: declared for the race, K; those refused count, because they were asked about
    margin: Margin | None = None  #: of ``best``: how much worse an arm may be and stay; of ``margin``: the declared one
    baseline: str | None = None
    keep: frozenset[str] = frozenset()  #: never leave; nor does the baseline
    futility: float = 0.0  #: an arm leaves when its question is answered in time with a chance below this
    higher_is_better: bool = True
    resolution: float = 0.0  #: half a step of the metric
    scale: float = SCALE

    @property
    def family(self) -> int:
        """Number of hypotheses in the race."""
        return self.arms * (self.arms - 1) if self.goal == "best" else 2 * (self.arms - 1)

    @property
    def first_seed(self) -> int:
        """The fewest seeds after which an arm can leave, however far it is ahead or behind."""
        return max(self.minimum, earliest(self.level / self.family, scale=self.scale))

    def stays(self, label: str) -> bool:
        return label == self.baseline or label in self.keep


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """One arm that left, and what was seen."""

    label: str
    why: Why
    against: str  #: the arm that it was compared with
    seeds: int  #: after which it left
    n: int  #: pairs that were seen
    difference: float  #: mean of the difference to that arm, in the units of the metric
    sd: float
    e_value: float  #: largest so far
    p: float  #: 1 / e_value: holds at any n
    p_adjusted: float  #: Holm, over the race
    chance: float | None = None  #: of ``open``: that the question would have been answered by the last seed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """How far a race is."""

    labels: tuple[str, ...]
    looks: tuple[tuple[int, tuple[str, ...]], ...]  #: (seeds, arms in the race when they were looked at)
    left: tuple[Left, ...]
    running: tuple[str, ...]  #: still in the race
    due: tuple[tuple[int, str], ...]  #: (position of the seed, arm): runs without an outcome that the next look needs
    over: bool

    @property
    def seeds(self) -> int:
        """Seeds looked at."""
        return self.looks[-1][0] if self.looks else 0

    def seeds_of(self, label: str) -> int:
        """Seeds that an arm was in the race for."""
        return max((seeds for seeds, arms in self.looks if label in arms), default=0)


def race(
    values: NDArray[np.float64],
    labels: Sequence[str],
    rule: Rule,
    *,
    ended: NDArray[np.bool_] | None = None,
    standing: Mapping[str, Left] | None = None,
) -> Race:
    """Play the race as far as its runs have ended; a function of what is given and of nothing else.

    Args:
        values: [seeds, arms], seeds in the declared order; NaN where a run gave none.
        labels: of the arms.
        rule: when an arm leaves.
        ended: [seeds, arms] whether a run has an outcome, a failure included; all where not given.
        standing: arms that left before, by label: they leave when they did, whatever the records say by now.
    """
    ended = np.ones(values.shape, dtype=bool) if ended is None else ended
    before = dict(standing or {})
    hypotheses = _hypotheses(labels, rule)
    gaps = _gaps(values, labels, hypotheses, rule)
    log_p = _log_p(gaps, rule)
    seen = np.zeros(len(hypotheses))  # log p of each, as of the last look that both its arms were in
    running, looks, left = list(labels), [], []
    for seeds in range(min(rule.minimum, len(values)), len(values) + 1):
        if _over(running, rule):
            break
        due = [(i, label) for i in range(seeds) for j, label in enumerate(labels) if label in running and not ended[i, j]]
        if due:
            return Race(labels=tuple(labels), looks=tuple(looks), left=tuple(left), running=tuple(running),
                        due=tuple(due), over=False)  # fmt: skip
        looks.append((seeds, tuple(running)))
        for index, (_, arm, other) in enumerate(hypotheses):
            if arm in running and other in running:
                seen[index] = log_p[index, seeds - 1]
        adjusted = _holm(seen, rule.family)
        gone = [found for label in running if (found := before.get(label)) is not None and found.seeds == seeds]
        for label in running:
            if rule.stays(label) or label in before:
                continue
            shown = [i for i, (_, arm, other) in enumerate(hypotheses)
                     if arm == label and other in running and adjusted[i] <= rule.level]  # fmt: skip
            if shown:
                best = min(shown, key=lambda i: (seen[i], i))
                gone.append(_left(values, labels, hypotheses[best], seen[best], float(adjusted[best]), seeds))
        if rule.futility and seeds < len(values):
            away = {found.label for found in gone}
            needed = math.log(rule.level / max(1, rule.family - int((adjusted <= rule.level).sum())))
            for label in [label for label in running if label not in away and label not in before and not rule.stays(label)]:
                mine = [i for i, (_, *both) in enumerate(hypotheses)
                        if label in both and set(both) <= set(running) - away and adjusted[i] > rule.level]  # fmt: skip
                chances = {i: chance(gaps[i], seeds, needed, rule) for i in mine}
                if chances and max(chances.values()) < rule.futility:
                    best = max(chances, key=lambda i: (chances[i], -i))
                    _, *both = hypotheses[best]
                    other = both[0] if both[1] == label else both[1]
                    told = _left(values, labels, ("open", label, other), seen[best], float(adjusted[best]), seeds)
                    gone.append(dataclasses.replace(told, chance=chances[best]))
        left += gone
        running = [label for label in running if label not in {found.label for found in gone}]
    return Race(labels=tuple(labels), looks=tuple(looks), left=tuple(left), running=tuple(running), due=(), over=True)


def chance(gap: NDArray[np.float64], seeds: int, needed: float, rule: Rule) -> float:
    """Probability, given the first ``seeds`` differences, that log p falls to ``needed`` by the last; 1 where nothing varied."""
    known = gap[:seeds][np.isfinite(gap[:seeds])]
    n = known.size
    if n < 3 or (sd := float(np.std(known, ddof=1))) == 0:
        return 1.0
    generator = np.random.default_rng(n)  # of the numbers of pairs and nothing else: played again, it is the same race
    sigma = sd * np.sqrt((n - 1) / generator.chisquare(n - 1, (DRAWS, 1)))
    mean = known.mean() + sigma / math.sqrt(n) * generator.standard_normal((DRAWS, 1))
    future = mean + sigma * generator.standard_normal((DRAWS, len(gap) - seeds))
    whole = np.concatenate([np.broadcast_to(known, (DRAWS, n)), future], axis=1)
    how = {"scale": rule.scale, "resolution": rule.resolution}
    # one-sided evidence is at most twice the two-sided, which is found without Student's distribution: most of the time
    near = log_e_two_sided(whole, **how)[:, n:].max(axis=1) + math.log(2.0) >= -needed
    evidence = log_e(whole[near], **how, since=n).max(axis=1)
    return np.count_nonzero(evidence >= -needed) / DRAWS


def shortfall(best: NDArray[np.float64], arm: NDArray[np.float64], margin: Margin | None, higher: bool) -> NDArray[np.float64]:
    """By how much ``arm`` is worse than ``best`` beyond the margin (below 0: it is not)."""
    if margin is None or margin.absolute is not None:
        allowed = 0.0 if margin is None else float(margin.absolute or 0.0)
        return (best - arm if higher else arm - best) - allowed
    m = float(margin.relative or 0.0)
    return (1 - m) * best - arm if higher else arm - (1 + m) * best


def _hypotheses(labels: Sequence[str], rule: Rule) -> list[tuple[Why, str, str]]:
    """(what would be shown, of which arm, against which)."""
    if rule.goal == "best":
        return [("worse", arm, other) for arm in labels for other in labels if arm != other]
    base = rule.baseline
    if base is None or base not in labels:
        return []
    both: tuple[Why, Why] = ("within", "beyond")
    return [(why, arm, base) for arm in labels if arm != base for why in both]


def _gaps(
    values: NDArray[np.float64], labels: Sequence[str], hypotheses: Sequence[tuple[Why, str, str]], rule: Rule
) -> NDArray[np.float64]:
    """[hypotheses, seeds]: what is above 0 where the hypothesis holds."""
    at = {label: values[:, i] for i, label in enumerate(labels)}
    if not hypotheses:
        return np.zeros((0, len(values)))
    return np.stack([
        shortfall(at[other], at[arm], rule.margin, rule.higher_is_better) * (-1 if why == "within" else 1)
        for why, arm, other in hypotheses
    ])  # fmt: skip


def _log_p(gaps: NDArray[np.float64], rule: Rule) -> NDArray[np.float64]:
    """[hypotheses, seeds]."""
    evidence = log_e(gaps, scale=rule.scale, resolution=rule.resolution)
    return -np.maximum(np.maximum.accumulate(evidence, axis=-1), 0.0)


def _holm(log_p: NDArray[np.float64], family: int) -> NDArray[np.float64]:
    """Holm's adjusted p values; hypotheses of the family that are not here have p = 1."""
    order = np.argsort(log_p, kind="stable")
    steps = np.maximum(family - np.arange(len(order)), 1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.exp(log_p[order]) * steps))
    return adjusted


def _over(running: Sequence[str], rule: Rule) -> bool:
    """Whether nothing is left to compare."""
    return len(running) < 2


def _left(
    values: NDArray[np.float64], labels: Sequence[str], what: tuple[Why, str, str], log_p: float, adjusted: float, seeds: int
) -> Left:
    why, arm, other = what
    gap = values[:seeds, labels.index(arm)] - values[:seeds, labels.index(other)]
    gap = gap[np.isfinite(gap)]
    return Left(
        label=arm, why=why, against=other, seeds=seeds, n=int(gap.size), difference=float(gap.mean()),
        sd=float(np.std(gap, ddof=1)), e_value=math.exp(min(-log_p, 700.0)), p=math.exp(log_p), p_adjusted=adjusted,
    )  # fmt: skip
