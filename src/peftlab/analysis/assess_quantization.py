"""From the frame to ``analysis/{quantization.csv,quantization.json}``."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from peftlab.analysis.comparison import holm, paired_difference
from peftlab.analysis.convergence import area, area_between, steps_to, target
from peftlab.analysis.course import course_of
from peftlab.analysis.findings import alpha_of
from peftlab.analysis.frame import Frame
from peftlab.analysis.interaction import slope, two_way
from peftlab.analysis.literature_weights import elsewhere, weights_beside
from peftlab.analysis.means import Mean, bounds, mean_of
from peftlab.analysis.output import analysis_folder
from peftlab.analysis.quantization import Cell, Effect, Interaction, QuantizationFindings, TwoWayTest
from peftlab.analysis.quantization_words import METHOD, RACED, sentences
from peftlab.analysis.quantized import FLOAT, QuantizedRun, quantization_table, quantized_runs
from peftlab.analysis.race_tests import differences
from peftlab.analysis.safe_csv import quoted
from peftlab.records.commit import write_atomic
from peftlab.records.record import to_json

Arm = Sequence[QuantizedRun]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationTables:
    """What was said, and the tidy table beneath it."""

    quantization: QuantizationFindings
    table: pd.DataFrame

    @property
    def empty(self) -> bool:
        return self.table.empty

    def write(self, frame: Frame) -> None:
        """Nothing is written where nothing was quantized."""
        if self.empty:
            return
        with analysis_folder(frame.folder) as target:
            write_atomic(target / "quantization.csv", quoted(self.table).to_csv(index=False))
            write_atomic(target / "quantization.json", to_json(self.quantization))


def assess_quantization(frame: Frame) -> QuantizationTables:
    """Everything that the records say about quantized arms."""
    runs = quantized_runs(frame)
    confidence = frame.study.analysis.confidence
    settings: dict[tuple[str, str], dict[str, list[QuantizedRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        settings[run.task, run.backbone][run.arm].append(run)
    cells, effects, interactions, tests, courses = [], [], [], [], []
    higher = _higher(frame)
    for arms in settings.values():
        groups = list(arms.values())
        cells += [_cell(arm, _twin(arm, groups), confidence, higher) for arm in groups]
        effects += _effects(groups, confidence)
        courses += [course for arm in groups if (course := course_of(arm, confidence, _folds(arm))) is not None]
        found, whole = _interactions(groups, confidence)
        interactions += found
        tests += whole
    if frame.study.search is not None:
        cells, effects = [_without_interval(cell) for cell in cells], _at_any_time(frame, effects)
        interactions, tests = [], []  # there is no test of them that holds at any number of seeds
    said = QuantizationFindings(
        metric=frame.metric, higher_is_better=higher, confidence=confidence, cells=cells, effects=effects,
        interactions=interactions, two_way=tests, courses=courses, weights_beside=weights_beside(cells, runs),
        elsewhere=elsewhere(runs), sentences=[], method=METHOD if frame.study.search is None else RACED,
    )  # fmt: skip
    return QuantizationTables(quantization=said.model_copy(update={"sentences": sentences(said)}), table=quantization_table(runs))


def _without_interval(cell: Cell) -> Cell:
    """Of a race: intervals of values take the number of seeds as fixed, which those values decided."""
    return cell.model_copy(update={"value": cell.value and cell.value.model_copy(update={"interval": None})})


def _at_any_time(frame: Frame, effects: Sequence[Effect]) -> list[Effect]:
    """The effects of a race, by tests that hold at any number of seeds; Holm within each setting."""
    compare = {setting: differences(frame, *setting) for setting in {(e.task, e.backbone) for e in effects}}
    settings: dict[tuple[str, str], list[Effect]] = defaultdict(list)
    for e in effects:
        compared = compare[e.task, e.backbone](e.arm, e.float_arm)
        known = {"n": compared.interval.n, "interval": bounds(compared.interval), "p": compared.p, "p_sign_flip": None}
        settings[e.task, e.backbone].append(e.model_copy(update=known))
    return [
        e.model_copy(update={"p_adjusted": p})
        for group in settings.values()
        for e, p in zip(group, holm([e.p for e in group]), strict=True)
    ]


def _higher(frame: Frame) -> bool:
    rows = frame.rows[frame.rows["metric"] == frame.metric]
    return all(value is not False for value in rows["higher_is_better"].tolist())


def _folds(runs: Arm) -> int:
    return len({run.fold for run in runs})


def _twin(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The same treatment in float."""
    same = [other for other in arms if other[0].scheme == FLOAT and other[0].treatment == arm[0].treatment]
    return same[0] if same else None


def _cell(arm: Arm, twin: Arm | None, confidence: float, higher: bool) -> Cell:
    first, folds = arm[0], _folds(arm)

    def mean(values: Sequence[float | None]) -> Mean | None:
        return mean_of(values, confidence, folds)

    goal = _goal(twin or arm, higher)
    arrivals = [steps_to(run.curve, goal, higher_is_better=higher) if goal is not None else None for run in arm]
    arrived = sum(step is not None for step in arrivals)
    known = [r.predicted_peak_mb / r.peak_mb for r in arm if r.predicted_peak_mb and r.peak_mb]
    return Cell(
        arm=first.arm, task=first.task, backbone=first.backbone, treatment=first.treatment, scheme=first.scheme,
        value=mean([run.value for run in arm]),
        times_smaller=first.number("model", "times_smaller_than_float"),
        bits_per_parameter=first.number("converted", "bits_per_parameter"),
        weights_mb=first.weights_mb,
        process_before_mb=mean([run.number("process_mb", "before") for run in arm]),
        process_after_mb=mean([run.number("process_mb", "after") for run in arm]),
        peak_mb=mean([run.peak_mb for run in arm]),
        prediction_error=max(abs(ratio - 1) for ratio in known) if known else None,
        weight_error=first.weight_error,
        output_error=mean([run.number("outputs", "relative_error") for run in arm]),
        gradient_error=mean([run.number("gradient", "relative_error") for run in arm]),
        cancelled=mean([run.number("cancellation", "cancelled") for run in arm]),
        aligned=mean([run.number("cancellation", "aligned") for run in arm]),
        bound=mean([run.number("cancellation", "bound") for run in arm]),
        area=mean([area(run.curve) for run in arm]),
        goal=goal, arrived=arrived, steps_to_goal=mean(arrivals) if arrived == len(arm) else None, runs=len(arm),
    )  # fmt: skip


def _goal(arm: Arm, higher: bool) -> float | None:
    """The level that counts as arrived: from the mean over seeds of the best that each run reached."""
    pick = max if higher else min
    best = [pick(value for _, value in run.curve) for run in arm if run.curve]
    chance = next((run.chance for run in arm if run.chance is not None), None)
    return target(sum(best) / len(best), chance, higher_is_better=higher) if best else None


def _effects(arms: Sequence[Arm], confidence: float) -> list[Effect]:
    found = [
        effect
        for arm in arms
        for other in arms
        if arm[0].scheme != FLOAT == other[0].scheme and arm[0].treatment == other[0].treatment
        if (effect := _effect(arm, other, confidence)) is not None
    ]
    adjusted = holm([effect.p for effect in found])
    return [e.model_copy(update={"p_adjusted": p, "family_size": len(found)}) for e, p in zip(found, adjusted, strict=True)]


def _effect(arm: Arm, base: Arm, confidence: float) -> Effect | None:
    pairs = _pairs(arm, base)
    units = [(mine, other) for mine, other in pairs if mine.value is not None and other.value is not None]
    if not units:
        return None
    folds, first = _folds([mine for mine, _ in units]), arm[0]
    values = np.array([(mine.value, other.value) for mine, other in units], dtype=float)
    compared = paired_difference(values[:, 0], values[:, 1], confidence=confidence, folds=folds)
    smaller = first.number("model", "times_smaller_than_float")
    rises = [area_between(mine.curve, other.curve) for mine, other in pairs]
    return Effect(
        arm=first.arm, float_arm=base[0].arm, task=first.task, backbone=first.backbone, treatment=first.treatment,
        scheme=first.scheme, n=compared.interval.n, change=compared.interval.mean, interval=bounds(compared.interval),
        p=compared.p, p_adjusted=None, alpha=alpha_of(confidence), p_sign_flip=compared.p_sign_flip, family_size=0,
        stored_saved=1 - 1 / smaller if smaller else None,
        peak_saved=_saved(pairs, confidence, folds),
        area=mean_of(rises, confidence, folds),
        same_learning_rate=all(mine.learning_rate == other.learning_rate for mine, other in units),
    )  # fmt: skip


def _pairs(arm: Arm, base: Arm) -> list[tuple[QuantizedRun, QuantizedRun]]:
    others = {run.unit: run for run in base}
    return [(run, others[run.unit]) for run in arm if run.unit in others]


def _saved(pairs: Sequence[tuple[QuantizedRun, QuantizedRun]], confidence: float, folds: int) -> Mean | None:
    """1 - quantized/float of the training peak: the geometric mean of the ratios, its interval on the log scale."""
    logs = [
        math.log(mine.tensors_peak_mb / other.tensors_peak_mb)
        for mine, other in pairs
        if mine.tensors_peak_mb and other.tensors_peak_mb
    ]
    mean = mean_of(logs, confidence, folds)
    if mean is None:
        return None
    limits = None if mean.interval is None else (1 - math.exp(mean.interval[1]), 1 - math.exp(mean.interval[0]))
    return Mean(mean=1 - math.exp(mean.mean), interval=limits, n=mean.n)


def _interactions(arms: Sequence[Arm], confidence: float) -> tuple[list[Interaction], list[TwoWayTest]]:
    families: dict[str, dict[str, dict[int, Arm]]] = defaultdict(lambda: defaultdict(dict))
    for arm in arms:
        if arm[0].rank is not None:
            families[arm[0].family][arm[0].scheme].setdefault(arm[0].rank, arm)
    found, tests = [], []
    for schemes in families.values():
        base = schemes.pop(FLOAT, None)
        if base is None:
            continue
        found += [i for scheme, by_rank in schemes.items() if (i := _interaction(scheme, base, by_rank, confidence)) is not None]
        if (whole := _two_way(base, schemes)) is not None:
            tests.append(whole)
    adjusted = holm([i.p for i in found])
    return [
        i.model_copy(update={"p_adjusted": p, "family_size": len(found)}) for i, p in zip(found, adjusted, strict=True)
    ], tests


def _values(columns: Sequence[Arm]) -> np.ndarray:
    """[n, columns] over the units that every column has."""
    tables = [{run.unit: run.value for run in arm if run.value is not None} for arm in columns]
    units = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array([[table[unit] for table in tables] for unit in units], dtype=float).reshape(len(units), len(columns))


def _interaction(scheme: str, base: Mapping[int, Arm], arms: Mapping[int, Arm], confidence: float) -> Interaction | None:
    ranks = sorted(set(base) & set(arms))
    if len(ranks) < 2:
        return None
    values = _values([arms[r] for r in ranks] + [base[r] for r in ranks])
    if not len(values):
        return None
    first = arms[ranks[0]][0]
    trend = slope(values[:, : len(ranks)] - values[:, len(ranks) :], np.array(ranks, float), confidence, _folds(arms[ranks[0]]))
    return Interaction(
        task=first.task, backbone=first.backbone, method=first.treatment.split("[")[0], scheme=scheme, ranks=ranks,
        n=trend.interval.n, slope=trend.interval.mean, interval=bounds(trend.interval), p=trend.p, p_adjusted=None,
        alpha=alpha_of(confidence), family_size=0,
    )  # fmt: skip


def _two_way(base: Mapping[int, Arm], schemes: Mapping[str, Mapping[int, Arm]]) -> TwoWayTest | None:
    several = {scheme: by_rank for scheme, by_rank in schemes.items() if len(set(base) & set(by_rank)) > 1}
    columns = {FLOAT: base, **several}  # a scheme tried at one rank says nothing of ranks, and would leave no rank that all have
    ranks = sorted(set.intersection(*(set(by_rank) for by_rank in columns.values())))
    if len(ranks) < 2 or len(columns) < 2 or _folds(base[ranks[0]]) > 1:
        return None
    values = _values([by_rank[rank] for rank in ranks for by_rank in columns.values()])
    test = two_way(values.reshape(len(values), len(ranks), len(columns)))
    first = base[ranks[0]][0]
    return None if test is None else TwoWayTest(
        task=first.task, backbone=first.backbone, method=first.treatment.split("[")[0], schemes=list(columns), ranks=ranks,
        n=len(values), f=test.f, degrees=test.degrees, p=test.p,
    )  # fmt: skip
