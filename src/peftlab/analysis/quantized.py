"""Runs of a study with quantized arms, each with what it cost, what quantization did to it, and its curve."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from peftlab.analysis.convergence import Curve
from peftlab.analysis.frame import Frame
from peftlab.analysis.gradient_flow import FLOAT as UNQUANTIZED
from peftlab.analysis.planned import distinguished
from peftlab.analysis.quantization_history import FILE as HISTORY
from peftlab.analysis.quantization_history import History
from peftlab.analysis.reading import flatten, metric_lines, read_json

FILE = "quantization_analysis.json"  #: of training/quantization.py
FLOAT = "float"
PROCESS = "process"
#: options that make a rank: arms that differ in nothing else are one family
RANK_OPTIONS = ("rank", "alpha")
COLUMNS = (
    "arm task backbone seed fold treatment scheme rank value bits_per_parameter stored_mb float_mb times_smaller "
    "weights_mb peak_mb predicted_peak_mb peak_without_process_mb weight_error output_error gradient_error gradient_cosine "
    "cancelled aligned bound process_before_mb process_after_mb full_from_step float_weights_mb balance_start balance_end"
).split()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedRun:
    """``treatment`` names all that was done but for quantizing and the learning rate; ``family`` the same without the rank."""

    arm: str
    task: str
    backbone: str
    seed: int
    fold: int
    scheme: str  #: ``float``, ``nf4-double``, ``int8 after`` training
    treatment: str
    family: str
    rank: int | None
    learning_rate: float | None
    value: float | None  #: the declared metric; a diverged run's is imputed
    chance: float | None
    memory: Mapping[str, Any]  #: memory.json
    found: Mapping[str, Any]  #: quantization_analysis.json; empty for float
    history: History  #: quantization_history.json
    config: Mapping[str, Any]
    curve: Curve

    @property
    def unit(self) -> tuple[int, int]:
        return self.seed, self.fold

    def number(self, *path: str) -> float | None:
        """A figure of ``quantization_analysis.json``."""
        return _number(self.found, *path)

    @property
    def weight_error(self) -> float | None:
        """Mean over converted layers of ||W - Q(W)|| / ||W||."""
        layers = self.found.get("layers")
        known = [_number(layer, "weight_error") for layer in layers.values()] if isinstance(layers, Mapping) else []
        numbers = [value for value in known if value is not None]
        return sum(numbers) / len(numbers) if numbers else None

    @property
    def peak_mb(self) -> float | None:
        return _number(self.memory, "measured_peak_mb")

    @property
    def tensors_peak_mb(self) -> float | None:
        """The measured peak less the process: what grows with the model. The process is larger with a quantizer's libraries."""
        peak, process = self.peak_mb, _number(self.memory, "measured", PROCESS)
        return peak - process if peak is not None and process is not None else None

    @property
    def predicted_peak_mb(self) -> float | None:
        return _number(self.memory, "predicted_peak_mb")

    @property
    def weights_mb(self) -> float | None:
        """Frozen weights as they lay in memory while it trained."""
        return _number(self.memory, "tensors_mb", "weights")

    def row(self) -> tuple[Any, ...]:
        """The cells of :data:`COLUMNS`."""
        megabyte = 1e6
        stored, float_bytes = self.number("model", "stored_bytes"), self.number("model", "float_bytes")
        return (
            self.arm, self.task, self.backbone, self.seed, self.fold, self.treatment, self.scheme, self.rank, self.value,
            self.number("converted", "bits_per_parameter"), stored / megabyte if stored else None,
            float_bytes / megabyte if float_bytes else None, self.number("model", "times_smaller_than_float"), self.weights_mb,
            self.peak_mb, self.predicted_peak_mb, self.tensors_peak_mb, self.weight_error,
            self.number("outputs", "relative_error"),
            *(self.number("gradient", key) for key in ("relative_error", "cosine")),
            *(self.number("cancellation", key) for key in ("cancelled", "aligned", "bound")),
            *(self.number("process_mb", key) for key in ("before", "after")),
            self.history.full_from_step, self.history.float_weights_mb, self.history.start, self.history.end,
        )  # fmt: skip


def quantized_runs(frame: Frame) -> list[QuantizedRun]:
    """All runs that ended, in the order of arms and seeds; none where no arm is quantized."""
    rows = frame.primary()
    rows = rows[rows["status"].isin(["completed", "diverged"])]
    order = {label: i for i, label in enumerate(frame.arms)}
    records: list[Any] = sorted(
        rows.to_dict("records"), key=lambda r: (r["task"], r["backbone"], order[r["label"]], r["seed"], r["fold"])
    )
    configs = [_read(frame, row, "config.json") for row in records]
    if all(_is_float(config) for config in configs):
        return []
    keys = [_Keys.of(config) for config in configs]
    schemes = distinguished({key.scheme: key.scheme_parts for key in keys})
    treatments = distinguished({key.treatment: key.treatment_parts for key in keys})
    return [
        QuantizedRun(
            arm=str(row["label"]),
            task=str(row["task"]),
            backbone=str(row["backbone"]),
            seed=int(row["seed"]),
            fold=int(row["fold"]),
            scheme=schemes[key.scheme],
            treatment=treatments[key.treatment],
            family=key.family,
            rank=key.rank,
            learning_rate=_number(config, "train", "learning_rate"),
            value=None if pd.isna(row["value"]) else float(row["value"]),
            chance=None if pd.isna(row["chance"]) else float(row["chance"]),
            memory=_read(frame, row, "memory.json"),
            found={} if _is_float(config) else _read(frame, row, FILE),
            history=History.of({} if _is_float(config) else _read(frame, row, HISTORY)),
            config=config,
            curve=_curve(frame, row),
        )
        for row, config, key in zip(records, configs, keys, strict=True)
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class _Keys:
    """What makes two runs the same scheme, the same treatment, the same family; and words for the first two."""

    scheme: str
    scheme_parts: tuple[str, Mapping[str, Any]]
    treatment: str
    treatment_parts: tuple[str, Mapping[str, Any]]
    family: str
    rank: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Keys:
        quantizer, adapter = config.get("quantizer") or {}, config.get("adapter") or {}
        when = config.get("quantize", "before")
        tuned = config.get("tuned") or {}  # each arm has its own; a value that the study states is part of the treatment
        train = {k: v for k, v in (config.get("train") or {}).items() if k not in tuned}
        others = {"allocator": config.get("allocator"), "train": train}
        fixed = {k: v for k, v in adapter.items() if k not in RANK_OPTIONS}
        rank = adapter.get("rank")
        return cls(
            scheme=FLOAT if _is_float(config) else _canonical({**quantizer, "when": when}),
            scheme_parts=(_scheme(config), {} if _is_float(config) else flatten(quantizer)),
            treatment=_canonical({"adapter": adapter, **others}),
            treatment_parts=(_method(config), flatten({**{k: v for k, v in adapter.items() if k != "name"}, **others})),
            family=_canonical({"adapter": fixed, **others}),
            rank=rank if isinstance(rank, int) else None,
        )


def _scheme(config: Mapping[str, Any]) -> str:
    """A word for the quantizer: its name and whatever says how many bits of which kind."""
    if _is_float(config):
        return FLOAT
    quantizer = config["quantizer"]
    kind = quantizer.get("type") or f"int{quantizer['bits']}" if "bits" in quantizer or "type" in quantizer else quantizer["name"]
    group = f"-g{quantizer['group_size']}" if isinstance(quantizer.get("group_size"), int) else ""
    double = "-double" if quantizer.get("double") else ""
    return f"{kind}{double}{group}" + (" after" if config.get("quantize", "before") == "after" else "")


def _method(config: Mapping[str, Any]) -> str:
    adapter, allocator = config.get("adapter") or {}, config.get("allocator")
    return str(adapter.get("name", "")) + (f" + {allocator.get('name', '')}" if isinstance(allocator, Mapping) else "")


def _is_float(config: Mapping[str, Any]) -> bool:
    return (config.get("quantizer") or {}).get("name", UNQUANTIZED) == UNQUANTIZED


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _read(frame: Frame, row: Mapping[str, Any], name: str) -> dict[str, Any]:
    content = read_json(frame.folder / str(row["folder"]) / name)
    return content if isinstance(content, dict) else {}


def _curve(frame: Frame, row: Mapping[str, Any]) -> Curve:
    lines = metric_lines(frame.folder / str(row["folder"]) / "metrics.jsonl")
    points = [(_number(line, "step"), _number(line, frame.metric)) for line in lines if line["split"] == "validation"]
    return [(step, value) for step, value in points if step is not None and value is not None]


def _number(tree: Any, *path: str) -> float | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return float(tree) if isinstance(tree, int | float) and not isinstance(tree, bool) else None


def quantization_table(runs: Sequence[QuantizedRun]) -> pd.DataFrame:
    """A row per run."""
    table = pd.DataFrame([run.row() for run in runs], columns=pd.Index(COLUMNS))
    for column in COLUMNS[8:]:
        table[column] = pd.to_numeric(table[column]).astype("float64")
    table["rank"] = pd.to_numeric(table["rank"]).astype("Int64")
    return table
