"""What ``analysis/`` holds for reading: a summary in Markdown, and one JSON file for each family of arms that the study has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peftlab.analysis.findings import ArmSummary, Finding, Findings, Kind
from peftlab.analysis.frame import Frame
from peftlab.analysis.layers import Layers
from peftlab.analysis.quantization import QuantizationFindings
from peftlab.analysis.words import equation_p, show, show_count, show_interval, show_margin
from peftlab.records.commit import write_atomic
from peftlab.records.record import RunConfig, to_json
from peftlab.study.schema import Margin

SUMMARY = "analysis_summary.md"
QUANTIZED, QUANTIZED_DETAILS = "quantization_experiments_summary.json", "quantization_detailed_analysis.json"
ADAPTIVE = "adaptive_summary.json"
FLOAT = "none"
#: headings of the summary, in its order
PARTS: tuple[tuple[str, tuple[Kind, ...]], ...] = (
    ("Within the margin", ("non_inferiority_everywhere", "non_inferiority")),
    ("Differences from the baseline", ("difference",)),
    ("Equality", ("equivalence",)),
    ("Over tasks and backbones", ("over_tasks", "new_tasks", "improvement", "interquartile_mean")),
    ("Factors", ("effect", "interaction")),
    ("Factors over tasks", ("effect_over_tasks", "interaction_over_tasks")),
    ("Test examples as a sample", ("sampling",)),
    ("What so many seeds can show", ("power",)),
)


def write_summaries(frame: Frame, findings: Findings, layers: Layers, quantization: QuantizationFindings) -> None:
    """Into ``analysis/``; a file of a family that the study no longer has is removed."""
    target = frame.folder / "analysis"
    write_atomic(target / SUMMARY, summary(findings))
    configs = {(r.config.label, r.config.backbone): r.config for r in frame.records}
    quantized = [a for a in findings.arms if _quantizer(configs, a).get("name", FLOAT) != FLOAT]
    adaptive = [a for a in findings.arms if (c := configs.get((a.label, a.backbone))) is not None and c.allocator]
    whole = quantization.model_dump(mode="json")
    family: dict[str, Any] | None = None
    if quantized:
        family = _family(findings, quantized) | {
            "arms": [_arm(a) | {"quantizer": _quantizer(configs, a)} for a in quantized],
            "against_float": whole["effects"],
            "sentences": whole["sentences"],
        }
    _put(target / QUANTIZED, family)
    _put(target / QUANTIZED_DETAILS, {"study": findings.study, **whole} if quantized else None)
    family = None
    if adaptive:
        allocators = {a.label: dict(configs[a.label, a.backbone].allocator or {}) for a in adaptive}
        family = _family(findings, adaptive) | {
            "arms": [_arm(a) | {"allocator": allocators[a.label], "trainable_at_end": a.trainable_at_end} for a in adaptive],
            "against_fixed": [row.model_dump(mode="json") for row in layers.adaptive],
            "sentences": list(layers.sentences),
        }
    _put(target / ADAPTIVE, family)


def summary(findings: Findings) -> str:
    """Markdown."""
    plan, lines = findings.plan, [f"# {findings.study}", ""]
    lines += [f"*{findings.question}*", ""] if findings.question else []
    lines += ["## Verdict", "", *(f"- {line}" for line in findings.verdict), "", "## Arms", "", *_table(findings), ""]
    for title, kinds in PARTS:
        if said := [f.sentence for kind in kinds for f in findings.of(kind)]:
            lines += [f"## {title}", "", *(f"- {line}" for line in said), ""]
    for title, said in (("Keep in mind", findings.notes), ("Warnings", findings.warnings)):
        lines += [f"## {title}", "", *(f"- {line}" for line in said), ""] if said else []
    lines += ["## Runs", "", ", ".join(f"{count} {kind}" for kind, count in findings.runs.items()) or "none", ""]
    lines += [f"- {_where(problem)}: {problem['kind']}: {problem['what']}" for problem in findings.problems]
    margin = Margin(relative=plan.margin_relative, absolute=plan.margin_absolute)
    lines += ["", "## How", ""] if findings.problems else ["## How", ""]
    lines += [
        f"- metric: {plan.metric} on the {plan.split} split; baseline: {plan.baseline or 'none'}; margin: "
        f"{show_margin(margin, plan.metric)}" + ("" if plan.margin_declared else " (given after the runs)"),
        f"- replication: {plan.replication}",
        f"- intervals: {plan.intervals}",
        *(f"- {line}" for line in (plan.difference_test, plan.margin_test, plan.equivalence_test, plan.adjustment) if line),
        *(f"- {line}" for line in plan.further),
    ]
    return "\n".join(lines) + "\n"


def _table(findings: Findings) -> Iterator[str]:
    several = len({(a.task, a.backbone) for a in findings.arms}) > 1
    tested = {(f.task, f.backbone, f.arms[0]): f.details.get("above_chance") for f in findings.of("non_inferiority")}
    above = any(tested.values())
    yield (
        f"| arm |{' task | backbone |' if several else ''} n | {findings.plan.metric} | trainable | peak memory | training |"
        + " margin above chance level (p, not adjusted) |" * above
    )
    yield f"|---|{'---|---|' if several else ''}--:|--:|--:|--:|--:|" + "---|" * above
    for a in findings.arms:
        where = f" {_cell(a.task)} | {_cell(a.backbone)} |" if several else ""
        interval = f" {show_interval(a.interval, findings.plan.metric)}" if a.interval else ""
        memory = "–" if a.measured_peak_mb is None else f"{show_count(a.measured_peak_mb)} MB"
        time = "–" if a.train_s is None else f"{a.train_s:,.3g} s"
        mean = show(a.mean, findings.plan.metric) + interval
        more = f" {_above_chance(tested.get((a.task, a.backbone, a.label)), findings.plan.alpha)} |" * above
        yield f"| {_cell(a.label)} |{where} {a.n} | {mean} | {show_count(a.trainable)} | {memory} | {time} |{more}"


def _above_chance(test: dict[str, Any] | None, alpha: float) -> str:
    """Whether the relative margin is met also where both arms are counted from chance level."""
    if test is None:
        return "–"
    p = test["p"]
    return "cannot be tested" if p is None else f"{'met' if p <= alpha else 'not shown'} ({equation_p(p)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _where(problem: dict[str, Any]) -> str:
    seed = f" seed {problem['seed']}" if problem.get("seed") is not None else ""
    return f"{problem.get('label') or problem.get('where') or 'a run'}{seed}"


def _family(findings: Findings, arms: Sequence[ArmSummary]) -> dict[str, Any]:
    labels = {a.label for a in arms}
    own = [f for f in findings.findings if f.arms and f.arms[0] in labels and f.kind in ("difference", "non_inferiority")]
    about: dict[str, Any] = {"schema_version": 1, "study": findings.study, "question": findings.question}
    return about | {"metric": findings.plan.metric, "baseline": findings.plan.baseline, "findings": [_said(f) for f in own]}


def _said(finding: Finding) -> dict[str, Any]:
    return finding.model_dump(mode="json", exclude={"details"})


def _arm(arm: ArmSummary) -> dict[str, Any]:
    told = {
        "label",
        "task",
        "backbone",
        "n",
        "mean",
        "interval",
        "sd",
        "trainable",
        "measured_peak_mb",
        "train_s",
        "imputed",
        "flags",
    }
    return arm.model_dump(mode="json", include=told)


def _quantizer(configs: dict[tuple[str, str], RunConfig], arm: ArmSummary) -> dict[str, Any]:
    config = configs.get((arm.label, arm.backbone))
    return dict(config.quantizer) if config is not None else {}


def _put(path: Path, content: dict[str, Any] | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, to_json(content))
