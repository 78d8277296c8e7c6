"""A number for a text, from training to a plain transformers pipeline."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from peftlab import api
from tests.api.conftest import Trained, train
from tests.tasks.texts import make_bert, ratings, write_tsv

ARMS: dict[str, Any] = {
    "full": {"adapter": "full", "learning_rate": 0.003},
    "lora": {"adapter": {"name": "lora", "rank": 4, "targets": "all-linear"}},
    "xs-hqq": {"adapter": {"name": "lora-xs", "rank": 8}, "quantizer": {"name": "hqq", "bits": 4, "group_size": 8}},
}
NEW = ratings(24, seed=7)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    root = tmp_path_factory.mktemp("ratings")
    backbone = make_bert(root / "model")
    study = {
        "study": "ratings",
        "question": "Does it work on numbers?",
        "backbone": str(backbone),
        "task": {"kind": "text-regression", "data": str(write_tsv(root / "ratings.tsv", ratings(500), "text\trating"))},
        "seeds": [0],
        "train": {"epochs": 8, "batch_size": 16, "learning_rate": 0.01},
        "arms": ARMS,
        "analysis": {"metric": "pearson", "baseline": "full", "margin": {"absolute": 0.1}},
    }
    return Trained(train(study, root / "results", cache), backbone)


@pytest.mark.parametrize("arm", ["full", "lora"])
def test_it_learns_and_is_better_than_the_mean(runs: Trained, arm: str) -> None:
    results = runs.run(arm).results()
    assert results is not None and results.status == "completed"
    found = results.metrics["test"]
    assert set(found) == {"pearson", "spearman", "rmse", "loss"}
    assert found["pearson"] > 0.5  # pyright: ignore
    assert found["rmse"] < 0.9 * results.majority["rmse"]  # pyright: ignore


def test_what_is_kept_of_every_example_gives_the_metric_again(runs: Trained) -> None:
    run = runs.run("lora")
    kept, results = np.load(run.path / "predictions.npz"), run.results()
    assert results is not None
    pearsonr: Any = stats.pearsonr
    again = float(pearsonr(kept["predicted"], kept["target"])[0])
    assert results.metrics["test"]["pearson"] == pytest.approx(again, abs=1e-9)


@pytest.mark.slow
def test_analysis_report_and_choice_take_a_metric_that_is_no_share(runs: Trained) -> None:
    answer = api.report(runs.folder)
    page = Path(answer["report"]).read_text(encoding="utf-8")
    found = runs.run("lora").results()
    assert found is not None and f"{found.metrics['test']['pearson']:.4g}" in page
    assert api.choose(runs.folder)["sentence"]


@pytest.mark.parametrize("arm", ["lora", "xs-hqq"])
def test_merged_it_is_a_pipeline_of_transformers_that_gives_the_number(runs: Trained, tmp_path: Path, arm: str) -> None:
    from transformers import pipeline

    answer = api.export(runs.folder, arm, tmp_path / "out", merged=True, evaluate=True)
    assert answer["merge_difference"] < 1e-4
    assert answer["test"]["pearson"] == pytest.approx(answer["test_of_the_run"]["pearson"], abs=1e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["problem_type"] == "regression"
    plain = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    theirs = [plain(text)[0] for text, _ in NEW]
    ours = api.predict(tmp_path / "out", [text for text, _ in NEW])["predictions"]
    assert [entry["value"] for entry in ours] == pytest.approx([entry["score"] for entry in theirs], abs=1e-4)
    assert {entry["label"] for entry in ours} == {entry["label"] for entry in theirs} == {"rating"}
    assert min(entry["value"] for entry in ours) < 0  # no probabilities


def test_the_adapter_loads_in_peft_and_gives_the_same(runs: Trained, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    api.export(runs.folder, "lora", tmp_path / "out")
    ours = api.predict(tmp_path / "out", [text for text, _ in NEW])
    shown = io.StringIO()
    Console(file=shown, width=80).print(ours.table())
    assert f"{ours['predictions'][0]['value']:.4g}" in shown.getvalue() and "24 texts" in shown.getvalue()
    base = AutoModelForSequenceClassification.from_pretrained(runs.backbone, num_labels=1)
    model = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    tokenizer = AutoTokenizer.from_pretrained(runs.backbone)
    for (text, _), entry in zip(NEW, ours["predictions"], strict=True):
        with torch.inference_mode():
            value = model(**tokenizer(text, return_tensors="pt")).logits
        assert float(value) == pytest.approx(entry["value"], abs=1e-4)
