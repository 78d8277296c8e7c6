"""What the plan says of a race before it begins: its rule, the worst case, and the best one where that is little."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from peftlab.analysis.racing import Rule
from peftlab.analysis.words import plural, show_margin
from peftlab.planning.plan import Plan
from peftlab.study.schema import Study
from peftlab.tuning.racing import rules

FEW_SEEDS = 10  #: with fewer planned seeds the plan warns


def announced(study: Study, plan: Plan) -> Plan:
    """The plan with the rule of the race, the worst case, and a warning where little can be saved.

    Raises:
        StudyError: as :func:`rules`.
    """
    notes, warnings = [], []
    for (task, backbone), rule in rules(study, plan.higher_is_better).items():
        mine = [run for run in plan.runs if (run.task, run.backbone) == (task, backbone) and not run.refusal]
        if not mine:
            continue
        number = len({run.seed for run in mine})
        notes.append(_rule_words(rule, study, number, len(mine), f" on {task}, {backbone}" if rule.level < 0.04 else ""))
        best = _best_case(mine, rule)
        if number < FEW_SEEDS or best > 0.8 * len(mine):
            warnings.append(
                f"racing with {plural(number, 'planned seed')} saves little: nothing is shown before seed {rule.first_seed}, "
                "however far behind an arm is (two paired seeds of even a 10-SD gap give p = 0.045), so that at best "
                f"{best} of {len(mine)} runs are needed; it pays from about 15 planned seeds on"
            )
    return dataclasses.replace(plan, notes=(*plan.notes, *notes), warnings=(*plan.warnings, *warnings))


def _best_case(runs: Sequence[Any], rule: Rule) -> int:
    """Runs of a race in which every arm leaves as early as it can."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    early = set(seeds[: rule.minimum if rule.futility else rule.first_seed])
    labels = list(dict.fromkeys(run.label for run in runs))
    stay = {label for label in labels if rule.stays(label)}
    if rule.goal == "best":
        stay = stay or {labels[0]}
    go_on = rule.keep if rule.goal == "margin" else stay
    whole = stay if len(go_on) > (0 if rule.goal == "margin" else 1) else set()
    return sum(run.label in whole or run.seed in early for run in runs)


def _rule_words(rule: Rule, study: Study, seeds: int, runs: int, where: str) -> str:
    metric, margin = study.analysis.metric, rule.margin
    allowed = "" if margin is None else f" {show_margin(margin, metric)}"
    asked = {
        "best": "worse than another arm still in the race" + (f" by more than{allowed}" if allowed else ""),
        "margin": f"within{allowed} of {rule.baseline} or beyond it",
    }[rule.goal]
    stay = [label for label in (rule.baseline, *sorted(rule.keep)) if label]
    return (
        f"racing{where}: at most {runs} runs (predicted time: that of all), seed by seed; from seed {rule.minimum} on an arm "
        f"leaves when it is shown to be {asked}, by anytime-valid paired tests, Holm over {rule.family} hypotheses "
        f"at {rule.level:.3g}; the earliest possible is seed {rule.first_seed} of {seeds}"
        + (f"; always in it: {', '.join(stay)}" if stay else "")
        + (
            f"; it also leaves, undecided, when the chance of an answer in time is below {rule.futility:g}"
            if rule.futility
            else ""
        )
    )
