"""The report as one self-contained page: no network, everything escaped, one script whose hash the page's own policy names."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from peftlab.analysis import words
from peftlab.analysis.findings import AnalysisPlan, ArmSummary, Findings
from peftlab.report.html.data import look, safe_json, visible
from peftlab.report.html.design import design, title
from peftlab.report.html.shared import told_facts
from peftlab.study.schema import Margin

_HERE = Path(__file__).parent
_SCRIPTS = ("core", "plot", "tables", "figures", "runs", "compare", "main")
_MINI_PX = 104


@functools.cache
def _jinja() -> Environment:
    """The page's templates, compiled once for all pages that a process writes."""
    jinja = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )  # fmt: skip
    for function in (
        words.show,
        words.show_count,
        words.show_difference,
        words.show_interval,
        words.show_p,
        words.show_percent,
        words.show_share,
        words.show_share_interval,
        words.significant,
        number,
    ):
        jinja.globals[function.__name__] = function
    jinja.filters["unbroken"] = words.unbroken
    return jinja


def render(findings: Findings, settings: list[Mapping[str, Any]], facts: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The page.

    Args:
        findings: what is said.
        settings: per task and backbone: ``bundle``, ``looks``, ``rows``, ``explored`` (figures that the script draws),
            ``figures``, ``absent``, and of its layers ``layers`` (None where nothing was recorded), ``layer_figures``,
            ``gradient_figures``, ``quantization_figures``, ``diagnostic_figures`` and ``diagnostics_absent``.
        facts: ``environment``, ``tuning``, ``fingerprints``, ``study_yaml``, ``study_sha``; of layers ``sentences``,
            ``method``, ``layer_notes``; ``flow`` (None where no gradients were recorded), ``quantized``
            (None where nothing was), ``diagnosed`` (None where no run recorded what training changed), ``beside`` the literature.
        data: what the script reads (html/data.py).
    """
    code, plan, told = script(), findings.plan, design(findings)
    shown = [{**s, "looks": {label: look(value) for label, value in s["looks"].items()}} for s in settings]
    runs = [_run_row(run, data["facts"]) for run in data["runs"]]
    template = _jinja().get_template("report.html.j2")
    page = template.render(
        findings=findings,
        settings=shown,
        metric=plan.metric,
        compared=any(f.kind == "difference" for f in findings.findings),
        arm_count=len({a.label for a in findings.arms}),
        seeds=_seeds(findings),
        percent=f"{100 * plan.confidence:g} %",
        unit_note=" in percentage points" if words.is_share(plan.metric) else "",
        nats=", in nats per token" if words.is_exponential(plan.metric) else "",
        margin=words.show_margin(_margin(plan), plan.metric),
        statements=_statements(findings),
        plan_rows=_plan_rows(plan),
        warnings=_warnings(findings, runs, facts["tuning"]),
        design=told,
        contents=_contents(findings, settings, {**facts, "design": told}),
        runs=runs,
        run_ids={run["id"] for run in runs},
        folds=any(run["fold"] for run in runs),
        policy=policy(code),
        css=Markup("\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("style.css", "plots.css", "print.css"))),
        script=code,
        data=safe_json(data),
        **facts,
    )
    return visible(page)


def script() -> str:
    """All of the page's code, in one scope."""
    parts = [(_HERE / "script" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    return '"use strict";\n{\n' + "\n".join(parts) + "}\n"


def policy(script: str) -> str:
    """Nothing may be loaded, and only our script may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'", "img-src data:"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def number(value: float | None) -> str:
    """Sort key; empty for what is missing."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def mini(arm: ArmSummary, limits: tuple[float, float], base: float | None, margin: float | None) -> dict[str, float | None]:
    """Pixel positions of the small interval in a table row; None for what lies off the scale."""
    low, high = limits
    span = (high - low) or 1.0

    def place(value: float | None, *, clip: bool = False) -> float | None:
        if value is None:
            return None
        share = (value - low) / span
        if not 0 <= share <= 1 and not clip:
            return None
        return round(4 + (_MINI_PX - 8) * min(max(share, 0.0), 1.0), 1)

    ends = arm.interval or (None, None)
    visible = arm.mean is not None and low <= arm.mean <= high
    return {
        "mean": place(arm.mean),
        "low": place(ends[0], clip=True) if visible else None,
        "high": place(ends[1], clip=True) if visible else None,
        "base": place(base),
        "limit": place(margin),
    }


def _seeds(findings: Findings) -> str:
    seeds = sorted({seed for seed, _ in findings.pairs})
    return ", ".join(map(str, seeds)) if len(seeds) <= 10 else f"{seeds[0]} … {seeds[-1]} ({len(seeds)})"


def _run_row(run: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of the table of runs."""
    by_key = told_facts(groups, run["facts"]) if "facts" in run else {}
    error = run.get("error")
    told = "; ".join([*run.get("flags", []), *([f"{error.get('type', '')}: {error.get('what', '')}"] if error else [])])
    kept = {key: run.get(key) for key in ("id", "arm", "task", "backbone", "seed", "fold", "status", "value", "s", "a")}
    return {
        **kept, "imputed": run.get("imputed", False), "told": told if len(told) <= 160 else told[:159] + "…",
        "peak": by_key.get("memory.measured_peak_mb"), "time": by_key.get("time.train_s"), "flags": run.get("flags", []),
    }  # fmt: skip


def _warnings(findings: Findings, runs: Sequence[Mapping[str, Any]], tuning: Mapping[str, Any] | None) -> list[Any]:
    """(heading, lines) of what a reader must know before believing the table."""
    fallbacks = Counter((run["arm"], flag) for run in runs for flag in run["flags"])
    sizes = Counter(run["arm"] for run in runs)
    ended = [p for p in findings.problems if p["kind"] in ("diverged", "failed", "unreadable", "unfinished")]
    counts = Counter((str(p["kind"]), str(p["label"])) for p in ended)
    groups = [
        ("", findings.warnings),
        ("Fallbacks", [f"{arm}: {flag} ({n} of {words.plural(sizes[arm], 'run')})" for (arm, flag), n in fallbacks.items()]),
        ("Runs that did not end as planned", [f"{label}: {n} {kind}" for (kind, label), n in counts.items()]),
        ("Unequal tuning", list(tuning["lost"]) if tuning else []),
    ]
    several = sum(bool(lines) for _, lines in groups) > 1
    return [(heading if several or heading else "", lines) for heading, lines in groups if lines]


def _contents(findings: Findings, settings: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(id, heading) of the sections that there are."""
    arms = len({a.label for a in findings.arms})
    places = [
        ("results", "Results", True), ("over-tasks", title(findings), facts["design"]["over"]),
        ("factors", "Options", facts["design"]["factors"]), ("figures", "Figures", True),
        ("compare", "Compare", bool(settings) and arms > 1),
        ("runs", "Runs", True), ("layers", "Layers", any(s["layers"] for s in settings)),
        ("gradients", "Gradients", facts["flow"]),
        ("quantization", "Quantized", facts["quantized"]),
        ("diagnostics", "What training changed", facts["diagnosed"]), ("literature", "Literature", facts["beside"]),
        ("statements", "Statements", True), ("racing", "The race", facts["race"]), ("tuning", "Tuning", facts["tuning"]),
        ("problems", "What went wrong", findings.problems), ("plan", "Plan", True), ("environment", "Environment", True),
        ("reproduce", "Reproduce", True),
    ]  # fmt: skip
    return [(name, text) for name, text, there in places if there]


def _statements(findings: Findings) -> list[tuple[str, list[Any]]]:
    headings = {
        "non_inferiority_everywhere": "Within the margin in every setting",
        "non_inferiority": "Within the margin of the baseline",
        "difference": "Differences", "equivalence": "Equivalence", "power": "What these seeds can show", "level": "Levels",
        "pareto": "Pareto fronts", "over_tasks": "Over these tasks", "new_tasks": "On other tasks",
        "interquartile_mean": "Inter-quartile means", "improvement": "Probability of improvement",
        "effect": "Effects of options", "interaction": "Interactions of options",
        "effect_over_tasks": "Effects of options over tasks", "interaction_over_tasks": "Interactions of options over tasks",
        "sampling": "The test set as a sample",
    }  # fmt: skip
    groups = [(text, [f for f in findings.findings if f.kind == kind]) for kind, text in headings.items()]
    return [(text, group) for text, group in groups if group]


def _margin(plan: AnalysisPlan) -> Margin:
    return Margin(relative=plan.margin_relative, absolute=plan.margin_absolute)


def _plan_rows(plan: AnalysisPlan) -> list[tuple[str, str]]:
    return [
        ("metric", f"{plan.metric} on {plan.split} data, {'higher' if plan.higher_is_better else 'lower'} is better"),
        ("baseline", plan.baseline or "none declared"),
        ("margin", words.show_margin(_margin(plan), plan.metric) + (" of the baseline" if plan.margin_relative else "")),
        ("unit of replication", plan.replication),
        ("intervals", plan.intervals),
        ("difference", plan.difference_test),
        ("within the margin", plan.margin_test),
        ("equivalence", plan.equivalence_test),
        ("adjustment", plan.adjustment),
        ("pairs without the baseline" if plan.pairs_declared else "exploratory pairs", plan.exploratory),
        ("Pareto fronts", f"bootstrap over seeds, {plan.bootstrap_resamples:,} resamples, generator seed {plan.bootstrap_seed}"),
        ("diverged runs", f"count as outcomes, at {plan.imputed_at}; none is dropped"),
    ]
