"""What runs recorded of training's effect on the model: norms, representations, merging, the frozen base, spectra. Only read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from peftlab.analysis.frame import Frame
from peftlab.analysis.maps import Place, Read, Utilised, completed, parse
from peftlab.analysis.reading import read_json
from peftlab.records.times import last_attempt_s

PROBES = ("adapter_norms", "representation", "merge_equivalence", "intruder_dimensions")  #: whose time is told
FILES = {
    "norms": "adapter_norms.json",
    "representation": "representation.json",
    "merge": "merge_equivalence.json",
    "base": "base_check.json",
    "spectra": "rank_utilisation.json",
}


class NormedModule(Place):
    end: dict[str, float | None] | None = None


class RecordedNorms(Read):
    """``adapter_norms.json``."""

    of: str
    modules: dict[str, NormedModule] = {}
    left_out: str = ""


class RecordedBlock(Read):
    block: int
    cka: float | None
    drift: float | None
    cosine: float | None


class RecordedRepresentation(Read):
    """``representation.json``."""

    token: str
    reference: str
    examples: int
    blocks: list[RecordedBlock]


class RecordedLatency(Read):
    rows: int
    adapter_ms: float
    merged_ms: float


class RecordedMerge(Read):
    """``merge_equivalence.json``."""

    left_out: str = ""
    max_difference: float | None = None
    relative: float | None = None
    tolerance: float | None = None
    within: bool = False
    latency: list[RecordedLatency] = []


class RecordedBase(Read):
    """``base_check.json``."""

    tensors: int
    bytes: int
    unchanged: bool


class RecordedSpectrum(Utilised):
    singular_values: list[float] = []


class RecordedSpectra(Read):
    """``rank_utilisation.json``."""

    sites: dict[str, RecordedSpectrum]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosedRun:
    """One completed run; None for what it did not record."""

    arm: str
    task: str
    backbone: str
    seed: int
    fold: int
    norms: RecordedNorms | None
    representation: RecordedRepresentation | None
    merge: RecordedMerge | None
    base: RecordedBase | None
    spectra: RecordedSpectra | None
    time_share: float | None


_FORMS: dict[str, type[Read]] = {
    "norms": RecordedNorms,
    "representation": RecordedRepresentation,
    "merge": RecordedMerge,
    "base": RecordedBase,
    "spectra": RecordedSpectra,
}


def diagnosed_runs(frame: Frame) -> tuple[list[DiagnosedRun], list[str]]:
    """Completed runs, and notes on files that are absent in some runs, or could not be read."""
    found: list[DiagnosedRun] = []
    notes: list[str] = []
    for row in completed(frame):
        folder = frame.folder / str(row["folder"])
        parts: dict[str, Any] = {part: parse(folder / FILES[part], form, notes) for part, form in _FORMS.items()}
        about = {"arm": str(row["label"]), "task": str(row["task"]), "backbone": str(row["backbone"])}
        found.append(DiagnosedRun(**about, seed=int(row["seed"]), fold=int(row["fold"]), **parts, time_share=_share(folder)))
    for part in ("representation", "merge", "base"):
        lacking = sum(getattr(run, part) is None for run in found)
        if 0 < lacking < len(found):
            notes.append(f"{lacking} of {len(found)} runs have no {FILES[part]}: made before there was one, or turned off.")
    return found, notes


def _share(folder: Path) -> float | None:
    """Of the time of the attempt that was measured by these probes, in whatever processes it was made."""
    results = read_json(folder / "results.json")
    time = results.get("time") if isinstance(results, dict) else None
    if not isinstance(time, dict) or not isinstance(time.get("hooks_s"), dict):
        return None
    spent, total = [time["hooks_s"][name] for name in PROBES if name in time["hooks_s"]], last_attempt_s(time, "total_s")
    return sum(spent) / total if spent and total else None
