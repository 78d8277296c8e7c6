"""From the frame to ``analysis/{gradient_flow.csv,gradient_flow.json}``."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd

from peftlab.analysis.comparison import holm, paired_difference
from peftlab.analysis.findings import Form, alpha_of
from peftlab.analysis.frame import Frame
from peftlab.analysis.gradient_flow import FLOAT, Event, FlowRun, events_of, flow_runs, flow_table, write_table
from peftlab.analysis.means import Mean, bounds, mean_of
from peftlab.analysis.output import analysis_folder
from peftlab.analysis.stability import best_of, stops_at
from peftlab.analysis.words import listed, plural, show_p
from peftlab.records.commit import write_atomic
from peftlab.records.record import to_json

SCHEMA_VERSION = 1
PATIENCES = (1, 2, 3, 5)
Measure = Literal["gradient norm", "first block against last", "stability"]
MEASURES: dict[Measure, Callable[[FlowRun], float | None]] = {
    "gradient norm": lambda run: run.log_norm,
    "first block against last": lambda run: run.log_depth,
    "stability": lambda run: run.stability,
}
RATIOS = ("gradient norm", "first block against last")  #: measured as log10, told as ratios
METHOD = [
    "Gradients are taken before clipping, at up to 50 points of the run. Explosion: a module's norm above 10 times the median of "
    "its earlier points; vanishing: below a thousandth of it, or zero, at three points in a row; non-finite: at once. A loss "
    "that goes to zero takes all gradients with it: vanishing in every module can be success.",
    "Stability is the share of the training loss's movement that went down, S = 1 − sum of max(0, d) / sum of |d|, over the "
    "differences d of the loss (moving average over a tenth of its lines): 1 never rose, 1/2 noise on a plateau. Diverged runs "
    "have 0.",
    "Gradient norm: geometric mean over adapted modules and points, the head apart. First block against last: geometric mean "
    "over points of the ratio of their norms.",
    "Quantized against float: arms that differ in the quantizer only (a tuned learning rate may differ, and is then named), "
    "paired t tests over seeds, Holm over all comparisons of a setting.",
    "Early stopping is replayed as the training loop would apply it, min_delta 0, on validation data and on the metric that the "
    "loop follows: the task's own, whatever the declared one is (the declared one for records that do not say). The schedule of "
    "the learning rate stays that of the whole run, so a run really stopped there could end better or worse.",
]


class Stopping(Form):
    """What early stopping would have done to the runs of one arm."""

    metric: str  #: that the training loop follows
    patience: int
    runs: int
    fired: int
    saved: Mean  #: share of the evaluations that would not have been reached; 0 where it would not have fired
    lost: Mean  #: best value of ``metric`` of the whole run minus the best until it would have stopped, positive: lost


class ArmFlow(Form):
    """One arm in one setting."""

    arm: str
    task: str
    backbone: str
    runs: int  #: with a record of gradients
    diverged: int
    events: list[Event]
    stability: Mean | None
    log_norm: Mean | None
    log_depth: Mean | None
    zeros: Mean | None  #: mean share of exact zeros
    stopping: list[Stopping]


class FlowContrast(Form):
    """Quantized against float over the same seeds."""

    quantized: str
    float_arm: str
    task: str
    backbone: str
    measure: Measure
    estimate: float | None  #: a ratio, or of stability a difference
    interval: tuple[float, float] | None
    n: int
    p: float | None
    p_adjusted: float | None
    alpha: float = 0.05
    family_size: int
    same_learning_rate: bool

    @property
    def shown(self) -> bool:
        return self.p_adjusted is not None and self.p_adjusted <= self.alpha


class FlowFindings(Form):
    """``analysis/gradient_flow.json``."""

    schema_version: int = SCHEMA_VERSION
    confidence: float
    arms: list[ArmFlow]
    contrasts: list[FlowContrast]
    sentences: list[str]
    method: list[str]
    notes: list[str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowTables:
    """What was said, and the tidy table beneath it."""

    flow: FlowFindings
    table: pd.DataFrame

    @property
    def empty(self) -> bool:
        return self.table.empty

    def write(self, frame: Frame) -> None:
        """Nothing is written where nothing was recorded."""
        if self.empty:
            return
        with analysis_folder(frame.folder) as target:
            write_table(self.table, target)
            write_atomic(target / "gradient_flow.json", to_json(self.flow))


def assess_flow(frame: Frame) -> FlowTables:
    """Everything that the records say about gradients."""
    runs, notes = flow_runs(frame)
    groups: dict[tuple[str, str, str], list[FlowRun]] = defaultdict(list)
    for run in runs:
        groups[run.task, run.backbone, run.arm].append(run)
    confidence = frame.study.analysis.confidence
    arms = [_arm(runs, confidence, _higher(frame, runs[0])) for runs in groups.values() if any(r.flow for r in runs)]
    contrasts = [c for setting in frame.settings for c in _contrasts(setting, groups, confidence)]
    flow = FlowFindings(
        confidence=confidence, arms=arms, contrasts=contrasts, sentences=_sentences(arms, contrasts), method=METHOD, notes=notes
    )
    return FlowTables(flow=flow, table=flow_table(runs))


def _higher(frame: Frame, run: FlowRun) -> bool:
    """Whether more of the metric that the run followed is better."""
    rows = frame.rows[(frame.rows["metric"] == run.followed) & (frame.rows["task"] == run.task)]
    return bool(rows["higher_is_better"].all())


def _folds(runs: Sequence[FlowRun]) -> int:
    return len({run.fold for run in runs})


def _arm(runs: Sequence[FlowRun], confidence: float, higher: bool) -> ArmFlow:
    folds, first = _folds(runs), runs[0]
    return ArmFlow(
        arm=first.arm,
        task=first.task,
        backbone=first.backbone,
        runs=sum(run.flow is not None for run in runs),
        diverged=sum(run.diverged for run in runs),
        events=events_of(runs),
        stability=_clipped(mean_of([run.stability for run in runs], confidence, folds)),
        log_norm=mean_of([run.log_norm for run in runs], confidence, folds),
        log_depth=mean_of([run.log_depth for run in runs], confidence, folds),
        zeros=_clipped(mean_of([_zeros(run) for run in runs], confidence, folds)),
        stopping=[s for patience in PATIENCES if (s := _stopping(runs, patience, higher, confidence)) is not None],
    )


def _clipped(mean: Mean | None, low: float = 0.0, high: float = 1.0) -> Mean | None:
    """Its interval cut where no value can lie."""
    if mean is None or mean.interval is None:
        return mean
    ends = (max(low, mean.interval[0]), min(high, mean.interval[1]))
    return mean.model_copy(update={"interval": ends})


def _zeros(run: FlowRun) -> float | None:
    shares = [z for m in run.flow.modules.values() for z in m.zeros if z is not None] if run.flow else []
    return sum(shares) / len(shares) if shares else None


def _stopping(runs: Sequence[FlowRun], patience: int, higher: bool, confidence: float) -> Stopping | None:
    """None where no run is longer than the patience."""
    saved, lost, fired = [], [], 0
    for run in runs:
        values = run.validation
        best = best_of(values, higher_is_better=higher)
        if run.diverged or len(values) <= patience or best is None:
            continue
        end = stops_at(values, patience, higher_is_better=higher)
        until = best_of(values[: end + 1], higher_is_better=higher) if end is not None else best
        fired += end is not None
        saved.append(0.0 if end is None else 1 - (end + 1) / len(values))
        lost.append(None if until is None else abs(best - until))
    spared = _clipped(mean_of(saved, confidence, _folds(runs)))
    cost = _clipped(mean_of(lost, confidence, _folds(runs)), high=math.inf)
    if spared is None or cost is None:
        return None
    return Stopping(metric=runs[0].followed, patience=patience, runs=len(saved), fired=fired, saved=spared, lost=cost)


def _contrasts(
    setting: tuple[str, str], groups: dict[tuple[str, str, str], list[FlowRun]], confidence: float
) -> list[FlowContrast]:
    here = {arm: runs for (task, backbone, arm), runs in groups.items() if (task, backbone) == setting}
    found = [
        _contrast(here[arm], here[base], measure, confidence)
        for arm in here
        for base in here
        if _differ_in_quantizer_only(here[arm], here[base])
        for measure in MEASURES
    ]
    found = [c for c in found if c is not None]
    adjusted = holm([c.p for c in found])
    return [c.model_copy(update={"p_adjusted": p, "family_size": len(found)}) for c, p in zip(found, adjusted, strict=True)]


def _differ_in_quantizer_only(arm: Sequence[FlowRun], base: Sequence[FlowRun]) -> bool:
    first, second = arm[0], base[0]
    return first.quantizer != FLOAT and second.quantizer == FLOAT and first.treatment == second.treatment


def _contrast(arm: Sequence[FlowRun], base: Sequence[FlowRun], measure: Measure, confidence: float) -> FlowContrast | None:
    value = MEASURES[measure]
    mine, other = ({(run.seed, run.fold): value(run) for run in runs} for runs in (arm, base))
    rates = [{(run.seed, run.fold): run.learning_rate for run in runs} for runs in (arm, base)]
    units = [u for u in mine if mine[u] is not None and other.get(u) is not None]
    if not units:
        return None
    compared = paired_difference(
        [mine[u] for u in units], [other[u] for u in units], confidence=confidence, folds=len({fold for _, fold in units})
    )
    limits = bounds(compared.interval)
    told: Callable[[float], float] = (lambda x: 10.0**x) if measure in RATIOS else (lambda x: x)
    return FlowContrast(
        quantized=arm[0].arm, float_arm=base[0].arm, task=arm[0].task, backbone=arm[0].backbone, measure=measure,
        estimate=told(compared.interval.mean), interval=None if limits is None else (told(limits[0]), told(limits[1])),
        n=compared.interval.n, p=compared.p, p_adjusted=None, alpha=alpha_of(confidence), family_size=0,
        same_learning_rate=all(rates[0][u] == rates[1][u] for u in units),
    )  # fmt: skip


def _sentences(arms: Sequence[ArmFlow], contrasts: Sequence[FlowContrast]) -> list[str]:
    several = len({(a.task, a.backbone) for a in arms}) > 1
    found = []
    for arm in arms:
        prefix = f"{arm.task}, {arm.backbone}: " if several else ""
        for event in arm.events:
            where = listed(event.modules, 4)
            found.append(f"{prefix}{arm.arm}: {event.kind} in {event.runs} of {plural(arm.runs, 'run')}, first in step "
                         f"{event.first_step} ({where}).")  # fmt: skip
    if arms and not found:
        found.append(f"No rule was broken: no explosion, no vanishing, nothing non-finite at the points looked at "
                     f"({plural(sum(a.runs for a in arms), 'run')}).")  # fmt: skip
    for c in contrasts:
        prefix = f"{c.task}, {c.backbone}: " if several else ""
        if c.shown and c.estimate is not None:
            size = f"{c.estimate:.3g} times" if c.measure in RATIOS else f"{c.estimate:+.3f} on"
            rates = "" if c.same_learning_rate else "; their learning rates differ"
            found.append(
                f"{prefix}{c.quantized}: {size} the {c.measure} of {c.float_arm} (adjusted p {show_p(c.p_adjusted)}{rates})."
            )
    quiet = sum(not c.shown for c in contrasts)
    if quiet:
        verb = "shows" if quiet == 1 else "show"
        text = (
            f"{plural(quiet, 'comparison')} of quantized with float arms {verb} no difference; that is not evidence of equality."
        )
        found.append(text)
    return found
