"""What a figure is. One file in this folder is one figure; it then appears in the report and in report/figures."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import pandas as pd
from matplotlib.figure import Figure as Canvas

from peftlab.analysis.arms import Arms
from peftlab.analysis.diagnostics import Diagnostics
from peftlab.analysis.findings import ArmSummary, Finding, Findings
from peftlab.analysis.layers import Layers
from peftlab.analysis.quantization import QuantizationFindings
from peftlab.registry import Component
from peftlab.report.style import Look, looks
from peftlab.study.schema import Margin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a figure is drawn from: one task on one backbone."""

    task: str
    backbone: str
    findings: Findings
    arms: list[ArmSummary]  #: of this setting, in the order of the study file
    runs: pd.DataFrame  #: a row per run: label, seed, fold, value (of the declared metric), imputed, costs
    curves: pd.DataFrame  #: label, seed, fold, diverged, step, epoch, split, and a column per metric
    layers: Layers | None = None  #: what is said about the layers of this setting; None where no run recorded any
    ranks: pd.DataFrame | None = None  #: analysis.maps.RANK_COLUMNS, of this setting
    gradients: pd.DataFrame | None = None  #: analysis.gradient_flow.COLUMNS, of this setting
    quantization: QuantizationFindings | None = None  #: of this setting; None where no arm was quantized
    diagnostics: Diagnostics | None = None  #: of this setting; None where no run recorded any
    compared: Arms | None = None  #: what is shown of whole arms beyond the findings

    @functools.cached_property
    def looks(self) -> dict[str, Look]:
        return looks([a.label for a in self.arms], [a.arm for a in self.arms])

    @property
    def baseline(self) -> ArmSummary | None:
        return next((a for a in self.arms if a.baseline), None)

    @property
    def differences(self) -> dict[str, Finding]:
        """Of every arm that shares a seed with the baseline: arm minus baseline over these seeds, with interval, n and p."""
        found = self.findings.of("difference", None, self.task, self.backbone)
        return {f.arms[0]: f for f in found if f.estimate is not None}

    @property
    def margin(self) -> Margin:
        plan = self.findings.plan
        return Margin(relative=plan.margin_relative, absolute=plan.margin_absolute)

    @property
    def count(self) -> str:
        """How many runs stand behind a mean: ``n = 5 runs an arm``."""
        numbers = sorted({a.n for a in self.arms if a.mean is not None}) or [0]
        words = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        return f"n = {words} run{'' if words == '1' else 's'} an arm"

    @property
    def percent(self) -> str:
        return f"{100 * self.findings.plan.confidence:g} %"

    @property
    def interval(self) -> str:
        """What an interval of a mean over runs is."""
        kind = "confidence sequence" if self.findings.plan.anytime else "t interval"
        return f"{self.percent} {kind} over runs, not adjusted for the number of arms"


class Figure(Component, ABC):
    """A figure of the report. Its tests: tests/report/test_figures.py, on every figure there is."""

    title: ClassVar[str]
    asks: ClassVar[str]  #: the question that it answers
    place: ClassVar[int] = 100  #: order in the report; the lowest is the main figure
    #: where it stands; a section other than ``figures`` is left out where nothing was recorded for it
    section: ClassVar[Literal["figures", "layers", "gradients", "quantization", "diagnostics"]] = "figures"
    #: panels that the report's page draws itself, so that a reader can ask it: ``main``, or fields of ArmSummary that are costs
    panels: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """Fields of ArmSummary that at least one arm must have, or ``"curves"``, ``"layers"``, ``"gradients"``,
        ``"quantization"``, ``"diagnostics"``, or ``"compared.NAME"``: an entry of analysis.arms.Arms; or ``"baseline"``: an arm
        that another is compared with over the same seeds."""

    @abstractmethod
    def draw(self, bundle: Bundle) -> Canvas:
        """The figure, drawn under :func:`peftlab.report.style.style`. Deterministic; changes nothing."""

    @abstractmethod
    def caption(self, bundle: Bundle) -> str:
        """What is drawn, in one or two sentences, with how many runs stand behind it (``n = 5 pairs``); also read out to those
        who cannot see it."""

    def absent(self, bundle: Bundle) -> str:
        """Why it cannot be drawn from this bundle; empty where it can."""
        for need in self.needs():
            if need == "layers":
                if bundle.layers is None:
                    return "no run recorded its layers"
            elif need == "gradients":
                if bundle.gradients is None or bundle.gradients.empty:
                    return "no run recorded its gradients"
            elif need == "quantization":
                if bundle.quantization is None or not bundle.quantization.effects:
                    return "no arm was run both quantized and in float"
            elif need == "diagnostics":
                if bundle.diagnostics is None:
                    return "no run recorded what training changed"
            elif need.startswith("compared."):
                if bundle.compared is None or not getattr(bundle.compared, need.removeprefix("compared.")):
                    return _NOTHING[need.removeprefix("compared.")]
            elif need == "baseline":
                if not bundle.differences:
                    return "no baseline is declared" if bundle.baseline is None else "no arm shares a seed with the baseline"
            elif need == "curves":
                if bundle.curves.empty:
                    return "no training curves were recorded"
            elif not any(getattr(arm, need) is not None for arm in bundle.arms):
                return f"no run recorded {need.replace('_', ' ')}"
        return ""


#: an entry of analysis.arms.Arms -> why it is empty
_NOTHING = {
    "resources": "no run recorded what it took",
    "effects": "there are no two arms that differ in one option only",
    "convergence": "there are no two ranks of one adapter with training curves",
    "scatters": "there are no three runs to compare",
    "ranking": "no arm has a value",
    "profiles": "no arms have a profile",
}
