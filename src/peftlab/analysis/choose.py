"""Which arm to take: the smallest that is shown to be non-inferior within a memory limit, and how sure that is."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportCallIssue=false

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from peftlab.analysis.assess import assess
from peftlab.analysis.comparison import margin_differences, union
from peftlab.analysis.findings import ArmSummary, Findings
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.headlines import incidents
from peftlab.analysis.tested import family_of
from peftlab.analysis.words import equation_p, listed, show_count, show_margin
from peftlab.study.schema import Margin

RESAMPLES = 10_000


class NotChosen(BaseModel):
    """An arm that was passed over, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    why: str


class Choice(BaseModel):
    """The answer of `choose`. ``label`` is None where no arm qualifies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str | None
    sentence: str
    trainable: float | None = None
    peak_memory_mb: float | None = None
    memory_predicted: bool = False  #: the peak is a prediction: it was never measured
    p: float | None = None  #: one-sided; the largest over tasks where there are several
    p_adjusted: float | None = None  #: Holm over the arms
    bootstrap_probability: float | None = (
        None  #: share of resamples of the seeds in which the arm is within the margin everywhere
    )
    memory_mb: float | None
    margin: str
    not_chosen: list[NotChosen]
    notes: list[str]


def choose(folder: str | Path, memory_mb: float | None = None, margin: float | Margin | None = None, *, seed: int = 0) -> Choice:
    """The smallest arm (trainable parameters) that is non-inferior on every task and fits the memory.

    Args:
        folder: ``results/<study>``.
        memory_mb: largest peak memory allowed, MB; None: any.
        margin: relative (0.03) or a Margin; None: the declared one.
        seed: of the bootstrap.

    Raises:
        RecordError: the folder cannot be read.
    """
    frame = load_frame(folder)
    given = margin if isinstance(margin, Margin | None) else Margin(relative=float(margin))
    given = None if given == frame.study.analysis.margin else given  # asked for as it was declared
    findings = assess(frame, margin=given, seed=seed)
    used = given or frame.study.analysis.margin
    plan, alpha = findings.plan, findings.plan.alpha
    groups = {label: [a for a in findings.arms if a.label == label] for label in dict.fromkeys(a.label for a in findings.arms)}
    rejected: list[NotChosen] = []
    qualified: list[tuple[float, str]] = []
    settings = family_of(frame).settings
    unproven = {
        label: _absent(group, settings) if group[0].baseline else _unproven(label, findings, alpha)
        for label, group in groups.items()
    }
    for label, group in groups.items():
        if why := _too_large(group, memory_mb) or unproven[label]:
            rejected.append(NotChosen(label=label, why=why))
        else:
            qualified.append((_size(group), label))
    qualified.sort()
    words = show_margin(used, plan.metric)
    lost = incidents(frame, plan)  # of a study in progress the answer may change
    common = {"memory_mb": memory_mb, "margin": words, "notes": [*lost, *findings.warnings, *findings.notes]}
    if not qualified or plan.baseline is None:
        reason = "no baseline is declared" if plan.baseline is None else "no arm is shown to be non-inferior within the limits"
        enough = "" if plan.baseline is None else _enough([group for label, group in groups.items() if not unproven[label]])
        return Choice(label=None, sentence=f"Nothing can be recommended: {reason}.{enough}", not_chosen=rejected, **common)
    label = qualified[0][1]
    chosen = groups[label]
    rejected += [NotChosen(label=other, why=f"also qualifies, but {label} trains fewer parameters") for _, other in qualified[1:]]
    p, adjusted = _certainty(label, findings)
    share = None if chosen[0].baseline else _bootstrap(frame, label, used, seed)
    memory, predicted = _memory(chosen)
    return Choice(
        label=label,
        sentence=_sentence(label, chosen, plan.baseline, words, f"{plan.p_word}{equation_p(adjusted)}")
        + _better([other for _, other in qualified[1:]], findings),
        trainable=qualified[0][0] if math.isfinite(qualified[0][0]) else None,
        peak_memory_mb=memory, memory_predicted=predicted, p=p, p_adjusted=adjusted, bootstrap_probability=share,
        not_chosen=rejected, **common,
    )  # fmt: skip


def _sentence(label: str, group: list[ArmSummary], baseline: str, margin: str, adjusted: str) -> str:
    if group[0].baseline:
        return f"Take {label}, the baseline itself: no smaller arm is shown to be within {margin} of it within the limits."
    count = show_count(max((a.trainable or 0.0) for a in group))
    return (
        f"Take {label}: {count} trainable parameters, shown to be within {margin} of {baseline} (adjusted "
        f"{adjusted}, at least {min(a.n for a in group)} seeds)."
    )


def _better(others: list[str], findings: Findings) -> str:
    """Of larger arms within the limits those that beat the baseline: what to take where that is worth their parameters."""
    tests = {other: findings.of("difference", other) for other in others}
    found = [other for other, made in tests.items() if made and all(finding.verdict == "better" for finding in made)]
    if not found:
        return ""
    plan = findings.plan
    return f" Larger, and shown to be better than {plan.baseline}: {listed(found)} (adjusted {plan.p_word}p ≤ {plan.alpha:.2g})."


def _size(group: list[ArmSummary]) -> float:
    """Trainable parameters; infinite where they are not known."""
    return max((a.trainable if a.trainable is not None else math.inf) for a in group)


def _enough(groups: list[list[ArmSummary]]) -> str:
    """The least memory that one of the arms fits into, in words; nothing where no peak is known."""
    found = [(*_memory(group), group) for group in groups]
    fitting = [(math.ceil(peak), _size(group), group[0].label, guess) for peak, guess, group in found if peak is not None]
    if not fitting:
        return ""
    peak, _, label, predicted = min(fitting)
    return f" {peak:,} MB of memory{' (predicted)' if predicted else ''} would admit {label}."


def _memory(group: list[ArmSummary]) -> tuple[float | None, bool]:
    """(peak in MB, whether it is only predicted)."""
    measured = [a.measured_peak_mb for a in group if a.measured_peak_mb is not None]
    if len(measured) == len(group):
        return max(measured), False
    known = measured + [a.predicted_peak_mb for a in group if a.measured_peak_mb is None and a.predicted_peak_mb is not None]
    return (max(known), True) if len(known) == len(group) else (None, True)


def _too_large(group: list[ArmSummary], memory_mb: float | None) -> str:
    if memory_mb is None:
        return ""
    peak, predicted = _memory(group)
    if peak is None:
        return "its peak memory is not known"
    word = "predicted" if predicted else "measured"
    return f"{word} peak memory {peak:,.0f} MB is above {memory_mb:,.0f} MB" if peak > memory_mb else ""


def _absent(baseline: list[ArmSummary], settings: int) -> str:
    """The baseline needs no test, but where it has no run neither its memory nor its quality is known."""
    return f"it has runs in {len(baseline)} of {settings} settings" if len(baseline) < settings else ""


def _unproven(label: str, findings: Findings, alpha: float) -> str:
    everywhere = findings.of("non_inferiority_everywhere", label)
    tests = everywhere or findings.of("non_inferiority", label)
    if not tests:
        return "it was not compared with the baseline"
    bad = [f for f in tests if f.p_adjusted is None or f.p_adjusted > alpha]
    return bad[0].sentence if bad else ""


def _certainty(label: str, findings: Findings) -> tuple[float | None, float | None]:
    tests = findings.of("non_inferiority_everywhere", label) or findings.of("non_inferiority", label)
    return union([f.p for f in tests]), union([f.p_adjusted for f in tests])


def _bootstrap(frame: Frame, label: str, margin: Margin, seed: int) -> float | None:
    """Share of resamples of the seeds in which the mean of d_i is above 0 in every setting.

    A seed is one draw on all tasks and backbones together, which share its initialisation and data order: it is drawn with all of
    its d_i, and with all its folds. Where settings lack some of the seeds, resamples that leave one without any are left out.
    """
    found = [_by_seed(frame, task, backbone, label, margin) for task, backbone in frame.settings]
    if any(len(means) < 2 for means in found):
        return None
    table = pd.concat(found, axis=1).to_numpy()  # [seeds, settings]
    known = np.isfinite(table)
    seeds, generator = len(table), np.random.default_rng(seed)
    counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES).astype(np.float64)
    weights = counts @ known  # [resamples, settings]
    sums = counts @ np.where(known, table, 0.0)
    whole = (weights > 0).all(axis=1)
    return float((sums[whole] > 0).all(axis=1).mean())


def _by_seed(frame: Frame, task: str, backbone: str, label: str, margin: Margin) -> pd.Series:
    """d_i of one setting, mean over the folds of a seed; only seeds that both arms have."""
    table, runs = frame.values(task, backbone), frame.primary()
    both = table[[label, frame.study.analysis.baseline]].dropna()
    higher = runs.loc[(runs["task"] == task) & (runs["backbone"] == backbone), "higher_is_better"].dropna()
    d = margin_differences(
        both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy(), margin,
        higher_is_better=bool(higher.iloc[0]) if len(higher) else True,
    )  # fmt: skip
    return pd.Series(d, index=both.index).groupby(level=0).mean()
