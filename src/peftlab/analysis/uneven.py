"""Arms with fewer outcomes than others, and why: a run that failed may flatter its arm, one that is still to do does not."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence

from peftlab.analysis.raced import flag
from peftlab.analysis.reading import Problem
from peftlab.analysis.setting import Setting
from peftlab.analysis.words import listed

TO_DO = ("missing", "unfinished")


def uneven(settings: Sequence[Setting], problems: Sequence[Problem]) -> list[str]:
    """A warning for every setting in which arms have outcomes for fewer seeds than another; those that left a race apart."""
    found = []
    for s in settings:
        where = f" on {s.task}, {s.backbone}" if len(settings) > 1 else ""
        stayed = [str(arm) for arm in s.values.columns if not flag(s.heat, arm)]
        counts = {arm: int(s.values[arm].notna().sum()) for arm in stayed}
        most = max(counts.values(), default=0)
        if not (fewer := [arm for arm, n in counts.items() if n < most]):
            continue
        shown = ", ".join(f"{arm} ({counts[arm]})" for arm in fewer)
        said = [f"Some arms have outcomes for fewer than {most} {'seeds' if s.folds == 1 else 'runs'}{where}: {shown}."]
        kinds = {arm: _kinds(s, arm, problems) for arm in fewer}
        if any("failed" in found for found in kinds.values()):
            said.append("Runs that failed for a reason of the arm itself make its mean look better than it is.")
        if to_do := [arm for arm, found in kinds.items() if found.intersection(TO_DO)]:
            said.append(f"Not run yet: {listed(to_do)}.")
        found.append(" ".join(said))
    return found


def _kinds(setting: Setting, arm: str, problems: Sequence[Problem]) -> set[str]:
    """Of what became of the runs that it lacks. A run that left no trace is known by the first name of its task alone."""
    absent = setting.values[arm].isna().tolist()
    lacking = {int(seed) for (seed, _), gone in zip(setting.values.index, absent, strict=True) if gone}
    tasks = {setting.task, setting.task.partition("[")[0]}
    here = (p for p in problems if (p.label, p.backbone) == (arm, setting.backbone) and p.task in (*tasks, ""))
    return {p.kind for p in here if p.seed in lacking}
