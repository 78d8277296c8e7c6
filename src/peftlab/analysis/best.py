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
    there for reading a table, not for claims.
    """
    arms = [a for a in findings.arms if (a.task, a.backbone) == (task, backbone)]
    means = {a.label: a.mean for a in arms if a.mean is not None}
    if len(means) < 2:
        return Best()
    top = max(means.values()) if findings.plan.higher_is_better else min(means.values())
    best = tuple(label for label, mean in means.items() if mean == top)
    tested = {
        label: p for label in means if label not in best and (p := _p(findings, task, backbone, label, best[0])) is not None
    }
    level = tuple(label for label, p in tested.items() if p > 1 - findings.plan.confidence)
    return Best(best=best, not_shown_worse=level, tests=len(tested))


def _p(findings: Findings, task: str, backbone: str, one: str, other: str) -> float | None:
    """Adjusted p of the difference between two arms; None where it could not be tested."""
    wanted = {one, other}
    for finding in findings.findings:
        if finding.kind == "difference" and (finding.task, finding.backbone) == (task, backbone) and {*finding.arms} == wanted:
            return finding.p_adjusted
    for pairs in findings.exploratory:
        if (pairs.task, pairs.backbone) == (task, backbone):
            for first, second, p in zip(pairs.first, pairs.second, pairs.p_adjusted, strict=True):
                if {pairs.arms[first], pairs.arms[second]} == wanted:
                    return p
    return None
