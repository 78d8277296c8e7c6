"""The answer in words, and what to keep in mind when reading it."""

from __future__ import annotations

import math
from typing import Any

from peftlab.analysis.findings import AnalysisPlan, ArmSummary, Finding
from peftlab.analysis.frame import Frame
from peftlab.analysis.raced import race_words
from peftlab.analysis.words import equation_p, is_share, listed, plural, show, show_count, show_margin, show_percent, significant
from peftlab.study.schema import Margin


def headlines(
    summaries: list[ArmSummary], findings: list[Finding], plan: AnalysisPlan, margin: Margin, frame: Frame
) -> list[str]:
    """Sentences, the most important first."""
    if not summaries:
        return ["Nothing can be said yet: there is no finished run with the declared metric."]
    settings = list(dict.fromkeys((s.task, s.backbone) for s in summaries))
    words = _everywhere(findings, margin, plan)
    for task, backbone in settings:
        prefix = f"{task}, {backbone}: " if len(settings) > 1 else ""
        here = [f for f in findings if (f.task, f.backbone) == (task, backbone)]
        arms = [s for s in summaries if (s.task, s.backbone) == (task, backbone)]
        words += [prefix + text for text in _setting(arms, here, plan, margin)]
    return words + _raced(frame) + incidents(frame, plan)


def _raced(frame: Frame) -> list[str]:
    """Which arms left the race, and what that spared."""
    return race_words(frame.race)


def _everywhere(findings: list[Finding], margin: Margin, plan: AnalysisPlan) -> list[str]:
    joint = [f for f in findings if f.kind == "non_inferiority_everywhere"]
    if not joint:
        return []
    within = f"within {show_margin(margin, plan.metric)} of {plan.baseline} on every task and backbone"
    good = [f.arms[0] for f in joint if f.verdict == "non-inferior"]
    words = [f"Shown to be {within}: {listed(good)}." if good else f"No arm is shown to be {within}."]
    declared, places = joint[0].details["settings"], len({(f.task, f.backbone) for f in findings if f.kind == "non_inferiority"})
    if lacking := declared - places:
        pairs = f"{lacking} of the {declared} declared pairs of task and backbone"
        words.append(f"In {pairs} no arm could be compared with {plan.baseline} yet.")
    if partly := [f.arms[0] for f in joint if f.details["tested"] < places]:
        words.append(f"Not compared in each of {f'the other {places}' if lacking else 'them'}: {listed(partly)}.")
    return words


def _setting(arms: list[ArmSummary], findings: list[Finding], plan: AnalysisPlan, margin: Margin) -> list[str]:
    tests = {f.arms[0]: f for f in findings if f.kind == "non_inferiority"}
    if not tests:
        known = [a for a in arms if a.mean is not None and not a.left_early]
        if not known:
            return ["No arm has a value of the declared metric."]
        best = (max if plan.higher_is_better else min)(known, key=lambda a: a.mean if a.mean is not None else math.nan)
        if plan.anytime:
            among = f" of the arms with all {best.n} seeds of the race" if len(known) < len(arms) else ""
            return [
                f"The best mean {plan.metric}{among} is {show(best.mean, plan.metric)} ({best.label}); the race decides by pairs "
                "of arms over the same seeds, and what it has shown follows."
            ]
        return [
            f"The best mean {plan.metric} is {show(best.mean, plan.metric)} ({best.label}, {plural(best.n, 'run')}); "
            "no comparison was declared or possible, so nothing is claimed."
        ]
    by_label = {a.label: a for a in arms}
    within = f"within {show_margin(margin, plan.metric)} of {plan.baseline}"
    good = [label for label, f in tests.items() if f.verdict == "non-inferior"]
    words = [*_learnt_nothing(arms, plan), _within(good, tests, by_label, within, plan)]
    if beyond := [label for label, f in tests.items() if f.verdict == "inferior"]:
        words.append(f"Shown to fall short of {plan.baseline} by more than {show_margin(margin, plan.metric)}: {listed(beyond)}.")
    open_ones = [f for f in tests.values() if f.verdict == "not shown"]
    if open_ones:
        words.append(_undecided(open_ones))
    if unknown := [label for label, f in tests.items() if f.verdict == "cannot be tested"]:
        words.append(f"Cannot be tested: {listed(unknown)}.")
    differences = [f for f in findings if f.kind == "difference"]
    better = [f.arms[0] for f in differences if f.verdict == "better"]
    worse = [f.arms[0] for f in differences if f.verdict == "worse"]
    level = f"adjusted {plan.p_word}p ≤ {plan.alpha:.2g}"
    if better:
        words.append(f"Better than {plan.baseline}: {listed(better)} ({level}).")
    if worse:
        words.append(f"Worse than {plan.baseline}, by however little: {listed(worse)} ({level}).")
    if not better and not worse and any(f.verdict == "no difference shown" for f in differences):
        words.append(f"No difference from {plan.baseline} is shown for any arm; that is not evidence of equality.")
    return words


def _learnt_nothing(arms: list[ArmSummary], plan: AnalysisPlan) -> list[str]:
    """Arms whose interval reaches down to that of always giving the most frequent class; diverged ones are told of elsewhere."""
    if not plan.higher_is_better:
        return []
    known = [(a, a.interval[0], a.majority) for a in arms if a.interval and a.majority is not None and not a.imputed]
    names = [a.label for a, low, level in known if low <= level]
    answer = "the most frequent class" if is_share(plan.metric) else "the same answer"
    return names and [
        f"Not shown to be better than always giving {answer} ({show(known[0][2], plan.metric)} {plan.metric}): "
        f"{listed(names)}. Between arms that may have learnt nothing, no difference says much."
    ]


def _within(good: list[str], tests: dict[str, Finding], by_label: dict[str, ArmSummary], within: str, plan: AnalysisPlan) -> str:
    if not good:
        return f"None of {plural(len(tests), 'arm')} is shown to be {within}."
    text = f"{len(good)} of {plural(len(tests), 'arm')} {'is' if len(good) == 1 else 'are'} shown to be {within}: {listed(good)}."
    sized = [by_label[label] for label in good if by_label[label].trainable is not None]
    if sized:
        smallest = min(sized, key=lambda a: a.trainable if a.trainable is not None else math.inf)
        share = smallest.percent_of_baseline
        of_baseline = f", {_of(share)} {plan.baseline}'s" if share is not None else ""
        text += (
            f" The smallest of them is {smallest.label} (adjusted {plan.p_word}{equation_p(tests[smallest.label].p_adjusted)}): "
            f"{show(smallest.mean, plan.metric)} {plan.metric} with {show_count(smallest.trainable)} trainable "
            f"parameters{of_baseline}."
        )
    return text


def _of(percent: float) -> str:
    """``0.207 % of``; ``64.8 times`` where the baseline is the smaller one."""
    return f"{show_percent(percent)} % of" if percent <= 100 else f"{significant(percent / 100)} times"


def _undecided(findings: list[Finding]) -> str:
    parts = []
    for f in findings:
        needed = f.details.get("seeds_needed")
        parts.append(f"{f.arms[0]} (more seeds needed: about {max(needed, f.n + 1)})" if needed else f.arms[0])
    return f"Undecided: {listed(parts)}."


def incidents(frame: Frame, plan: AnalysisPlan) -> list[str]:
    """Runs that diverged, failed or are not there, in words."""
    kinds = [p.kind for p in frame.problems]
    words = []
    if count := kinds.count("diverged"):
        verb = "counts" if count == 1 else "count"
        words.append(f"{plural(count, 'run')} diverged and {verb} at {plan.imputed_at}.")
    lost = {"failed": "failed", "unreadable": "cannot be read", "unfinished": "is not finished", "missing": "is missing"}
    for kind, word in lost.items():
        if count := kinds.count(kind):
            word = word if count == 1 else word.replace("is ", "are ")
            words.append(f"{plural(count, 'run')} {word} and could not be counted.")
    return words


def notes(frame: Frame, settings: list[Any], summaries: list[ArmSummary], plan: AnalysisPlan) -> list[str]:
    """Limits of the design that no table shows."""
    found = []
    pairs = max((s.n for s in summaries), default=0)
    if 2 <= pairs <= 5 and plan.baseline and not plan.anytime:
        found.append(
            f"{plural(pairs, 'pair')} per comparison: the exact two-sided sign-flip test cannot go below p = {2 / 2**pairs:.4g}; "
            "the t tests rest on roughly normal differences, which so few pairs cannot check."
        )
    if plan.anytime:
        found.append(
            "The arms were raced: an arm that left early has fewer seeds because of what they showed. Tests and intervals hold "
            "at any number of seeds and are wider than those of a fixed number; they too rest on roughly normal differences. "
            "Means and differences of arms that left early are biased by the stopping: an arm leaves when its seeds happen to "
            "show much, so that its difference is overstated on average; and its mean is over other seeds than the others'. "
            "Probabilities of being on a front, figures of layers and of what training changed take the seeds that there are."
        )
    for s in settings:
        here = [a.mean for a in summaries if a.mean is not None and (a.task, a.backbone) == (s.task, s.backbone)]
        examples, where = s.runs["examples"].dropna(), f"{s.task}, {s.backbone}: " if len(settings) > 1 else ""
        if len(examples) and here and is_share(plan.metric) and plan.metric.startswith(("accuracy", "top")) and s.folds == 1:
            share, count = sorted(here)[len(here) // 2], int(examples.min())
            error = math.sqrt(max(share * (1 - share), 0) / count)
            found.append(
                f"{where}Intervals cover the randomness of training (seeds). The {plan.split} set is a sample as well: with "
                f"{count:,} examples a value of {show(share, plan.metric)} has a standard error of {100 * error:.2f} percentage "
                "points from sampling alone, shared by all arms."
            )
    if not plan.margin_declared:
        found.append("The margin was given after the runs, not declared in the study.")
    if any(s.imputed for s in summaries):
        found.append(f"Diverged runs count at {plan.imputed_at}; means and tests include them.")
    wide = [s.label for s in summaries if s.interval and is_share(plan.metric) and (s.interval[0] < 0 or s.interval[1] > 1)]
    beyond = list(dict.fromkeys(wide))
    if beyond:
        found.append(
            f"The interval of {listed(beyond)} reaches beyond 0 or 100 %: its seeds are too unlike each other for a t interval; "
            "read the single values."
        )
    return found + [f"A run notes: {note}" for note in frame.notes[:20]]
