"""A study from its file to its report on the accelerator: what it ran on, memory as predicted, out of memory as a typed end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from peftlab import api
from tests.gpu.conftest import CIFAR, VIT

pytestmark = pytest.mark.gpu


def write(folder: Path, **changes: Any) -> Path:
    study = {
        "study": "device",
        "question": "Does it run there?",
        "backbone": str(VIT),
        "task": {
            "kind": "image-classification",
            "data": {"name": "npz", "path": str(CIFAR)},
            "image_size": 96,
            "train_size": 256,
            "validation_size": 128,
            "test_size": 128,
        },
        "seeds": [0, 1],
        "train": {"epochs": 1, "batch_size": 64, "learning_rate": 1e-3},
        "arms": {
            "full": {"adapter": "full"},
            "lora": {"adapter": {"name": "lora", "rank": 8, "targets": "standard"}},
            "qlora": {"adapter": {"name": "lora", "rank": 8, "targets": "standard"}, "quantizer": {"name": "bnb", "bits": 4}},
        },
        "analysis": {"baseline": "full", "margin": {"absolute": 0.5}},
        **changes,
    }
    path = folder / "device.yaml"
    YAML().dump(study, path)
    return path


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("device/runs/*/*/results.json"))]


@pytest.mark.slow
@pytest.mark.skipif(not VIT.is_dir(), reason="the shared data are not here")
def test_every_arm_runs_there_in_the_memory_that_was_predicted(tmp_path: Path, device: torch.device) -> None:
    api.run(write(tmp_path), output=tmp_path / "results", jobs=1)
    found = records(tmp_path / "results")
    assert len(found) == 6
    assert {results["time"]["device"] for results in found} == {device.type}
    for results in found:
        memory = results["memory"]
        assert memory["measured_peak_mb"] == pytest.approx(memory["predicted_peak_mb"], rel=0.1), memory


@pytest.mark.slow
@pytest.mark.skipif(not VIT.is_dir(), reason="the shared data are not here")
def test_a_batch_that_cannot_fit_is_refused_with_the_one_that_would(tmp_path: Path, device: torch.device) -> None:
    answer = api.plan(write(tmp_path, train={"epochs": 1, "batch_size": 2**20}), overrides=("task.train_size=256",))
    said = json.dumps(answer.as_dict())
    assert "fit" in said
