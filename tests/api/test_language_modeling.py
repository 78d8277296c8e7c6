"""Language modelling from plan to record: perplexity falls, and what is counted from is an arm that was not trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftlab import api
from peftlab.analysis.analyze import read_findings
from tests.api.conftest import Trained, train
from tests.tasks.test_language_modeling import words
from tests.tasks.texts import make_llama

LORA: dict[str, Any] = {"name": "lora", "rank": 4, "targets": "all-linear"}
ARMS: dict[str, Any] = {
    "untrained": {"adapter": LORA, "max_steps": 0},
    "lora": {"adapter": LORA},
    "attention-only": {"adapter": {**LORA, "targets": "attention"}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    root = tmp_path_factory.mktemp("language")
    backbone = make_llama(root / "model")
    (root / "book.txt").write_text(words(2500), encoding="utf-8")
    study = {
        "study": "language",
        "question": "Does it learn the words of a book?",
        "backbone": str(backbone),
        "task": {"kind": "language-modeling", "data": str(root / "book.txt"), "context": 32, "stride": 16},
        "seeds": [0],
        "train": {"epochs": 4, "batch_size": 8, "learning_rate": 0.02},
        "arms": ARMS,
        "analysis": {"metric": "perplexity", "baseline": "lora", "margin": {"relative": 0.03}},
    }
    return Trained(train(study, root / "results", cache), backbone)


def test_perplexity_falls(runs: Trained) -> None:
    found = {label: runs.run(label).results() for label in ARMS}
    scores = {label: results.metrics["test"] for label, results in found.items() if results is not None}
    assert set(scores["lora"]) == {"perplexity", "bits_per_byte", "loss", "token_accuracy"}
    assert scores["lora"]["perplexity"] < 0.5 * scores["untrained"]["perplexity"]  # pyright: ignore[reportOptionalOperand]
    assert found["untrained"] is not None and found["untrained"].steps == 0
    assert found["lora"] is not None and found["lora"].splits["train"] * 32 < 2500


def test_gains_are_counted_from_the_untrained_arm(runs: Trained) -> None:
    api.analyze(runs.folder)
    found = {arm.label: arm.efficiency for arm in read_findings(runs.folder).arms}
    kept = found["attention-only"]
    assert kept is not None and kept.reference == "untrained" and 0 < kept.kept < 1.2
    assert kept.saved_percent == pytest.approx(100 * (1 - (2 * 64 + 2 * 48) / (2 * 64 + 2 * 48 + 3 * 96)))
    assert found["lora"] is not None and found["lora"].ratio == pytest.approx(1)


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_what_is_exported_scores_as_the_run_did_and_goes_on_with_a_text(
    runs: Trained, tmp_path: Path, in_cache: None, form: str
) -> None:
    told = api.export(runs.folder, "lora", tmp_path / "model", merged=form == "merged", evaluate=True).as_dict()
    assert told["test"] == pytest.approx(told["test_of_the_run"], rel=1e-4)
    found = api.predict(tmp_path / "model", ["the film was", "actors"]).as_dict()["predictions"]
    assert [entry["text"] for entry in found] == ["the film was", "actors"]
    assert all(entry["tokens"] > 0 for entry in found)
    (tmp_path / "prompts.csv").write_text("text\nthe plot\n")
    assert len(api.predict(tmp_path / "model", [tmp_path / "prompts.csv"]).as_dict()["predictions"]) == 1
