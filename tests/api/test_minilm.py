"""The real thing: SST-2's own sentences on MiniLM's own weights, from training to a plain transformers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftlab import api
from tests.api.conftest import Trained, train
from tests.tasks.texts import shared_minilm, text_data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    backbone, root = shared_minilm(), tmp_path_factory.mktemp("minilm")
    study: dict[str, Any] = {
        "study": "sst2",
        "question": "Does it work on real texts?",
        "backbone": str(backbone),
        "task": {
            "kind": "text-classification",
            "data": {"name": "sst2", "path": str(text_data("sst2"))},
            "train_size": 800,
            "validation_size": 100,
        },
        "seeds": [0],
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 3e-3},
        "arms": {"lora": {"adapter": {"name": "lora", "rank": 8, "targets": "standard"}}},
        "require": {"trainable_percent": 0.7},  # 73,728 of 22.8 million, and the head
        "analysis": {"baseline": "lora"},
    }
    return Trained(train(study, root / "results", cache), backbone)


def test_an_adapter_of_sst2_merged_is_a_pipeline_that_scores_as_the_run_did(runs: Trained, tmp_path: Path) -> None:
    from transformers import pipeline

    results = runs.run("lora").results()
    assert results is not None
    accuracy = results.metrics["test"]["accuracy"]
    assert accuracy is not None and accuracy > 0.7  # majority: 0.51
    assert results.parameters["adapter"] == 6 * 2 * 8 * (384 + 384)

    api.export(runs.folder, "lora", tmp_path / "out", merged=True)
    lines = (text_data("sst2") / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    plain = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    found = plain([sentence for sentence, _ in rows], batch_size=32)
    right = sum(answer["label"] == ("negative", "positive")[int(label)] for answer, (_, label) in zip(found, rows, strict=True))
    assert right / len(rows) == pytest.approx(accuracy, abs=1.5 / len(rows))  # batches of other lengths: one sentence may tip
