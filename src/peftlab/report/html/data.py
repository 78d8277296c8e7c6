"""What the page's script draws and compares: settings, arms, declared findings, exploratory pairs. No number is new here."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.analysis.findings import ArmSummary, Findings
from peftlab.analysis.frame import Frame
from peftlab.analysis.pareto import on_front
from peftlab.analysis.words import is_share
from peftlab.report.figures._quality import margin_limit, quality_limits
from peftlab.report.figures.contract import Bundle
from peftlab.report.html.runs import FACT_DIGITS, number, runs_data
from peftlab.report.style import MARKERS, PALETTE, Look

#: cost of an arm -> its name on an axis and its unit
COSTS = {
    "trainable": ("trainable parameters", ""),
    "measured_peak_mb": ("peak memory", "MB"),
    "train_s": ("training time", "s"),
}
#: of exploratory pairs, of which there may be thousands; what they are of has no exact halves, as differences of shares have
BOUND_DIGITS, P_DIGITS = 12, 7
#: they reorder the text around them, or show nothing: written out wherever they stand
_HIDDEN = {
    code: f"⟨U+{code:04X}⟩"
    for code in (*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F),
                 *range(0x2066, 0x206A), 0xFEFF)
}  # fmt: skip

_ANY_HIDDEN = re.compile(f"[{re.escape(''.join(map(chr, _HIDDEN)))}]")


def page_data(
    frame: Frame, findings: Findings, bundles: Sequence[Bundle], tables: Sequence[str], details: Mapping[Path, Mapping[str, Any]]
) -> dict[str, Any]:
    """Everything the script reads. ``tables``: of each setting, as CSV; ``details``: of each run (html/runs.py)."""
    plan = findings.plan
    return {
        "study": findings.study, "metric": plan.metric, "share": is_share(plan.metric), "higher": plan.higher_is_better,
        "confidence": plan.confidence, "baseline": plan.baseline, "split": plan.split,
        "imputed_at": plan.imputed_at, "adjustment": plan.adjustment, "exploratory": plan.exploratory,
        "test": f"{plan.p_word}paired t test", "pairs_declared": plan.pairs_declared,
        "costs": [{"key": k, "name": n, "unit": u} for k, (n, u) in COSTS.items()],
        "settings": [_setting(findings, bundle) for bundle in bundles], "tables": list(tables),
        **runs_data(frame, bundles, details),
    }  # fmt: skip


def look(value: Look) -> dict[str, Any]:
    """Indices of colour and shape, and the legend entry that they stand for."""
    return {"color": PALETTE.index(value.color), "shape": MARKERS.index(value.marker), "legend": value.legend}


def visible(text: str) -> str:
    """Characters that reorder or hide the text around them, written out."""
    return text.translate(_HIDDEN) if _ANY_HIDDEN.search(text) else text  # looking is a tenth of the work of translating


def safe_json(value: Any) -> str:
    """Compact JSON that cannot end the script element it stands in, with nothing in it that cannot be seen."""
    text = visible(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))
    for code, shown in _HIDDEN.items():  # control characters are escaped by JSON itself
        text = text.replace(f"\\u{code:04x}", shown)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _setting(findings: Findings, bundle: Bundle) -> dict[str, Any]:
    limits, base = quality_limits(bundle), bundle.baseline
    looks, places = bundle.looks, findings.places(bundle.task, bundle.backbone)
    return {
        "task": bundle.task, "backbone": bundle.backbone, "limits": [number(v) for v in limits],
        "base": number(base.mean) if base and base.mean is not None else None, "margin": number(margin_limit(bundle)),
        "arms": [{**_arm(arm, places), **look(looks[arm.label])} for arm in bundle.arms],
        "units": [findings.pairs[i] for i in places],
        "fronts": {cost: _front(bundle.arms, cost, findings.plan.higher_is_better) for cost in COSTS},
        "declared": _declared(findings, bundle), "pairs": _pairs(findings, bundle),
    }  # fmt: skip


def _arm(arm: ArmSummary, places: Sequence[int]) -> dict[str, Any]:
    low, high = arm.interval or (None, None)
    return {
        "label": arm.label, "n": arm.n, "mean": number(arm.mean), "low": number(low), "high": number(high), "sd": number(arm.sd),
        "values": [number(arm.values[i]) for i in places], "front": {k: number(v, 3) for k, v in arm.front.items()},
        "flags": arm.flags, "imputed": arm.imputed, "failed": arm.failed,
        **{cost: number(getattr(arm, cost), FACT_DIGITS) for cost in COSTS},
    }  # fmt: skip


def _front(arms: Sequence[ArmSummary], cost: str, higher: bool) -> list[int]:
    """Arms whose means no other arm beats in both, cheapest first. Those that left a race early have other seeds, and no rank."""
    costs = np.array([np.nan if getattr(a, cost) is None else getattr(a, cost) for a in arms], dtype=float)
    quality = np.array([np.nan if a.mean is None or a.left_early else a.mean for a in arms], dtype=float)
    front = np.flatnonzero(on_front(quality if higher else -quality, costs)) if len(arms) else np.array([], dtype=int)
    return [int(i) for i in front[np.argsort(costs[front], kind="stable")]]


def _declared(findings: Findings, bundle: Bundle) -> dict[str, Any]:
    """Arm -> its difference from the baseline, and every sentence about the two."""
    found: dict[str, Any] = {}
    for k, arm in enumerate(bundle.arms):
        said = [f for f in findings.findings if f.arms[:1] == [arm.label] and len(f.arms) == 2
                and (f.task, f.backbone) == (bundle.task, bundle.backbone)]  # fmt: skip
        difference = next((f for f in said if f.kind == "difference"), None)
        if difference is None:
            continue
        low, high = difference.interval or (None, None)
        found[str(k)] = {
            "n": difference.n, "estimate": number(difference.estimate), "low": number(low), "high": number(high),
            "p": number(difference.p), "q": number(difference.p_adjusted), "r": number(difference.correlation, P_DIGITS),
            "verdict": difference.verdict, "sentences": [f.sentence for f in said],
        }  # fmt: skip
    return found


def _pairs(findings: Findings, bundle: Bundle) -> dict[str, list[Any]] | None:
    """Columns of the exploratory pairs, arms as indices of the bundle's."""
    pairs = next((p for p in findings.exploratory if (p.task, p.backbone) == (bundle.task, bundle.backbone)), None)
    if pairs is None:
        return None
    place = {arm.label: k for k, arm in enumerate(bundle.arms)}
    index = [place.get(label, -1) for label in pairs.arms]
    columns = (
        ("estimate", pairs.estimate, None), ("low", pairs.low, BOUND_DIGITS), ("high", pairs.high, BOUND_DIGITS),
        ("p", pairs.p, P_DIGITS), ("q", pairs.p_adjusted, P_DIGITS), ("r", pairs.correlation, P_DIGITS),
    )  # fmt: skip
    verdicts = sorted(set(pairs.verdict))
    return {
        "first": [index[i] for i in pairs.first], "second": [index[i] for i in pairs.second], "n": list(pairs.n),
        **{name: [number(v, digits) for v in column] for name, column, digits in columns},
        "verdicts": verdicts, "verdict": [verdicts.index(v) for v in pairs.verdict],
    }  # fmt: skip
