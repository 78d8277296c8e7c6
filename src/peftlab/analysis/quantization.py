"""The form of ``analysis/quantization.json``: what quantized arms cost and saved, beside the same arms in float."""

from __future__ import annotations

from peftlab.analysis.findings import Form
from peftlab.analysis.means import Mean

SCHEMA_VERSION = 1


class Cell(Form):
    """One place of the table quantizer x adapter: a treatment under a scheme."""

    arm: str
    task: str
    backbone: str
    treatment: str
    scheme: str
    value: Mean | None  #: the declared metric
    times_smaller: float | None  #: stored bytes of the whole model in float / as stored
    bits_per_parameter: float | None  #: of the converted layers, everything included
    weights_mb: float | None  #: frozen weights in memory while training
    peak_mb: Mean | None  #: measured
    prediction_error: float | None  #: largest |predicted / measured - 1| of the peak
    weight_error: float | None  #: mean over layers of ||W - Q(W)|| / ||W||
    output_error: Mean | None  #: relative, before training
    gradient_error: Mean | None  #: relative, before training
    cancelled: Mean | None  #: share of ||W - Q(W)||^2 that the trained updates took back; below zero: they do more than undo
    aligned: Mean | None  #: what they would take back at their best length
    bound: Mean | None  #: the most that any update of that rank could
    area: Mean | None  #: mean height of the validation curve
    goal: float | None  #: 95 % of the way from chance to the best of the float arm
    arrived: int  #: runs that reached it
    steps_to_goal: Mean | None  #: None unless every run reached it
    runs: int


class Effect(Form):
    """A quantized arm against the same arm in float, paired by seed."""

    arm: str
    float_arm: str
    task: str
    backbone: str
    treatment: str
    scheme: str
    n: int
    change: float  #: of the declared metric
    interval: tuple[float, float] | None
    p: float | None  #: paired t test
    p_adjusted: float | None  #: Holm over the quantized arms of a setting
    p_sign_flip: float | None
    family_size: int
    stored_saved: float | None  #: share of the whole model's bytes, exact
    peak_saved: Mean | None  #: share of the measured training peak without the bare process
    area: Mean | None  #: change of the mean height of the validation curve
    same_learning_rate: bool

    @property
    def shown(self) -> bool:
        return self.p_adjusted is not None and self.p_adjusted <= 0.05


class Interaction(Form):
    """Whether what a scheme costs depends on the rank, within arms that differ in rank and quantizer only."""

    task: str
    backbone: str
    method: str
    scheme: str
    ranks: list[int]
    n: int
    slope: float  #: change of the effect per doubling of the rank
    interval: tuple[float, float] | None
    p: float | None
    p_adjusted: float | None  #: Holm over the schemes and families of a setting
    family_size: int

    @property
    def shown(self) -> bool:
        return self.p_adjusted is not None and self.p_adjusted <= 0.05


class TwoWayTest(Form):
    """Rank x scheme over all schemes at once."""

    task: str
    backbone: str
    method: str
    schemes: list[str]
    ranks: list[int]
    n: int
    f: float
    degrees: tuple[float, float]
    p: float


class QuantizationFindings(Form):
    """``analysis/quantization.json``."""

    schema_version: int = SCHEMA_VERSION
    metric: str
    higher_is_better: bool
    confidence: float
    cells: list[Cell]
    effects: list[Effect]
    interactions: list[Interaction]
    two_way: list[TwoWayTest]
    sentences: list[str]
    method: list[str]

    def of(self, task: str, backbone: str) -> QuantizationFindings | None:
        """What is said about one setting; None where nothing is."""
        parts = {
            name: [entry for entry in getattr(self, name) if (entry.task, entry.backbone) == (task, backbone)]
            for name in ("cells", "effects", "interactions", "two_way")
        }
        return self.model_copy(update=parts) if parts["cells"] else None
