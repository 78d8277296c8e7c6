"""Models of texts as ONNX files: of any number of rows and tokens, and what was trained, without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peftlab import api
from tests.api.conftest import Trained, train
from tests.tasks.texts import make_bert, make_gpt2, sentences, shared_minilm, text_data, write_sst2, write_tsv

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

pytestmark = pytest.mark.usefixtures("in_cache")
DOCS = Path(__file__).parents[2] / "docs" / "deployment.md"
POOLED = {"name": "pooled", "rank": 2, "targets": "all-linear"}
KINDS = ("int4", "int8", "nf4", "fp4")
#: operators of the packed layers; BERT's pooler and head are no layers of a block, and stay in float
OPERATORS = {"int4": "MatMulNBits", "int8": "MatMulNBits", "nf4": "MatMulBnb4", "fp4": "MatMulBnb4"}
LONG = " ".join(text for text, _ in sentences(8, seed=4))  # more tokens than the model has positions


def groupwise(kind: str, group_size: int = 16) -> dict[str, Any]:
    return {"name": "groupwise", "type": kind, "group_size": group_size}


def study_of(backbone: Path, data: dict[str, Any], arms: dict[str, Any], steps: int) -> dict[str, Any]:
    return {
        "study": "texts",
        "question": "Is the file what was trained?",
        "backbone": str(backbone),
        "task": {"kind": "text-classification", **data},
        "seeds": [0],
        "train": {"epochs": 8, "max_steps": steps, "batch_size": 16, "learning_rate": 0.01},
        "arms": arms,
        "analysis": {"baseline": next(iter(arms))},
    }


ARMS: dict[str, Any] = {
    **{f"qa-{kind}": {"adapter": POOLED, "quantizer": groupwise(kind)} for kind in KINDS},
    "float": {"adapter": {"name": "lora", "rank": 4, "targets": "all-linear"}},
}


@pytest.fixture
def runs(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> Trained:
    """The arm that the test is about."""
    label = request.node.callspec.params["label"]
    data = {"data": {"name": "sst2", "path": str(write_sst2(tmp_path / "sst2", 400, 100))}}
    backbone = make_bert(tmp_path / "model")
    study = study_of(backbone, data, {label: ARMS[label]}, 100)
    return Trained(train(study, tmp_path / "results", cache), backbone)


def documented(folder: Path, texts: list[str]) -> list[tuple[str, float]]:
    """(label, share) of every text by the program of docs/deployment.md, in a process without torch."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    program = next(block for block in blocks if "from tokenizers" in block)
    program += '\nassert not {"torch", "transformers", "peftlab"} & set(sys.modules)\n'
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "model.onnx"), *texts],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return [(label, float(share)) for _, label, share in (line.rsplit(" ", 2) for line in done.stdout.splitlines())]


def right(found: list[tuple[str, float]], labels: list[str]) -> float:
    return sum(label == wanted for (label, _), wanted in zip(found, labels, strict=True)) / len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("label", ARMS)
def test_the_file_scores_as_the_run_did_with_onnxruntime_alone(runs: Trained, label: str, tmp_path: Path) -> None:
    answer = api.export(runs.folder, label, tmp_path / "out", onnx=True, evaluate=True)
    results = runs.run(label).results()
    assert results is not None
    assert answer["weights"] == ("float" if label == "float" else "exact") and 0 < answer["engine_difference"] <= 1e-5
    assert answer["test"]["accuracy"] == results.metrics["test"]["accuracy"]
    assert answer["test"]["loss"] == pytest.approx(results.metrics["test"]["loss"], rel=1e-4)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    shapes = {entry.name: [axis.dim_param for axis in entry.type.tensor_type.shape.dim] for entry in graph.input}
    assert shapes == {name: ["batch", "tokens"] for name in ("input_ids", "attention_mask", "token_type_ids")}
    operators = [node.op_type for node in graph.node]
    assert label == "float" or operators.count(OPERATORS[label.removeprefix("qa-")]) == 12  # six of each of two blocks
    assert str(runs.backbone).encode() not in (tmp_path / "out" / "model.onnx").read_bytes()
    texts = [text for text, _ in sentences(40, seed=9)] + [LONG, "fine"]
    found = documented(tmp_path / "out", texts)
    api.export(runs.folder, label, tmp_path / "adapter")
    ours = api.predict(tmp_path / "adapter", texts)["predictions"]
    assert [label for label, _ in found] == [entry["label"] for entry in ours]
    assert [share for _, share in found] == pytest.approx([entry["confidence"] for entry in ours], abs=1e-4)


def test_it_needs_neither_the_backbone_nor_its_tokenizer(tmp_path: Path, cache: Path) -> None:
    """Pairs, whose second text has a type of its own, on 8-bit inputs that change little."""
    rows = [(text, other, label) for (text, label), (other, _) in zip(sentences(60), sentences(60, 1), strict=True)]
    write_tsv(tmp_path / "pairs" / "train.tsv", rows[:40], "sentence1\tsentence2\tlabel")
    write_tsv(tmp_path / "pairs" / "test.tsv", rows[40:], "sentence1\tsentence2\tlabel")
    backbone = make_bert(tmp_path / "model")
    study = study_of(
        backbone, {"data": str(tmp_path / "pairs")}, {"qa-lora": {"adapter": POOLED, "quantizer": groupwise("int4")}}, 4
    )
    folder = train(study, tmp_path / "results", cache)
    asked = tmp_path / "asked.tsv"
    write_tsv(asked, rows[:6], "sentence1\tsentence2\tlabel")
    api.export(folder, "qa-lora", tmp_path / "adapter")
    wanted = api.predict(tmp_path / "adapter", [str(asked)])["predictions"]
    api.export(folder, "qa-lora", tmp_path / "out", onnx=True)
    api.export(folder, "qa-lora", tmp_path / "rounded", onnx=True, activations="int8")
    backbone.rename(tmp_path / "gone")
    found = api.predict(tmp_path / "out", [str(asked)])["predictions"]
    assert [entry["confidence"] for entry in found] == pytest.approx([entry["confidence"] for entry in wanted], abs=1e-5)
    rounded = api.predict(tmp_path / "rounded", [str(asked)])["predictions"]
    assert [entry["confidence"] for entry in rounded] == pytest.approx([entry["confidence"] for entry in wanted], abs=0.05)
    told = documented(tmp_path / "out", [f"{first}\t{second}" for first, second, _ in rows[:6]])
    assert [label for label, _ in told] == [entry["label"] for entry in wanted]


@pytest.mark.slow
def test_a_causal_model_that_labels_texts(tmp_path: Path, cache: Path) -> None:
    """GPT-2 finds the last token of each text by the padding, in the file as here."""
    data = {"data": {"name": "sst2", "path": str(write_sst2(tmp_path / "sst2", 100, 40))}}
    study = study_of(make_gpt2(tmp_path / "model"), data, {"qa-lora": {"adapter": POOLED, "quantizer": groupwise("nf4")}}, 20)
    folder = train(study, tmp_path / "results", cache)
    answer = api.export(folder, "qa-lora", tmp_path / "out", onnx=True, evaluate=True)
    assert answer["test"]["loss"] == pytest.approx(answer["test_of_the_run"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_minilm_in_4_bits_scores_the_same_on_real_sentences(tmp_path: Path, cache: Path) -> None:
    """QA-LoRA on SST-2: the whole test split in a process without torch; half its weights are embeddings, which stay in float."""
    data = {
        "data": {"name": "sst2", "path": str(text_data("sst2"))},
        "train_size": 800,
        "validation_size": 100,
    }
    adapter = {"name": "pooled", "rank": 8, "targets": "standard"}
    arms = {"qa-lora": {"adapter": adapter, "quantizer": groupwise("int4", 32)}}
    study = study_of(shared_minilm(), data, arms, 50)
    study["train"]["learning_rate"] = 3e-3
    folder = train(study, tmp_path / "results", cache)
    answer = api.export(folder, "qa-lora", tmp_path / "out", onnx=True)
    results = Trained(folder, shared_minilm()).run("qa-lora").results()
    assert results is not None
    accuracy = results.metrics["test"]["accuracy"]
    assert accuracy is not None and accuracy > 0.65  # majority: 0.51
    lines = (text_data("sst2") / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    found = documented(tmp_path / "out", [sentence for sentence, _ in rows])
    assert right(found, [("negative", "positive")[int(label)] for _, label in rows]) == pytest.approx(
        accuracy, abs=1.5 / len(rows)
    )
    dense = api.export(folder, "qa-lora", tmp_path / "dense", merged=True)
    assert answer["bytes"] < 0.7 * dense["bytes"]
