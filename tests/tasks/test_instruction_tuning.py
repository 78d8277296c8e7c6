"""Instruction tuning on small instructions written here: prompts, tokens, what is cut, splits, what is said about the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab import registry
from peftlab.backbones.resolve import source_of
from peftlab.errors import BackboneError, DataError, OptionError
from peftlab.tasks._causal import text_ends
from peftlab.tasks._prompts import WITH_INPUT, WITHOUT_INPUT, Template, fitted, tokenize_prompts
from peftlab.tasks._tokens import load_tokenizer
from peftlab.tasks.contract import TextPreprocessing
from peftlab.tasks.instruction_tuning import InstructionTuning
from peftlab.tasks.text.dolly import Dolly
from tests.tasks.samples import Sample
from tests.tasks.texts import instructions, shared_bert, shared_dolly, shared_gpt2, shared_instructions, shared_llama

PLAIN = "{instruction} : {input} ."


def gpt2() -> TextPreprocessing:
    return source_of(str(shared_gpt2())).text_preprocessing(str(shared_gpt2()), "causal-lm")


def llama() -> TextPreprocessing:
    return source_of(str(shared_llama())).text_preprocessing(str(shared_llama()), "causal-lm")


def random_logits(prepared, batch, generator):
    return torch.randn(40, 40, generator=generator)[batch["labels"]]


def spec(**options: Any) -> dict[str, Any]:
    data = {"name": "alpaca", "path": str(shared_instructions())}
    return {"kind": "instruction-tuning", "data": data, "template": PLAIN, **options}


SAMPLES = [
    Sample(spec=spec(), preprocessing=gpt2(), outputs=random_logits),  # pyright: ignore[reportArgumentType]
    Sample(
        spec=spec(packing=False, bucketing=True, folds=3, max_length=12),
        preprocessing=llama(),  # pyright: ignore[reportArgumentType]
        outputs=random_logits,
    ),
    Sample(
        spec=spec(data={"name": "dolly", "path": str(shared_dolly())}, train_size=20, test_size=10),
        preprocessing=llama(),  # pyright: ignore[reportArgumentType]
        outputs=random_logits,
    ),
]


def prepared(tmp_path: Path, preprocessing: TextPreprocessing | None = None, **options: Any):
    return registry.create("task", spec(**options), key="kind").prepare(preprocessing or gpt2(), tmp_path)


def rows_of(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def test_prompts_are_alpacas_where_no_template_is_given() -> None:
    template = Template.of(None, None)
    assert template.prompt("Do {this}", "a {input} of it") == WITH_INPUT.replace("{input}", "a {input} of it").replace(
        "{instruction}", "Do {this}"
    )
    assert template.prompt("Do it", " \n") == WITHOUT_INPUT.replace("{instruction}", "Do it")
    assert WITHOUT_INPUT.endswith("### Instruction:\n{instruction}\n\n### Response:")


def test_own_templates() -> None:
    assert Template.of("Q {instruction} {input}", None).prompt("a", "b") == "Q a b"
    assert Template.of("Q {instruction} {input}", "Q {instruction}").prompt("a") == "Q a"
    for wrong, words in (("no place", "no {instruction}"), ("{instructions}", "nothing to put in place of {instructions}")):
        with pytest.raises(OptionError, match=words):
            InstructionTuning(data="alpaca", template=wrong)


@pytest.mark.parametrize("preprocessing", [gpt2, llama])
def test_only_the_response_and_its_end_are_predicted(tmp_path: Path, preprocessing: Any) -> None:
    ready = prepared(tmp_path, preprocessing(), packing=False)
    name = preprocessing().tokenizer
    tokenizer, (start, end) = load_tokenizer(name), text_ends(name)
    rows = json.loads(shared_instructions().read_text())
    chosen = ready.splits(0).train[:12]
    batch = ready.batch(chosen)
    for row, index in enumerate(chosen):
        instruction, input_, response = (rows[index][name] for name in ("instruction", "input", "output"))
        prompt = [*start, *tokenizer(f"{instruction} : {input_} .", add_special_tokens=False)["input_ids"]]
        answer = [*tokenizer(response, add_special_tokens=False)["input_ids"], end]
        length = int(batch["attention_mask"][row].sum() // (row + 1))
        assert batch["input_ids"][row, :length].tolist() == [*prompt, *answer]
        width = batch["input_ids"].shape[1]
        mine = batch["places"] // width == row
        assert batch["labels"][mine].tolist() == answer
        assert (batch["places"][mine] % width).tolist() == list(range(len(prompt) - 1, length - 1))
    assert ready.weight(chosen) == len(batch["labels"])


def test_a_prompt_is_the_same_with_and_without_its_response(tmp_path: Path) -> None:
    ready = prepared(tmp_path, llama(), packing=False)
    rows = json.loads(shared_instructions().read_text())
    chosen = ready.splits(0).test[:8]
    prompts = tokenize_prompts([ready.task.prompt([rows[i]["instruction"], rows[i]["input"]]) for i in chosen], llama())
    batch = ready.batch(chosen)
    for row, prompt in enumerate(prompts):
        assert batch["input_ids"][row, : len(prompt)].tolist() == prompt


@given(st.integers(0, 1), st.integers(1, 60), st.integers(1, 60), st.integers(8, 64))
def test_what_is_cut(start: int, prompt: int, response: int, longest: int) -> None:
    kept, given_ = fitted(start, prompt, response, longest)
    assert 0 <= kept <= prompt and 1 <= given_ <= response
    assert start + kept + given_ <= longest and start + kept >= 1
    if start + prompt + response <= longest:
        assert (kept, given_) == (prompt, response)
    else:
        assert start + kept + given_ == longest
        assert given_ == response or given_ >= longest // 2  # a response is not cut for more than half a prompt


def test_cut_examples_are_counted(tmp_path: Path) -> None:
    ready = prepared(tmp_path, max_length=8)
    assert any("are longer than 8 tokens and were cut" in warning for warning in ready.info.warnings)
    lengths = ready.documents.lengths
    assert lengths.max() == 8 and (ready.documents.predicted >= 1).all()
    assert not any("cut" in warning for warning in prepared(tmp_path).info.warnings)


def test_empty_responses_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"instruction": f"film {i}", "response": ["fine", " ", "good", None][i % 4]} for i in range(40)]
    task = InstructionTuning(data=rows_of(tmp_path, rows), train_size=12)
    info = task.info()
    assert info.sizes["train"] == 12 and "20 responses are empty and were left out" in info.notes
    splits = task.prepare(gpt2(), tmp_path).splits(0)
    assert all(rows[i]["response"] in ("fine", "good") for name in ("train", "validation", "test") for i in splits[name])
    with pytest.raises(DataError, match=r"\.json response: all 10 responses are empty"):
        InstructionTuning(data=rows_of(tmp_path, [{"instruction": "a", "response": ""}] * 10)).info()


def test_columns_that_are_not_named_or_not_there(tmp_path: Path) -> None:
    rows = [{"ask": f"film {i}", "say": "good", "more": "plot", "id": i} for i in range(40)]
    data = rows_of(tmp_path, rows)
    with pytest.raises(DataError, match=r"which column is the instruction\? There are 'ask', 'say', 'more', 'id'"):
        InstructionTuning(data=data).info()
    with pytest.raises(DataError, match="which column is the response"):
        InstructionTuning(data=data, instruction="ask").info()
    with pytest.raises(DataError, match="no column 'sai'"):
        InstructionTuning(data=data, instruction="ask", response="sai").info()
    with pytest.raises(DataError, match="a number in place of a text"):
        InstructionTuning(data=data, instruction="ask", response="id").info()
    task = InstructionTuning(data=data, instruction="ask", response="say", input="more")
    assert task.columns() == ["ask", "more"]
    assert "columns that are not used: id" in task.info().notes
    with pytest.raises(OptionError, match=r"no \{input\}, and 40 examples have one"):
        InstructionTuning(data=data, instruction="ask", response="say", input="more", template="{instruction}").info()


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes('[{"instruction": "caf\xe9", "response": "x"}]'.encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        InstructionTuning(data=str(tmp_path / "latin.json")).info()
    (tmp_path / "odd.jsonl").write_text('{"instruction": "a", "response": "b"}\n{"instruction": "a"}\n')
    with pytest.raises(DataError, match="other fields than the first row: response") as raised:
        InstructionTuning(data=str(tmp_path / "odd.jsonl")).info()
    assert "line 2" in str(raised.value)


def test_dolly_has_columns_of_its_own(tmp_path: Path) -> None:
    task = registry.create("task", spec(data={"name": "dolly", "path": str(shared_dolly())}), key="kind")
    assert task.columns() == ["instruction", "context"]
    assert "columns that are not used: category" in task.info().notes
    assert Dolly.hub == "databricks/databricks-dolly-15k"


def test_folds_cover_all_and_share_nothing(tmp_path: Path) -> None:
    ready = prepared(tmp_path, folds=5)
    tests = [ready.splits(0, fold).test for fold in range(5)]
    assert sorted(np.concatenate(tests).tolist()) == list(range(len(instructions())))
    sizes = {len(part) for part in tests}
    assert max(sizes) - min(sizes) <= 1


def test_copies_in_test_are_said(tmp_path: Path) -> None:
    rows = [{"instruction": "the film", "response": "good"}] * 40
    ready = InstructionTuning(data=rows_of(tmp_path, rows)).prepare(gpt2(), tmp_path)
    assert any("8 of 8 test examples are also in train" in warning for warning in ready.info.warnings)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="100 tokens, but the model has 48 positions"):
        prepared(tmp_path, max_length=100)
    with pytest.raises(OptionError, match="4 tokens"):
        InstructionTuning(data="alpaca", max_length=4)
    source = source_of(str(shared_bert()))
    with pytest.raises(BackboneError, match="does not predict the next token"):
        source.text_preprocessing(str(shared_bert()), InstructionTuning.head)


def test_the_plan_knows_the_longest_batch(tmp_path: Path) -> None:
    task = registry.create("task", spec(), key="kind")
    ready = task.prepare(gpt2(), tmp_path)
    used = np.concatenate([ready.splits(0)[name] for name in ("train", "validation", "test")])
    shapes = task.batch_shapes(4, gpt2(), task.info())
    whole = ready.batch(np.sort(used))
    assert shapes["input_ids"][0] == (4, whole["input_ids"].shape[1])
    assert shapes["labels"][0] == shapes["places"][0] == (4 * int(ready.documents.predicted.max()),)
