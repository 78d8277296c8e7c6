"""Which arms a table may mark: the best mean, and those that no test shows to be worse than it, by the findings' own tests."""

from __future__ import annotations

import dataclasses

from peftlab.analysis.findings import Findings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """Labels of one setting."""

    best: tuple[str, ...] = ()  #: with the best mean; several only where means are exactly equal
    not_shown_worse: tuple[str, ...] = ()  #: tested against the best, and not shown to be worse
    tests: int = 0  #: arms that were tested against the best


def best_arms(findings: Findings, task: str, backbone: str) -> Best:
    """Every arm against the one with the best mean, by adjusted p: the declared comparison where one is the baseline, else the
    exploratory one.

    The best is picked from the same values that are tested, and a test that shows nothing is no evidence of equality: marks are
    there for reading a table, not for claims. Of a race only arms that have all its seeds can be best: a mean over fewer seeds is
    of other, easier or harder, ones.
    """
    arms = [a for a in findings.arms if (a.task, a.backbone) == (task, backbone)]
    means = {a.label: a.mean for a in arms if a.mean is not None}
    if len(means) < 2:
        return Best()
    whole = {a.label: means[a.label] for a in arms if a.label in means and not a.left_early} or means
    top = max(whole.values()) if findings.plan.higher_is_better else min(whole.values())
    best = tuple(label for label, mean in whole.items() if mean == top)
    tested = {
        label: found
        for label in means
        if label not in best and (found := _test(findings, task, backbone, label, best[0])) is not None
    }
    level = tuple(label for label, (p, worse) in tested.items() if p > findings.plan.alpha or not worse)
    return Best(best=best, not_shown_worse=level, tests=len(tested))


def _test(findings: Findings, task: str, backbone: str, one: str, other: str) -> tuple[float, bool] | None:
    """(adjusted p of the difference between two arms, whether ``one`` is the worse); None where it could not be tested."""
    higher = findings.plan.higher_is_better
    for finding in findings.findings:
        if (
            finding.kind == "difference"
            and (finding.task, finding.backbone) == (task, backbone)
            and {*finding.arms} == {one, other}
        ):
            return _signed(finding.p_adjusted, finding.estimate, (finding.arms[0] == one) == higher)
    for pairs in findings.exploratory:
        if (pairs.task, pairs.backbone) == (task, backbone):
            for first, second, p, gap in zip(pairs.first, pairs.second, pairs.p_adjusted, pairs.estimate, strict=True):
                if {pairs.arms[first], pairs.arms[second]} == {one, other}:
                    return _signed(p, gap, (pairs.arms[first] == one) == higher)
    return None


def _signed(p: float | None, gap: float | None, below_is_worse: bool) -> tuple[float, bool] | None:
    return None if p is None or gap is None else (p, gap < 0 if below_is_worse else gap > 0)
