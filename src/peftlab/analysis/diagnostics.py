"""The form of ``analysis/diagnostics.json``: what training changed of a model, and whether what it promises holds."""

from __future__ import annotations

from typing import Any

from peftlab.analysis.findings import Form
from peftlab.analysis.layers import ModuleMap
from peftlab.analysis.means import Mean

SCHEMA_VERSION = 1


class Norms(Form):
    """How far the weights of one arm moved: ||dW|| / ||W0|| over its modules, then over seeds."""

    arm: str
    task: str
    backbone: str
    of: str  #: product: dW = s B A; weights: the change of what was trained
    runs: int
    modules: int
    relative: Mean | None  #: mean over modules
    spread: Mean | None  #: standard deviation over modules
    update: Mean | None  #: mean of ||dW||
    left_out: list[str] = []


class BlockPoint(Form):
    """One block over seeds."""

    block: int
    cka: Mean | None
    drift: Mean | None
    cosine: Mean | None


class Blocks(Form):
    """How far the outputs of one arm's blocks moved."""

    arm: str
    task: str
    backbone: str
    runs: int
    token: str
    reference: str
    examples: int
    points: list[BlockPoint]


class Latency(Form):
    """Medians of each run, in ms, over seeds; ratio: with adapter / merged."""

    rows: int
    adapter_ms: Mean | None
    merged_ms: Mean | None
    ratio: Mean | None


class Merge(Form):
    """One arm's merged models against the trained ones."""

    arm: str
    task: str
    backbone: str
    runs: int  #: with a record
    merged: int
    within: int  #: of the merged ones, below the tolerance
    max_difference: float | None  #: of all runs the largest
    relative: float | None
    tolerance: float | None
    latency: list[Latency]
    left_out: list[str]


class Base(Form):
    """The frozen base of one arm."""

    arm: str
    task: str
    backbone: str
    runs: int
    unchanged: int
    tensors: int
    bytes: int


class Spectrum(Form):
    """Singular values of one arm's updates of one role, over modules and seeds: divided by each update's first, the median and
    the middle eight tenths."""

    arm: str
    task: str
    backbone: str
    role: str
    runs: int
    modules: int
    values: list[float]
    low: list[float]
    high: list[float]
    rank: Mean | None  #: what a module was given; mean over modules, then over seeds, as the next three
    effective_rank: Mean | None
    rank_90: Mean | None
    share_in_use: Mean | None


class Diagnostics(Form):
    """``analysis/diagnostics.json``."""

    schema_version: int = SCHEMA_VERSION
    confidence: float
    maps: list[ModuleMap]  #: ||dW|| / ||W0|| of every module
    norms: list[Norms]
    blocks: list[Blocks]
    merges: list[Merge]
    bases: list[Base]
    spectra: list[Spectrum]
    time_share: float | None  #: of the runs' time that these probes took
    sentences: list[str]
    method: list[str]
    notes: list[str]

    @property
    def empty(self) -> bool:
        return not any(getattr(self, name) for name in _BY_SETTING)

    def of(self, task: str, backbone: str) -> Diagnostics | None:
        """What is said about one setting; None where nothing is."""
        parts: dict[str, Any] = {
            name: [entry for entry in getattr(self, name) if (entry.task, entry.backbone) == (task, backbone)]
            for name in _BY_SETTING
        }
        return self.model_copy(update=parts) if any(parts.values()) else None


_BY_SETTING = ("maps", "norms", "blocks", "merges", "bases", "spectra")
