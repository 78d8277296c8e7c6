"""From the frame to ``analysis/{diagnostics.json,representation.csv,adapter_norms.csv}``."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from peftlab.analysis.diagnosed import DiagnosedRun, RecordedSpectrum, diagnosed_runs
from peftlab.analysis.diagnostics import Base, BlockPoint, Blocks, Diagnostics, Latency, Merge, Norms, Spectrum
from peftlab.analysis.frame import Frame
from peftlab.analysis.importance import Group, module_map
from peftlab.analysis.layers import ModuleMap
from peftlab.analysis.maps import Place, mean_of
from peftlab.analysis.means import Mean
from peftlab.analysis.means import mean_of as over_seeds
from peftlab.analysis.output import analysis_folder
from peftlab.analysis.safe_csv import quoted
from peftlab.analysis.words import plural
from peftlab.records.commit import write_atomic
from peftlab.records.record import to_json

RELATIVE = "relative norm"  #: stands where a metric's name stands
METHOD = [
    "Norm: ||dW|| / ||W0||, Frobenius, of every adapted module with the weights that were tested; dW = s B A, or, of adapters "
    "without factors, the change of what a module trains. Intervals: Student's t over seeds, not adjusted for the number of "
    "modules or blocks.",
    "CKA: linear centred kernel alignment with the unbiased estimate of HSIC, of one token of up to 64 validation examples "
    "behind every block, before and after training; 1: the same up to rotation, scale and shift. Drift: ||Y - X|| / ||X||.",
    "Merging: the largest |merged - trained| over all logits of 32 validation examples, relative to the largest logit of its "
    "batch; of all runs of an arm the worst counts. Latency: medians of calls of both models in turn, in the run's own process.",
    "Singular values of an update are divided by its first; effective rank exp(H) of the energies, and the least number of "
    "singular values that hold 90 % of the energy.",
]
Runs = Sequence[DiagnosedRun]
Form = TypeVar("Form")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosticTables:
    """What was said, and the tidy tables beneath it."""

    diagnostics: Diagnostics
    representation: pd.DataFrame
    norms: pd.DataFrame

    @property
    def empty(self) -> bool:
        return self.diagnostics.empty

    def write(self, frame: Frame) -> None:
        """Nothing is written where nothing was recorded."""
        if self.empty:
            return
        with analysis_folder(frame.folder) as target:
            for name, table in (("representation", self.representation), ("adapter_norms", self.norms)):
                quoted(table).to_csv(target / f"{name}.csv", index=False)
            write_atomic(target / "diagnostics.json", to_json(self.diagnostics))


def assess_diagnostics(frame: Frame) -> DiagnosticTables:
    """Everything that the records say about what training changed."""
    runs, notes = diagnosed_runs(frame)
    groups: dict[tuple[str, str, str], list[DiagnosedRun]] = defaultdict(list)
    for run in runs:
        groups[run.arm, run.task, run.backbone].append(run)
    confidence, arms = frame.study.analysis.confidence, list(groups.values())
    shares = [run.time_share for run in runs if run.time_share is not None]
    said = Diagnostics(
        confidence=confidence,
        maps=_each(arms, confidence, _map),
        norms=_each(arms, confidence, _norms),
        blocks=_each(arms, confidence, _blocks),
        merges=_each(arms, confidence, _merge),
        bases=_each(arms, confidence, _base),
        spectra=[s for members in arms for s in _spectra(members, confidence)],
        time_share=statistics.fmean(shares) if shares else None,
        sentences=[],
        method=METHOD,
        notes=list(dict.fromkeys(notes)),
    )
    said = said.model_copy(update={"sentences": _sentences(said)})
    return DiagnosticTables(diagnostics=said, representation=_block_table(runs), norms=_norm_table(runs))


def _each(arms: Sequence[Runs], confidence: float, make: Callable[[Runs, float], Form | None]) -> list[Form]:
    return [found for members in arms if (found := make(members, confidence)) is not None]


def _about(runs: Runs) -> dict[str, Any]:
    return {"arm": runs[0].arm, "task": runs[0].task, "backbone": runs[0].backbone}


def _folds(runs: Runs) -> int:
    return len({run.fold for run in runs})


def _relative(run: DiagnosedRun) -> dict[str, float | None]:
    """Module -> ||dW|| / ||W0||."""
    modules = run.norms.modules if run.norms else {}
    return {name: (module.end or {}).get("relative") for name, module in modules.items()}


def _map(runs: Runs, confidence: float) -> ModuleMap | None:
    places: dict[str, Place] = {n: m for run in runs if run.norms for n, m in run.norms.modules.items()}
    sites = sorted(places, key=lambda s: (-1 if (block := places[s].block) is None else block, s))
    by_seed: dict[int, list[np.ndarray]] = defaultdict(list)
    for run in runs:
        if run.norms and run.norms.modules:
            by_seed[run.seed].append(np.array([_relative(run).get(site) for site in sites], dtype=np.float64))
    if not by_seed:
        return None
    values = np.array([mean_of(by_seed[seed]) for seed in sorted(by_seed)])
    group = Group(**_about(runs), metric=RELATIVE, sites=sites, places=places, seeds=sorted(by_seed), values=values)
    return module_map(group, confidence, uniform=float(np.nanmean(values)) if np.isfinite(values).any() else 0.0)


def _norms(runs: Runs, confidence: float) -> Norms | None:
    recorded = [run for run in runs if run.norms is not None]
    if not recorded:
        return None
    known = [[v for v in _relative(run).values() if v is not None] for run in recorded]
    updates = [[v for m in run.norms.modules.values() if (v := (m.end or {}).get("update")) is not None]
               for run in recorded if run.norms]  # fmt: skip
    folds = _folds(runs)
    return Norms(
        **_about(runs), runs=len(recorded), of=next(run.norms.of for run in recorded if run.norms),
        modules=max(len(run.norms.modules) for run in recorded if run.norms),
        relative=_size([statistics.fmean(v) if v else None for v in known], confidence, folds),
        spread=_size([statistics.stdev(v) if len(v) > 1 else None for v in known], confidence, folds),
        update=_size([statistics.fmean(v) if v else None for v in updates], confidence, folds),
        left_out=sorted({run.norms.left_out for run in recorded if run.norms and run.norms.left_out}),
    )  # fmt: skip


def _blocks(runs: Runs, confidence: float) -> Blocks | None:
    recorded = [run.representation for run in runs if run.representation is not None]
    if not recorded:
        return None
    by_block: dict[int, list[Any]] = defaultdict(list)
    for record in recorded:
        for block in record.blocks:
            by_block[block.block].append(block)
    folds = _folds(runs)
    points = [
        BlockPoint(
            block=number,
            cka=_within(over_seeds([b.cka for b in blocks], confidence, folds), -1.0, 1.0),
            drift=_size([b.drift for b in blocks], confidence, folds),
            cosine=_within(over_seeds([b.cosine for b in blocks], confidence, folds), -1.0, 1.0),
        )
        for number, blocks in sorted(by_block.items())
    ]
    first = recorded[0]
    return Blocks(**_about(runs), runs=len(recorded), token=first.token, reference=first.reference, examples=first.examples,
                  points=points)  # fmt: skip


def _size(values: Sequence[float | None], confidence: float, folds: int) -> Mean | None:
    """Of what cannot be below zero."""
    return _within(over_seeds(values, confidence, folds), 0.0)


def _within(mean: Mean | None, low: float, high: float = math.inf) -> Mean | None:
    """Its interval cut where no value can lie."""
    if mean is None or mean.interval is None:
        return mean
    return mean.model_copy(update={"interval": (max(low, mean.interval[0]), min(high, mean.interval[1]))})


def _merge(runs: Runs, confidence: float) -> Merge | None:
    recorded = [run.merge for run in runs if run.merge is not None]
    if not recorded:
        return None
    merged = [record for record in recorded if not record.left_out]
    timed: dict[int, list[Any]] = defaultdict(list)
    for record in merged:
        for number, latency in enumerate(record.latency):
            timed[number].append(latency)
    folds = _folds(runs)
    latency = [
        Latency(
            rows=calls[0].rows,
            adapter_ms=_size([c.adapter_ms for c in calls], confidence, folds),
            merged_ms=_size([c.merged_ms for c in calls], confidence, folds),
            ratio=_size([c.adapter_ms / c.merged_ms for c in calls if c.merged_ms], confidence, folds),
        )
        for calls in timed.values()
    ]
    return Merge(
        **_about(runs), runs=len(recorded), merged=len(merged), within=sum(record.within for record in merged),
        max_difference=max((r.max_difference for r in merged if r.max_difference is not None), default=None),
        relative=max((r.relative for r in merged if r.relative is not None), default=None),
        tolerance=min((r.tolerance for r in merged if r.tolerance is not None), default=None),
        latency=latency, left_out=sorted({r.left_out for r in recorded if r.left_out}),
    )  # fmt: skip


def _base(runs: Runs, confidence: float) -> Base | None:
    recorded = [run.base for run in runs if run.base is not None]
    if not recorded:
        return None
    first = recorded[0]
    return Base(**_about(runs), runs=len(recorded), unchanged=sum(r.unchanged for r in recorded), tensors=first.tensors,
                bytes=first.bytes)  # fmt: skip


def _spectra(runs: Runs, confidence: float) -> list[Spectrum]:
    """One per role; updates that are zero have no singular values and are left out of them."""
    roles = dict.fromkeys(s.role for run in runs if run.spectra for s in run.spectra.sites.values())
    found = []
    for role in roles:
        members = [[s for s in run.spectra.sites.values() if s.role == role] for run in runs if run.spectra]
        members = [sites for sites in members if sites]
        rows = [np.array(s.singular_values) / s.singular_values[0] for sites in members for s in sites if s.singular_values]
        longest = max(map(len, rows), default=0)
        columns = [np.array([row[i] for row in rows if len(row) > i]) for i in range(longest)]
        low, middle, high = ([float(np.quantile(c, q)) for c in columns] for q in (0.1, 0.5, 0.9))
        means: dict[str, Any] = {
            name: _size([_mean(sites, name) for sites in members], confidence, _folds(runs))
            for name in ("rank", "effective_rank", "rank_90", "share_in_use")
        }
        above = any((site.share_in_use or 0) > 1 for sites in members for site in sites)  # of PiSSA the update has up to 2 r
        means["share_in_use"] = _within(means["share_in_use"], 0.0, 2.0 if above else 1.0)
        found.append(
            Spectrum(
                **_about(runs), role=role, runs=len(members), modules=max(map(len, members)), values=middle, low=low, high=high,
                **means,
            )
        )  # fmt: skip
    return found


def _mean(sites: Sequence[RecordedSpectrum], name: str) -> float | None:
    known = [float(value) for site in sites if (value := getattr(site, name)) is not None]
    return statistics.fmean(known) if known else None


def _block_table(runs: Runs) -> pd.DataFrame:
    rows = [
        (r.arm, r.task, r.backbone, r.seed, r.fold, b.block, b.cka, b.drift, b.cosine)
        for r in runs
        if r.representation is not None
        for b in r.representation.blocks
    ]
    return pd.DataFrame(rows, columns=pd.Index("arm task backbone seed fold block cka drift cosine".split()))


def _norm_table(runs: Runs) -> pd.DataFrame:
    fields = ("A", "B", "update", "relative")
    rows = [
        (r.arm, r.task, r.backbone, r.seed, r.fold, site, m.block, m.role, *((m.end or {}).get(f) for f in fields))
        for r in runs
        if r.norms is not None
        for site, m in r.norms.modules.items()
    ]
    table = pd.DataFrame(rows, columns=pd.Index(["arm", "task", "backbone", "seed", "fold", "site", "block", "role", *fields]))
    table["block"] = table["block"].astype("Int64")
    return table


def _sentences(said: Diagnostics) -> list[str]:
    found = []
    if frozen := [base for base in said.bases if base.tensors]:
        runs, kept = sum(b.runs for b in frozen), sum(b.unchanged for b in frozen)
        found.append(f"The frozen base is unchanged, byte for byte, in {kept} of {plural(runs, 'run')}.")
    if compared := [m for m in said.merges if m.merged and m.relative is not None]:
        worst = max(compared, key=lambda m: m.relative or 0.0)
        within, merged = sum(m.within for m in compared), sum(m.merged for m in compared)
        found.append(
            f"Merged, {within} of {plural(merged, 'run')} give the outputs of the trained model within tolerance; the largest "
            f"relative difference is {worst.relative:.2g} ({worst.arm})."
        )
    several = len({(b.task, b.backbone) for b in said.blocks}) > 1
    for arm in said.blocks:
        moved = [(p.drift.mean, p) for p in arm.points if p.drift is not None and p.drift.mean > 0]
        if moved:
            drift, point = max(moved, key=lambda pair: pair[0])
            alike = f", CKA {point.cka.mean:.2f}" if point.cka else ""
            prefix = f"{arm.task}, {arm.backbone}: " if several else ""
            found.append(f"{prefix}{arm.arm} moved block {point.block} most: drift {drift:.2g}{alike}.")
    if said.time_share is not None:
        found.append(f"Norms, representations and merging took {100 * said.time_share:.1f} % of the runs' time.")
    return found
