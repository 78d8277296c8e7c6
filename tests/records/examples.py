"""Records for the tests of this folder."""

from __future__ import annotations

from typing import Any

from peftlab.records.record import RunConfig, RunError, RunResults


def configuration(**changed: Any) -> RunConfig:
    values: dict[str, Any] = {
        "study": "tests", "arm": "lora", "label": "lora[rank=8]", "slug": "lora.rank-8", "backbone": "bundled:vit-nano",
        "backbone_fingerprint": "0", "task": {"kind": "image-classification", "data": "digits"}, "data_fingerprint": "0",
        "adapter": {"name": "lora", "rank": 8}, "quantizer": {"name": "none"}, "train": {"epochs": 1}, "seed": 0,
    }  # fmt: skip
    return RunConfig(**{**values, **changed})


def results(run_id: str, **changed: Any) -> RunResults:
    values: dict[str, Any] = {
        "run_id": run_id, "metrics": {"test": {"accuracy": 0.5}}, "higher_is_better": {"accuracy": True}, "steps": 3,
        "epochs": 1.0, "parameters": {}, "memory": {}, "time": {},
    }  # fmt: skip
    return RunResults(**{**values, **changed})


def failure(run_id: str, what: str = "it broke") -> RunError:
    return RunError(run_id=run_id, error={"type": "TrainingError", "what": what, "where": "", "remedy": "mend it"})
