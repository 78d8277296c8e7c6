"""A causal model from instruction tuning to a plain transformers pipeline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from peftlab import api
from peftlab.errors import DataError, OptionError
from tests.api.conftest import Trained, train
from tests.tasks.texts import instructions, make_gpt2, make_llama

TEMPLATE = "{instruction} : {input} ."
ARMS: dict[str, Any] = {
    "full": {"adapter": "full", "learning_rate": 0.01},
    "lora": {"adapter": {"name": "lora", "rank": 4, "targets": "all-linear"}},
    "bitfit": {"adapter": "bitfit"},
    "qlora": {
        "adapter": {"name": "lora", "rank": 2},
        "quantizer": {"name": "groupwise", "type": "nf4", "group_size": 8},
    },
    "qa-lora": {
        "adapter": {"name": "pooled", "rank": 2, "targets": "all-linear"},
        "quantizer": {"name": "groupwise", "type": "int4", "group_size": 8},
    },
}
PROMPTS = [row["instruction"] for row in instructions(6, seed=9)]


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    root = tmp_path_factory.mktemp(request.param)
    backbone = {"gpt2": make_gpt2, "llama": make_llama}[request.param](root / "model")
    data = root / "instructions.json"
    data.write_text(json.dumps(instructions(240)), encoding="utf-8")
    arms = ARMS if request.param == "gpt2" else {name: ARMS[name] for name in ("full", "lora", "qa-lora")}
    study = {
        "study": "answers",
        "question": "Does it work on next tokens?",
        "backbone": str(backbone),
        "task": {"kind": "instruction-tuning", "data": {"name": "alpaca", "path": str(data)}, "template": TEMPLATE},
        "seeds": [0],
        "train": {"epochs": 5, "batch_size": 16, "learning_rate": 0.02},
        "arms": arms,
        "analysis": {"metric": "perplexity", "baseline": "full", "margin": {"relative": 0.1}},
    }
    return Trained(train(study, root / "results", cache), backbone)


def test_it_learns_and_reports_what_the_task_promises(runs: Trained) -> None:
    results = runs.run("full").results()
    assert results is not None and results.status == "completed"
    test = results.metrics["test"]
    assert set(test) == {"perplexity", "loss", "token_accuracy", "exact_match"}
    assert test["perplexity"] == pytest.approx(math.exp(test["loss"] or 0))
    assert test["token_accuracy"] > 0.6 and test["perplexity"] < 4  # pyright: ignore[reportOptionalOperand]
    assert results.higher_is_better["perplexity"] is False and results.chance == {}


def test_merged_it_is_a_pipeline_of_transformers(runs: Trained, tmp_path: Path) -> None:
    from transformers import pipeline

    answer = api.export(runs.folder, "lora", tmp_path / "out", merged=True, evaluate=True)
    assert answer["merge_difference"] < 1e-4
    assert answer["test"]["perplexity"] == pytest.approx(answer["test_of_the_run"]["perplexity"], rel=1e-4)
    assert "id2label" not in json.loads((tmp_path / "out" / "config.json").read_text())
    plain = pipeline("text-generation", model=str(tmp_path / "out"), device="cpu")
    ours = api.predict(tmp_path / "out", PROMPTS)["predictions"]
    for prompt, entry in zip(PROMPTS, ours, strict=True):
        asked = TEMPLATE.replace("{instruction}", prompt).replace("{input}", "")
        options = {"do_sample": False, "max_new_tokens": entry["tokens"], "return_full_text": False}
        theirs: Any = plain(asked, **options)
        assert theirs[0]["generated_text"].split() == entry["continuation"].split()


def test_the_adapter_loads_in_peft_and_gives_the_same(runs: Trained, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    api.export(runs.folder, "lora", tmp_path / "out")
    ours = api.predict(tmp_path / "out", PROMPTS)["predictions"]
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(runs.backbone), str(tmp_path / "out")).eval()
    tokenizer = AutoTokenizer.from_pretrained(runs.backbone)
    for prompt, entry in zip(PROMPTS, ours, strict=True):
        ids = tokenizer(TEMPLATE.replace("{instruction}", prompt).replace("{input}", ""), return_tensors="pt")
        with torch.inference_mode():
            theirs = model.generate(**ids, do_sample=False, max_new_tokens=entry["tokens"])[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(theirs, skip_special_tokens=True) == entry["continuation"]


def test_exact_match_is_the_share_of_responses_that_prediction_gives(runs: Trained, tmp_path: Path) -> None:
    import numpy as np

    from peftlab.registry import create

    api.export(runs.folder, "full", tmp_path / "out")
    run = runs.run("full")
    config, results = run.config(), run.results()
    assert results is not None
    rows = json.loads(Path(config.task["data"]["path"]).read_text())
    task: Any = create("task", config.task, key="kind")
    test = task._splitter(task._read()).splits(0).test
    (tmp_path / "test.json").write_text(json.dumps([rows[i] for i in test]))
    answers = api.predict(tmp_path / "out", [str(tmp_path / "test.json")])["predictions"]
    right = [entry["ended"] and entry["continuation"] == rows[i]["output"] for i, entry in zip(test, answers, strict=True)]
    assert results.metrics["test"]["exact_match"] == pytest.approx(np.mean(right))
    assert 0 < np.mean(right) < 1


def test_packed_it_scores_as_the_run_did(runs: Trained, tmp_path: Path) -> None:
    answer = api.export(runs.folder, "qa-lora", tmp_path / "out", packed=True, evaluate=True)
    assert answer["weights"] == "exact" and answer["merge_difference"] < 1e-4
    assert answer["test"]["perplexity"] == pytest.approx(answer["test_of_the_run"]["perplexity"], rel=1e-3)
    api.export(runs.folder, "qa-lora", tmp_path / "adapter")
    packed, adapted = (api.predict(tmp_path / name, PROMPTS)["predictions"] for name in ("out", "adapter"))
    assert packed == adapted


def test_prompts_come_from_files_too(runs: Trained, tmp_path: Path) -> None:
    api.export(runs.folder, "lora", tmp_path / "out")
    one_by_one = [entry["continuation"] for entry in api.predict(tmp_path / "out", PROMPTS)["predictions"]]
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS) + "\n")
    (tmp_path / "p.json").write_text(json.dumps([{"instruction": prompt, "input": ""} for prompt in PROMPTS]))
    (tmp_path / "q.json").write_text(json.dumps([{"instruction": prompt} for prompt in PROMPTS]))
    for name in ("p.txt", "p.json", "q.json"):
        found = api.predict(tmp_path / "out", [str(tmp_path / name)])["predictions"]
        assert [entry["continuation"] for entry in found] == one_by_one
    (tmp_path / "u.csv").write_text("ask\nfine\n")
    with pytest.raises(DataError, match="no column 'instruction'"):
        api.predict(tmp_path / "out", [str(tmp_path / "u.csv")])


def test_a_prompt_that_is_too_long_loses_its_beginning(runs: Trained, tmp_path: Path) -> None:
    api.export(runs.folder, "lora", tmp_path / "out")
    answer = api.predict(tmp_path / "out", ["film " * 100 + "good"])
    assert len(answer["cut"]) == 1 and answer["predictions"][0]["tokens"] <= 24


def test_no_onnx_file_writes_texts(runs: Trained, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    with pytest.raises(OptionError, match="one token after the other") as caught:
        api.export(runs.folder, "lora", tmp_path / "out", onnx=True)
    assert "--merged" in caught.value.remedy and not (tmp_path / "out").exists()
