"""Gradients over training: which rules were broken, how steadily the loss fell, and what quantized weights changed of it."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from peftlab.analysis.findings import Form
from peftlab.analysis.frame import Frame
from peftlab.analysis.reading import metric_lines, read_json
from peftlab.analysis.safe_csv import write_csv
from peftlab.analysis.stability import stability
from peftlab.records.gradient_flow import FILE, Flow, Module, events

COLUMNS = "arm task backbone seed fold step site block role norm mean max zeros non_finite".split()
HEAD = "head"
FLOAT = "none"  #: the quantizer of weights left as they are


class Event(Form):
    """One rule of :func:`peftlab.records.gradient_flow.events` and how many runs met it."""

    kind: str
    runs: int
    modules: list[str]  #: most often first
    first_step: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowRun:
    """One run with its gradients and its curves. ``treatment`` is all that was done to the model but for the quantizer."""

    arm: str
    task: str
    backbone: str
    seed: int
    fold: int
    diverged: bool
    quantizer: str  #: as canonical JSON; ``none`` for float weights
    treatment: str
    learning_rate: float | None
    flow: Flow | None
    losses: list[float | None]  #: of training, one per line
    followed: str  #: metric that the training loop follows on validation
    validation: list[float | None]  #: of that metric, one per evaluation

    @property
    def stability(self) -> float | None:
        if self.diverged:
            return 0.0
        return stability([math.nan if loss is None else loss for loss in self.losses])

    @property
    def events(self) -> list[dict[str, Any]]:
        if self.flow is None:
            return []
        columns = {name: {"norm": m.norm, "non_finite": m.non_finite} for name, m in self.flow.modules.items()}
        return events(self.flow.steps, columns, self.flow.left_out)

    @property
    def log_norm(self) -> float | None:
        """Mean of log10 ||g|| over modules and points where it is above zero; the head apart, unless nothing else was trained."""
        logs = [math.log10(norm) for module in self._modules() for norm in module.norm if norm]
        return float(np.mean(logs)) if logs else None

    @property
    def log_depth(self) -> float | None:
        """Mean over points of log10 (||g|| of the first block / ||g|| of the last), the first point apart. None for one block."""
        if self.flow is None:
            return None
        blocks = sorted({m.block for m in self._modules() if m.block is not None})
        if len(blocks) < 2:
            return None
        first, last = ([m for m in self._modules() if m.block == b] for b in (blocks[0], blocks[-1]))
        pairs = [(_joint(first, t), _joint(last, t)) for t in range(1, len(self.flow.steps))]
        logs = [math.log10(a / b) for a, b in pairs if a and b]
        return float(np.mean(logs)) if logs else None

    def _modules(self) -> list[Module]:
        if self.flow is None:
            return []
        adapted = [m for m in self.flow.modules.values() if m.role != HEAD]
        return adapted or list(self.flow.modules.values())


def _joint(modules: Sequence[Module], point: int) -> float | None:
    """Norm of several modules' gradients together."""
    norms = [m.norm[point] for m in modules]
    known = [n for n in norms if n is not None]
    return math.hypot(*known) if known else None


def flow_runs(frame: Frame) -> tuple[list[FlowRun], list[str]]:
    """Runs that ended, diverged ones too, and notes on files that could not be read."""
    found, notes = [], []
    runs = frame.rows[frame.rows["status"].isin(["completed", "diverged"])].drop_duplicates("folder")
    followed = _followed(frame)
    order = {label: i for i, label in enumerate(frame.arms)}
    rows: list[Any] = runs.to_dict("records")
    for row in sorted(rows, key=lambda r: (r["task"], r["backbone"], order[r["label"]], r["seed"], r["fold"])):
        folder = frame.folder / str(row["folder"])
        flow = _flow(folder / FILE, notes)
        config = read_json(folder / "config.json")
        lines = list(metric_lines(folder / "metrics.jsonl"))
        quantizer, treatment, rate = _treatment(config if isinstance(config, dict) else {})
        found.append(
            FlowRun(
                arm=str(row["label"]), task=str(row["task"]), backbone=str(row["backbone"]), seed=int(row["seed"]),
                fold=int(row["fold"]), diverged=row["status"] == "diverged",
                quantizer=quantizer, treatment=treatment, learning_rate=rate, flow=flow,
                losses=[_number(line.get("loss")) for line in lines if line["split"] == "train"],
                followed=followed[row["task"]],
                validation=[_number(line.get(followed[row["task"]])) for line in lines if line["split"] == "validation"],
            )
        )  # fmt: skip
    return found, notes


def _followed(frame: Frame) -> dict[str, str]:
    """Task -> its primary metric, as any of its runs recorded it; the declared metric where none did."""
    known = {record.folder.name: record.results.primary_metric for record in frame.records if record.results}
    found: dict[str, str] = {}
    for task, runs in frame.rows.groupby("task")["run_id"]:
        found[str(task)] = next((metric for run in runs.unique() if (metric := known.get(run))), frame.metric)
    return found


def _flow(path: Path, notes: list[str]) -> Flow | None:
    if not path.is_file():
        return None
    try:
        return Flow.model_validate(read_json(path))
    except ValidationError:
        notes.append(f"{path.parent.name}/{path.name} is damaged and was left out.")
        return None


def _treatment(config: Mapping[str, Any]) -> tuple[str, str, float | None]:
    """(quantizer during training, everything else but the learning rate, learning rate)."""
    quantizer = config.get("quantizer") or {}
    during = config.get("quantize", "before") == "before" and quantizer.get("name", FLOAT) != FLOAT
    train = dict(config.get("train") or {})
    rate = _number(train.pop("learning_rate", None))
    rest = {"adapter": config.get("adapter"), "allocator": config.get("allocator"), "train": train}
    late = {} if config.get("quantize", "before") == "before" else {"quantize": config["quantize"], "quantizer": quantizer}
    return (
        json.dumps(quantizer, sort_keys=True) if during else FLOAT,
        json.dumps({**rest, **late}, sort_keys=True, default=str),
        rate,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def flow_table(runs: Sequence[FlowRun]) -> pd.DataFrame:
    """A row per run x module x point, as recorded."""
    modules = [(r, site, m, r.flow.steps) for r in runs if r.flow is not None for site, m in r.flow.modules.items()]
    points = [len(steps) for *_, steps in modules]
    about = [(r.arm, r.task, r.backbone, r.seed, r.fold, site, m.block, m.role) for r, site, m, _ in modules]
    table = pd.DataFrame(about, columns=pd.Index(["arm", "task", "backbone", "seed", "fold", "site", "block", "role"]))
    table = table.loc[np.repeat(np.arange(len(modules)), points)].reset_index(drop=True)
    table["step"] = [step for *_, steps in modules for step in steps]
    for name in COLUMNS[9:]:
        values = [value for _, _, m, _ in modules for value in getattr(m, name)]
        table[name] = pd.Series(values, dtype="float64")
    table["block"] = pd.to_numeric(table["block"]).astype("Int64")
    return table[COLUMNS]


def write_table(table: pd.DataFrame, target: Path) -> None:
    """``gradient_flow.csv``; cells that would start a formula in a spreadsheet are quoted."""
    write_csv(table, target / "gradient_flow.csv")


def events_of(runs: Sequence[FlowRun]) -> list[Event]:
    """Rules met by the runs of one arm."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    steps: dict[str, list[int]] = defaultdict(list)
    met: Counter[str] = Counter()
    for run in runs:
        found = run.events
        met.update({event["kind"] for event in found})
        for event in found:
            counts[event["kind"]][event["module"]] += 1
            steps[event["kind"]].append(event["step"])
    return [
        Event(kind=kind, runs=met[kind], modules=[name for name, _ in modules.most_common()], first_step=min(steps[kind]))
        for kind, modules in sorted(counts.items())
    ]
