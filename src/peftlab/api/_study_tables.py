"""A plan, and what came out of it, as a person reads them in a terminal."""

from __future__ import annotations

from typing import Any

from peftlab.api import answers
from peftlab.api._left import Left
from peftlab.api.answers import duration
from peftlab.study.schema import Study


def plan_table(study: Study, made: Any, left: Left) -> Any:
    """One row per arm (its seeds together), then refusals, notes and totals."""
    groups: dict[tuple[str, str, str, str], list[Any]] = {}
    for item in (*made.tuning, *made.runs):
        groups.setdefault((item.label, item.backbone, item.task, item.purpose), []).append(item)
    several = len({key[1:3] for key in groups}) > 1
    rows, refused = [], []
    for (label, backbone, task, purpose), items in groups.items():
        name = f"{label} @ {backbone}, {task}" if several else label
        refused += [f"refused: {name}: {item.refusal}" for item in items if item.refusal]
        items = [item for item in items if not item.refusal]
        if not items:
            continue
        open_yet = purpose == "evaluation" and any(item.config is None for item in items)
        name = f"tuning: {name}" if purpose == "tuning" else name
        tried = [item for item in groups.get((label, backbone, task, "tuning"), []) if open_yet and not item.refusal]
        rows.append((f"{name} (not chosen yet)" if open_yet else name, len(items), *_figures([*items, *tried]), _time(items)))
    columns = ["arm", "runs", "steps", "trainable", "share", "peak memory", "time, all"]
    table = answers.table(columns, rows, right=columns[1:])
    pending = "the evaluation runs get their ids once tuning has chosen their values" if made.pending else ""
    said = [*(f"warning: {warning}" for warning in made.warnings), *(f"note: {note}" for note in made.notes)]
    refused = dict.fromkeys(refused)  # the tuning runs of an arm are refused for what its other runs are
    return answers.lines(study.question, table, *refused, *said, pending, left.words())


def _figures(items: list[Any]) -> tuple[str, ...]:
    """Steps, trainable parameters and their share, from least to most where runs differ in values; the largest peak."""
    peaks = [item.estimate.peak_mb for item in items if item.estimate]
    return (
        _range([item.steps for item in items], "{:,}"),
        _range([item.trainable for item in items], "{:,}"),
        _range([100 * item.trainable / item.total_parameters for item in items], "{:.3g}") + " %",
        _mb(max(peaks, default=None)),
    )


def _range(values: list[Any], form: str) -> str:
    return "-".join(dict.fromkeys(form.format(value) for value in (min(values), max(values))))


def _time(items: list[Any]) -> str:
    return duration(sum(item.predicted_s or 0.0 for item in items))


def findings_table(findings: Any) -> Any:
    """One row per arm, what a reader of the rows must know, and the answers."""
    from peftlab.analysis.words import listed, show, show_interval

    rows, metric = [], findings.plan.metric
    parts = [part for part in ("task", "backbone") if len({getattr(arm, part) for arm in findings.arms}) > 1]
    flagged: dict[str, dict[str, None]] = {}
    for arm in findings.arms:
        for flag in arm.flags:
            flagged.setdefault(flag, {})[arm.label] = None
        mean = f"{show(arm.mean, metric)} {show_interval(arm.interval, metric)}".strip()
        rows.append(
            (
                " · ".join([arm.label, *(getattr(arm, part) for part in parts)]),
                arm.n,
                mean,
                arm.trainable and int(arm.trainable),
                _mb(arm.measured_peak_mb),
                duration(arm.train_s),
            )
        )
    columns = ["arm", "n", f"{metric}, {findings.plan.confidence:.0%} interval", "trainable", "peak memory", "training"]
    table = answers.table(columns, rows, right=("n", "trainable", "peak memory", "training"))
    flags = (f"note: {flag}: {listed([*labels])}" for flag, labels in flagged.items())
    return answers.lines(findings.question, table, *flags, *findings.verdict, *(f"warning: {w}" for w in findings.warnings))


def _mb(value: float | None) -> str:
    return answers.megabytes(value * 1e6) if value is not None else ""
