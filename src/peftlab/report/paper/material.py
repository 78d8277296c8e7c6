"""What a paper is written from, read once: findings, records, figures, and what the components say of themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from peftlab.analysis.analyze import read_findings
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import Frame, configurations, load_frame
from peftlab.analysis.reading import flatten, read_json
from peftlab.analysis.tuned import by_fold
from peftlab.errors import RecordError
from peftlab.report import facts
from peftlab.report.build import FIGURES

#: analysis/NAME.json -> what its sentences are about; each lists ``sentences``, ``method`` and ``notes``
SAID = {
    "importance": "Which layers matter, and who got the rank",
    "gradient_flow": "How gradients flow",
    "quantization": "What quantization costs",
    "diagnostics": "What training changed",
}
#: figure's section -> the entry of SAID that it belongs to
SECTIONS = {"layers": "importance", "gradients": "gradient_flow", "quantization": "quantization", "diagnostics": "diagnostics"}
ABSENT = "none"  #: the frame's own word for no quantizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A component as its own file describes it."""

    kind: str
    name: str
    summary: str
    description: str
    citation: str


#: (kind, name) -> the component; None for one that this installation does not know. A backbone is named as in the study.
Describe = Callable[[str, str], Source | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """How one arm was run in one setting: its first record, with what was tuned for each fold side by side."""

    label: str
    task: str
    backbone: str
    config: Mapping[str, Any]
    splits: Mapping[str, int]
    steps: int | None

    def part(self, name: str) -> Mapping[str, Any]:
        """``adapter``, ``allocator``, ``quantizer``, ``task`` or ``train`` of the configuration; empty where there is none."""
        value = self.config.get(name)
        return value if isinstance(value, Mapping) else {}

    @property
    def imported(self) -> bool:
        """Whether it was trained elsewhere: its record then names a source in place of a method."""
        return bool(self.part("adapter").get("source"))

    def components(self) -> Iterator[tuple[str, str]]:
        """(kind, name) of everything it was built from."""
        for kind in ("adapter", "allocator", "quantizer"):
            spec = self.part(kind)
            name = spec.get("name")
            if isinstance(name, str) and name != ABSENT:
                yield kind, name
            metric = spec.get("importance")
            metric = metric.get("name") if isinstance(metric, Mapping) else metric
            if isinstance(metric, str):
                yield "importance", metric
        if isinstance(kind := self.part("task").get("kind"), str):
            yield "task", kind
        data = self.part("task").get("data")
        data = data.get("name") if isinstance(data, Mapping) else data
        if isinstance(data, str):
            yield "data", data
        yield "backbone", self.backbone


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Everything; nothing below reads a record."""

    folder: Path
    frame: Frame
    findings: Findings
    figures: list[Mapping[str, Any]]  #: report/figures/figures.json
    said: Mapping[str, Mapping[str, Any]]  #: of SAID, those with sentences
    treatments: list[Treatment]
    sources: Mapping[tuple[str, str], Source | None]
    environment: Mapping[str, Any]
    fingerprints: list[dict[str, str]]
    study_sha: str

    @property
    def citations(self) -> list[str]:
        return [source.citation for source in self.sources.values() if source is not None and source.citation]

    @property
    def trained(self) -> list[Treatment]:
        """Those of which the records know how."""
        return [treatment for treatment in self.treatments if not treatment.imported]

    @property
    def imported(self) -> list[str]:
        """Labels of the arms that were trained elsewhere."""
        return list(dict.fromkeys(treatment.label for treatment in self.treatments if treatment.imported))

    def of_kind(self, kind: str) -> list[tuple[str, Source | None]]:
        """Components of a kind in the order of the study's arms."""
        return [(name, source) for (found, name), source in self.sources.items() if found == kind]

    def figures_of(self, section: str, task: str | None = None, backbone: str | None = None) -> list[Mapping[str, Any]]:
        return [
            f
            for f in self.figures
            if f.get("section") == section and task in (None, f.get("task")) and backbone in (None, f.get("backbone"))
        ]


def gather(folder: str | Path, describe: Describe) -> Material:
    """Read a results folder whose report has been made.

    Raises:
        RecordError: no results folder, or nothing analysed yet.
    """
    frame = load_frame(folder)
    findings = read_findings(folder)
    figures = read_json(frame.folder / "report" / "figures" / FIGURES)
    if not isinstance(figures, list):
        raise RecordError("there is no report yet", where=str(folder), remedy="`peftlab report DIR` makes it")
    said = {name: read_json(frame.folder / "analysis" / f"{name}.json") for name in SAID}
    treatments = list(_treatments(frame))
    asked = dict.fromkeys(part for treatment in treatments for part in treatment.components())
    asked |= dict.fromkeys(("probe", name) for name in frame.study.probes)
    return Material(
        folder=frame.folder,
        frame=frame,
        findings=findings,
        figures=[f for f in figures if isinstance(f, Mapping)],
        said={name: data for name, data in said.items() if isinstance(data, Mapping) and data.get("sentences")},
        treatments=treatments,
        sources={(kind, name): describe(kind, name) for kind, name in asked},
        environment=facts.environment(frame),
        fingerprints=facts.fingerprints(frame),
        study_sha=facts.study_text(frame)[1],
    )


def _treatments(frame: Frame) -> Iterator[Treatment]:
    order = {label: i for i, label in enumerate(frame.arms)}
    found = sorted(configurations(frame).items(), key=lambda item: order.get(item[0][0], 0))
    for (label, task, backbone), (where, configs) in found:
        results = read_json(frame.folder / where / "results.json")
        results = results if isinstance(results, Mapping) else {}
        if configs:
            yield Treatment(
                label=label, task=task, backbone=backbone, config=by_fold(configs),
                splits=results.get("splits") or {}, steps=results.get("steps"),
            )  # fmt: skip


def options_text(spec: Mapping[str, Any]) -> str:
    """``lora: rank 8, targets standard``; options that are off are left out."""
    flat = {k: v for k, v in flatten(spec).items() if k != "name" and v not in (None, "", False)}
    name = str(spec.get("name", ""))
    shown = ", ".join(f"{key} {_value(value)}" for key, value in flat.items())
    return f"{name}: {shown}" if shown else name


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(_value, value)) if isinstance(value, list | tuple) else str(value)
