"""A model that answers questions, from training to plain transformers and PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peftlab import api
from peftlab.errors import DataError
from tests.api.conftest import Trained, train
from tests.tasks.squad import articles, write_squad
from tests.tasks.texts import make_bert


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    root = tmp_path_factory.mktemp("questions")
    backbone = make_bert(root / "model")
    study: dict[str, Any] = {
        "study": "questions",
        "question": "Does it find answers?",
        "backbone": str(backbone),
        "task": {
            "kind": "question-answering",
            "data": {"name": "squad_v2", "path": str(write_squad(root / "squad", 120, 40, longest=1))},
            "max_length": 24,
        },
        "seeds": [0],
        "train": {"epochs": 8, "batch_size": 16, "learning_rate": 0.01, "select": "best"},
        "arms": {
            "full": {"adapter": "full", "learning_rate": 0.003},
            "lora": {"adapter": {"name": "lora", "rank": 4, "targets": "all-linear"}},
        },
        "analysis": {"metric": "f1", "baseline": "lora", "margin": {"absolute": 0.05}},
    }
    return Trained(train(study, root / "results", cache), backbone)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of another seed, in SQuAD's layout."""
    path = tmp_path_factory.mktemp("asked") / "new.json"
    path.write_text(json.dumps({"version": "v2.0", "data": articles(6, 9, longest=4)}))
    return path


def test_it_learns_and_test_is_given_the_threshold_of_validation(runs: Trained) -> None:
    run = runs.run("full")
    results = run.results()
    assert results is not None and results.status == "completed"
    metrics = results.metrics["test"]
    assert metrics["has_answer_f1"] > 0.5 and metrics["f1"] > results.majority["f1"] + 0.2  # pyright: ignore
    evaluation = run.read_json("evaluation.json") or {}
    assert evaluation["thresholds"] == results.thresholds and set(results.thresholds) == {"no_answer"}
    assert evaluation["not_finite"] == 0 and len(evaluation["answers"]) == results.splits["test"]
    items = np.load(run.path / "predictions.npz")
    assert items["f1"].mean() == pytest.approx(metrics["f1"])
    given = np.isin(items["prediction"], 1)
    assert np.array_equal(given, items["score_difference"] <= results.thresholds["no_answer"])


def test_merged_it_is_what_transformers_opens_and_answers_the_same(runs: Trained, asked: Path, tmp_path: Path) -> None:
    """A decoder written here, over every window that transformers makes: best span of the context with at most 30 tokens."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    answer = api.export(runs.folder, "lora", tmp_path / "out", merged=True, evaluate=True)
    assert answer["merge_difference"] < 1e-4
    assert answer["test"]["f1"] == pytest.approx(answer["test_of_the_run"]["f1"])
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = api.predict(tmp_path / "out", [asked])
    (threshold,) = ours["thresholds"].values()
    texts = [(q["question"], p["context"]) for a in articles(6, 9, longest=4) for p in a["paragraphs"] for q in p["qas"]]
    assert len(ours["predictions"]) == len(texts)
    for (question, context), entry in zip(texts, ours["predictions"], strict=True):
        found = tokenizer(
            question, context, truncation="only_second", max_length=24, stride=8, return_overflowing_tokens=True,
            return_offsets_mapping=True, padding=True, return_tensors="pt",
        )  # fmt: skip
        names = ("input_ids", "attention_mask", "token_type_ids")
        with torch.inference_mode():
            outputs = model(**{name: found[name] for name in names})
        best, null = (-np.inf, ""), np.inf
        for row in range(len(found["input_ids"])):
            start, end = outputs.start_logits[row].double().numpy(), outputs.end_logits[row].double().numpy()
            null = min(null, start[0] + end[0])
            inside = [i for i, part in enumerate(found.sequence_ids(row)) if part == 1]
            for i in inside:
                for j in [j for j in inside if i <= j < i + 30]:
                    text = context[found["offset_mapping"][row][i][0] : found["offset_mapping"][row][j][1]]
                    best = max(best, (start[i] + end[j], text), key=lambda pair: pair[0])
        if len(found["input_ids"]) == 1:
            assert entry["score_difference"] == pytest.approx(null - best[0], abs=1e-3)
            assert entry["answer"] == ("" if null - best[0] > threshold else best[1])
        else:  # of two windows only that with more around a word may start an answer with it
            assert entry["score_difference"] >= null - best[0] - 1e-3
        if entry["answer"]:
            assert context[entry["begin"] : entry["end"]] == entry["answer"]
        assert 0 < entry["score"] <= 1 and sum(other["score"] for other in entry["top"]) <= 1 + 1e-9
    assert len({entry["answer"] for entry in ours["predictions"]}) > 3


def test_the_adapter_loads_in_peft_and_points_at_the_same(runs: Trained, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    api.export(runs.folder, "lora", tmp_path / "out")
    api.export(runs.folder, "lora", tmp_path / "merged", merged=True)
    base = AutoModelForQuestionAnswering.from_pretrained(runs.backbone)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    merged = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "merged").eval()
    inputs = AutoTokenizer.from_pretrained(runs.backbone)("the film is", "the film is very warm .", return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(adapted(**inputs).start_logits, merged(**inputs).start_logits, rtol=1e-3, atol=1e-3)


def test_questions_come_in_tables_too_and_what_is_none_is_refused(runs: Trained, tmp_path: Path) -> None:
    api.export(runs.folder, "full", tmp_path / "out")
    rows = [("the film is", "the film is warm ."), ("the plot is", "the film is warm . the plot is very dull .")]
    (tmp_path / "q.tsv").write_text("question\tcontext\n" + "".join(f"{q}\t{c}\n" for q, c in rows))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"context": c, "question": q}) + "\n" for q, c in rows))
    first, second = (api.predict(tmp_path / "out", [tmp_path / name])["predictions"] for name in ("q.tsv", "q.jsonl"))
    assert [entry["answer"] for entry in first] == [entry["answer"] for entry in second]
    assert [entry["where"] for entry in first] == ["q.tsv line 2", "q.tsv line 3"]
    (tmp_path / "u.csv").write_text("question,text\nwhy,because\n")
    (tmp_path / "e.csv").write_text("question,context\nwhy,\n")
    wrong = {"u.csv": "no column 'context'", "e.csv": "is empty", "gone.csv": "no such file", ".": "a folder is no input"}
    for given, what in wrong.items():
        with pytest.raises(DataError, match=what):
            api.predict(tmp_path / "out", [tmp_path / given])


@pytest.mark.slow
def test_as_an_onnx_file_it_answers_the_same(runs: Trained, asked: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    api.export(runs.folder, "lora", tmp_path / "adapter")
    answer = api.export(runs.folder, "lora", tmp_path / "onnx", onnx=True, evaluate=True)
    assert answer["test"]["f1"] == pytest.approx(answer["test_of_the_run"]["f1"])
    ours, theirs = (api.predict(tmp_path / form, [asked])["predictions"] for form in ("adapter", "onnx"))
    assert [entry["answer"] for entry in theirs] == [entry["answer"] for entry in ours]
    assert [entry["score"] for entry in theirs] == pytest.approx([entry["score"] for entry in ours], abs=1e-4)
