"""A classifier of texts from training to a plain transformers pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab import api
from peftlab.api._predict_texts import texts_of
from peftlab.errors import DataError, OptionError
from tests.api.conftest import Trained, train
from tests.tasks.texts import make_bert, make_gpt2, sentences, write_sst2, write_tsv

ARMS: dict[str, Any] = {
    "full": {"adapter": "full", "learning_rate": 0.003},
    "lora": {"adapter": {"name": "lora", "rank": 4, "targets": "all-linear"}},
    "qa-lora": {
        "adapter": {"name": "pooled", "rank": 2, "targets": "all-linear"},
        "quantizer": {"name": "groupwise", "type": "int4", "group_size": 8},
    },
}
TEXTS = [text for text, _ in sentences(12, seed=9)]


@pytest.fixture(scope="module", params=["bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    root = tmp_path_factory.mktemp(request.param)
    backbone = {"bert": make_bert, "gpt2": make_gpt2}[request.param](root / "model")
    study = {
        "study": "texts",
        "question": "Does it work on texts?",
        "backbone": str(backbone),
        "task": {"kind": "text-classification", "data": {"name": "sst2", "path": str(write_sst2(root / "sst2", 400, 100))}},
        "seeds": [0],
        "train": {"epochs": 8, "batch_size": 16, "learning_rate": 0.01},
        "arms": ARMS,
        "analysis": {"baseline": "lora", "margin": {"absolute": 0.05}},
    }
    return Trained(train(study, root / "results", cache), backbone)


def test_it_learns_and_reports_what_the_task_promises(runs: Trained) -> None:
    results = runs.run("full").results()
    assert results is not None and results.status == "completed"
    assert results.metrics["test"]["accuracy"] > results.majority["accuracy"] + 0.3  # pyright: ignore
    assert set(results.metrics["test"]) == {"accuracy", "macro_f1", "f1", "calibration_error", "loss"}


def test_merged_it_is_a_pipeline_of_transformers(runs: Trained, tmp_path: Path) -> None:
    from transformers import pipeline

    answer = api.export(runs.folder, "lora", tmp_path / "out", merged=True, evaluate=True)
    assert answer["merge_difference"] < 1e-4
    assert answer["test"]["accuracy"] == pytest.approx(answer["test_of_the_run"]["accuracy"])
    plain = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    theirs = [plain(text)[0] for text in TEXTS]
    ours = api.predict(tmp_path / "out", TEXTS)["predictions"]
    assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
    assert {entry["label"] for entry in ours} == {"negative", "positive"}
    assert [entry["confidence"] for entry in ours] == pytest.approx([entry["score"] for entry in theirs], abs=1e-4)


def test_the_adapter_loads_in_peft_and_gives_the_same(runs: Trained, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    api.export(runs.folder, "lora", tmp_path / "out")
    ours = api.predict(tmp_path / "out", TEXTS)["predictions"]
    base = AutoModelForSequenceClassification.from_pretrained(runs.backbone, num_labels=2)
    model = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    tokenizer = AutoTokenizer.from_pretrained(runs.backbone)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = model.config.eos_token_id
    for text, entry in zip(TEXTS, ours, strict=True):
        with torch.inference_mode():
            probability = model(**tokenizer(text, return_tensors="pt")).logits.softmax(1)
        assert float(probability.max()) == pytest.approx(entry["confidence"], abs=1e-4)


def test_packed_and_merged_exactly_it_scores_as_the_run_did(runs: Trained, tmp_path: Path) -> None:
    answer = api.export(runs.folder, "qa-lora", tmp_path / "out", packed=True, evaluate=True)
    assert answer["weights"] == "exact" and answer["merge_difference"] < 1e-4
    assert answer["test"]["accuracy"] == pytest.approx(answer["test_of_the_run"]["accuracy"])


def test_groups_that_onnxruntime_has_no_product_for_are_refused(runs: Trained, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    with pytest.raises(OptionError, match="groups of 8 inputs"):
        api.export(runs.folder, "qa-lora", tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()


def test_files_of_texts_are_labelled(runs: Trained, tmp_path: Path) -> None:
    api.export(runs.folder, "lora", tmp_path / "out")
    one_by_one = [entry["label"] for entry in api.predict(tmp_path / "out", TEXTS)["predictions"]]
    (tmp_path / "t.txt").write_text("\n".join(TEXTS) + "\n\n")
    write_tsv(tmp_path / "t.tsv", [(text, 0) for text in TEXTS])
    (tmp_path / "t.json").write_text(json.dumps([{"sentence": text} for text in TEXTS]))
    for name in ("t.txt", "t.tsv", "t.json"):
        found = api.predict(tmp_path / "out", [str(tmp_path / name)])["predictions"]
        assert [entry["label"] for entry in found] == one_by_one
    assert found[1]["text"] == "t.json row 2"
    (tmp_path / "gaps.txt").write_text("fine\n\n" + "film " * 60 + "\n")
    answer = api.predict(tmp_path / "out", [str(tmp_path / "gaps.txt")])
    assert [entry["text"] for entry in answer["predictions"]] == ["gaps.txt line 1", "gaps.txt line 3"]
    assert answer["cut"] == ["gaps.txt line 3"]  # the model has 48 positions
    (tmp_path / "u.csv").write_text("review\nfine\n")
    with pytest.raises(DataError, match="no column 'sentence'"):
        api.predict(tmp_path / "out", [str(tmp_path / "u.csv")])
    (tmp_path / "n.json").write_text('[{"sentence": "fine"}, {"sentence": null}]')
    with pytest.raises(DataError, match=r"n.json row 2.*null in place of a text"):
        api.predict(tmp_path / "out", [str(tmp_path / "n.json")])
    for given, what in ((str(tmp_path), "a folder is no input"), (" ", "an empty text"), ("gone.txt", "no such file")):
        with pytest.raises(DataError, match=what):
            api.predict(tmp_path / "out", [given])


def test_line_ends_of_windows_are_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_bytes("one\r\ntwo\r\n\r\nthree\x85four".encode())
    found = texts_of([str(tmp_path / "w.txt")], ("text",), needed=1)
    assert found == (["w.txt line 1", "w.txt line 2", "w.txt line 4"], [("one",), ("two",), ("three\x85four",)])
    for ends in ("\n", "\r\n"):  # tables of one column, in every form
        (tmp_path / "w.csv").write_bytes(f"text{ends}one{ends}two{ends}".encode())
        (tmp_path / "w.tsv").write_bytes(f"text{ends}one{ends}two{ends}".encode())
        (tmp_path / "w.jsonl").write_bytes(f'{{"text": "one"}}{ends}{{"text": "two"}}{ends}'.encode())
        for name in ("w.csv", "w.tsv", "w.jsonl"):
            assert texts_of([str(tmp_path / name)], ("text",), needed=1)[1] == [("one",), ("two",)]
