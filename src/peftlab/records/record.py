"""What came out of one run: the JSON forms kept in its folder, and nothing that needs torch to read.

A run folder holds ``config.json`` (RunConfig), ``environment.json``, ``metrics.jsonl`` (one MetricLine a line), and at the
end exactly one of ``results.json`` (RunResults) and ``error.json`` (RunError). Diagnostics are further JSON files, named by the
probe that made them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1  #: of what is written; older records are lifted by records/migration.py
#: keys of ``train`` that decide when a run is given up, and nothing of its outcome
NO_OUTCOME = ("on_hang", "hang_limit_s")
IDENTITY_VERSION = 1  #: of what the hash of a run covers; a change of it makes every run another one


class Record(BaseModel):
    """Read leniently (a newer minor field is kept), written exactly."""

    model_config = ConfigDict(extra="allow", frozen=True)


class RunConfig(Record):
    """Everything that defines a run. ``run_id`` is the hash of :meth:`identity`."""

    schema_version: int = SCHEMA_VERSION
    study: str
    arm: str  #: name in the study file
    label: str  #: arm with its grid values, ``lora[rank=8]``
    slug: str  #: folder name of the label
    factors: dict[str, Any] = {}
    backbone: str
    backbone_fingerprint: str  #: sha-256 over the weight files, or hub commit
    task: dict[str, Any]  #: full spec, defaults filled in
    data_fingerprint: str  #: sha-256 over the data
    adapter: dict[str, Any]
    allocator: dict[str, Any] | None = None
    quantizer: dict[str, Any]
    quantize: Literal["before", "after"] = "before"  #: training
    train: dict[str, Any]  #: study.schema.Train, defaults filled in, ``auto`` resolved
    seed: int
    fold: int = 0
    purpose: Literal["evaluation", "tuning"] = "evaluation"
    tuned: dict[str, Any] = {}  #: values that the tuning chose; in a tuning run those it tries
    predicted: dict[str, Any] = {}  #: peak_mb, parts_mb, step_s: what the plan expected
    evaluate_test: bool = True  #: False in tuning runs: they never see test data

    def identity(self) -> dict[str, Any]:
        """What the hash covers: what determines the outcome, not what things are called.

        ``quantize`` counts where it is not ``before``, so that runs from before there was a choice keep their ids.
        """
        what = "backbone backbone_fingerprint task data_fingerprint"
        how = "adapter allocator quantizer train seed fold purpose"
        late = ["quantize"] if self.quantize != "before" else []
        found = {key: getattr(self, key) for key in (*what.split(), *how.split(), *late)}
        train = {key: value for key, value in self.train.items() if key not in NO_OUTCOME}
        return {"schema_version": IDENTITY_VERSION, **found, "train": train}

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON of :meth:`identity`."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class MetricLine(Record):
    """One line of ``metrics.jsonl``. Further keys are metrics of the task (``accuracy``, ...)."""

    step: int  #: optimizer steps done
    epoch: float
    split: Literal["train", "validation"]
    loss: float | None = None  #: None when not finite
    time_s: float = 0.0  #: training time so far, over all resumptions


class RunResults(Record):
    """``results.json``: the outcome of a run that ended.

    ``diverged`` is an outcome: ``metrics`` then holds what the broken model scores, or nothing.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Literal["completed", "diverged"] = "completed"
    metrics: dict[str, dict[str, float | None]]  #: split ("validation", "test") -> metric -> value
    higher_is_better: dict[str, bool]  #: metric -> direction
    primary_metric: str | None = None  #: that selection and early stopping follow on validation; None: made before it was kept
    chance: dict[str, float] = {}  #: metric -> level of uniform guessing
    majority: dict[str, float] = {}  #: metric -> level of always answering the most frequent class
    steps: int  #: optimizer steps done
    epochs: float
    selected_step: int | None = None  #: step whose weights were tested
    thresholds: dict[str, float] = {}  #: what validation data decided for the test, e.g. the score from which there is no answer
    #: full, total, trainable, trainable_percent, head, adapter, reduction_percent, times_fewer, by_role, by_block
    parameters: dict[str, Any]
    #: measured_peak_mb, mean_mb, predicted_peak_mb, and both peaks in parts: {measured: {...}, predicted: {...}}
    memory: dict[str, Any]
    time: dict[str, Any]  #: train_s, step_ms_median, evaluate_s, samples_per_s, total_s, cpu_s (records/times.py)
    splits: dict[str, int] = {}  #: split -> number of examples
    quantizer: dict[str, Any] | None = None  #: the one that the run ended with, where a fallback put another in its place
    flags: list[str] = []  #: fallbacks and other things every table must show
    data_warnings: list[str] = []  #: of the data that the run was trained and tested on, e.g. test examples that are copies
    notes: list[str] = []
    resumed: int = 0  #: how many times the run was continued


class RunError(Record):
    """``error.json``: a run that could not be finished."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    error: dict[str, str]  #: type, what, where, remedy
    traceback: str = ""
    step: int | None = None


def to_json(value: BaseModel | dict | list) -> str:
    """Canonical, readable JSON: sorted keys, NaN refused."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
