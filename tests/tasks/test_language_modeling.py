"""Language modelling on small texts written here: tokens, blocks, strided perplexity against a naive loop, bits per byte."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab import registry
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.errors import DataError, OptionError
from peftlab.tasks._stretches import Runs
from peftlab.tasks._tokens import load_tokenizer, tokenize, tokenizer_fingerprint
from peftlab.tasks.contract import PreparedTask, TextPreprocessing
from peftlab.tasks.language_modeling import LanguageModeling, PreparedLanguage, _bytes
from peftlab.training.evaluation import evaluate
from tests.tasks.samples import Sample
from tests.tasks.texts import OTHER, WORDS, shared_gpt2, shared_llama, shared_stories, shelf, text_data, write_tsv

CPU = torch.device("cpu")


def words(count: int, seed: int = 0) -> str:
    """Running text: of two words the second often follows from the first."""
    draws, found = random.Random(seed), ["the"]
    while len(found) < count:
        found.append(WORDS[(WORDS.index(found[-1]) + 1) % len(WORDS)] if draws.random() < 0.6 else draws.choice(OTHER))
    return " ".join(found)


@functools.cache
def book() -> Path:
    path = shelf() / "book.txt"
    path.write_text(words(1203), encoding="utf-8")
    return path


@functools.cache
def library() -> Path:
    folder = shelf() / "library"
    folder.mkdir()
    for seed, (split, count) in enumerate({"train": 700, "valid": 150, "test": 230}.items()):
        text = words(count, seed)
        (folder / f"{split}.txt").write_text(text[: len(text) // 2] + "<|endoftext|>" + text[len(text) // 2 :], encoding="utf-8")
    return folder


def known(folder: Path) -> TextPreprocessing:
    return source_of(str(folder)).text_preprocessing(str(folder), "causal-lm")


def random_logits(prepared: PreparedTask, batch: Any, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(len(WORDS) + 5, len(WORDS) + 5, generator=generator)[batch["labels"]]


def tokens(prepared: PreparedTask, indices: np.ndarray) -> np.ndarray:
    runs = Runs.decode(indices, prepared._cutter.context)  # pyright: ignore[reportAttributeAccessIssue]
    return np.unique(np.concatenate([np.arange(s, s + n) for s, n in zip(runs.starts, runs.lengths, strict=True)]))


def spec(data: Any, **options: Any) -> dict[str, Any]:
    return {"kind": "language-modeling", "data": str(data) if isinstance(data, Path) else data, **options}


SEPARATED = {"name": "text-files", "path": str(library()), "separator": "<|endoftext|>"}
SAMPLES = [
    Sample(
        spec=spec(book(), context=16, stride=6),
        preprocessing=known(shared_gpt2()),  # pyright: ignore[reportArgumentType]
        outputs=random_logits,
        units=tokens,
    ),
    Sample(
        spec=spec(SEPARATED, context=24, folds=3, packing=True),
        preprocessing=known(shared_llama()),  # pyright: ignore[reportArgumentType]
        outputs=random_logits,
        units=tokens,
    ),
    Sample(
        spec=spec(library(), join="none", train_size=9, bucketing=True),
        preprocessing=known(shared_gpt2()),  # pyright: ignore[reportArgumentType]
        outputs=random_logits,
        units=tokens,
    ),
]


def prepare(folder: Path, data: Any, cache: Path, **options: Any) -> PreparedLanguage:
    return registry.create("task", spec(data, **options), key="kind").prepare(known(folder), cache)


def load(folder: Path) -> Backbone:
    found = source_of(str(folder)).load(str(folder), outputs=0, head="causal-lm", seed=0)
    found.module.eval()
    return found


def measured(backbone: Backbone, task: PreparedTask, split: str = "test") -> dict[str, float]:
    indices = task.splits(0)[split]
    return evaluate(task, indices, lambda inputs: backbone.outputs(backbone.module, inputs), 4, CPU).compute()


def naive(model: Any, ids: torch.Tensor, context: int, stride: int) -> tuple[float, int]:
    """The loop of transformers' documentation, "Perplexity of fixed-length models": sum of losses, tokens scored."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        labels = ids[begin:end].clone()
        labels[: -(end - before)] = -100
        scored = int((labels[1:] != -100).sum())
        if scored:
            with torch.inference_mode():
                loss = model(input_ids=ids[None, begin:end], labels=labels[None]).loss
            total, count = total + float(loss) * scored, count + scored
        before = end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize("folder", [shared_gpt2, shared_llama])
@pytest.mark.parametrize(("context", "stride", "packing"), [(16, 5, False), (16, 8, True), (20, 20, False), (48, 7, False)])
def test_perplexity_is_that_of_a_naive_loop(folder: Any, context: int, stride: int, packing: bool, tmp_path: Path) -> None:
    path, options = folder(), {"context": context, "stride": stride, "packing": packing}
    task, backbone = prepare(path, book(), tmp_path, join="none", **options), load(path)
    held = tokens(task, task.splits(0).test)
    ids = torch.from_numpy(task.documents.ids[held].astype(np.int64))
    total, count = naive(backbone.module, ids, context, stride)
    found = measured(backbone, task)
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    if stride < context:
        assert count == len(held) - 1


def test_what_was_cut_before_in_this_process_does_not_cut_the_text(tmp_path: Path) -> None:
    """A tokenizer that was asked to cut a text at 5 tokens goes on cutting, unless it is told not to."""
    preprocessing = known(shared_gpt2())
    before = tokenizer_fingerprint(preprocessing.tokenizer)
    whole = prepare(shared_gpt2(), book(), tmp_path / "whole", context=16).documents.ids
    tokenize(["the " * 30], None, preprocessing, 5)
    assert tokenizer_fingerprint(preprocessing.tokenizer) == before
    tokenize(["the " * 30], None, preprocessing, 5)
    again = prepare(shared_gpt2(), book(), tmp_path / "again", context=16).documents.ids
    assert len(whole) > 1000 and np.array_equal(again, whole)


def test_bits_per_byte_count_the_text_that_was_scored(tmp_path: Path) -> None:
    task, backbone = prepare(shared_gpt2(), book(), tmp_path, context=16), load(shared_gpt2())
    text, tokenizer = book().read_text(), load_tokenizer(str(shared_gpt2()))
    scored = task.documents.ids[tokens(task, task.splits(0).test)[1:]]  # the first of a stretch is not
    assert scored[-1] == tokenizer.eos_token_id
    spelt = "".join(f" {tokenizer.decode([i])}" for i in scored[:-1])
    assert text.endswith(spelt)
    found = measured(backbone, task)
    assert found["bits_per_byte"] == pytest.approx(found["loss"] * len(scored) / math.log(2) / len(spelt.encode()), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_bytes_of_tokens_add_up_to_those_of_the_text(texts: list[str]) -> None:
    for folder in (shared_stories(), shared_gpt2()):
        tokenizer: Any = load_tokenizer(str(folder))
        for text in texts:
            stops = np.array([stop for _, stop in tokenizer.backend_tokenizer.encode(text).offsets], dtype=np.int64)
            sizes = _bytes(text, stops)
            assert (sizes >= 0).all() and len(sizes) == len(stops)
            assert sizes.sum() == (len(text.encode()) if len(stops) else 0)


def test_texts_are_joined_by_end_of_text_or_not_at_all(tmp_path: Path) -> None:
    data = str(write_tsv(tmp_path / "d.tsv", [(words(60, seed), seed) for seed in range(8)] + [("", 9)], "text\tnumber"))
    for folder, start in ((shared_gpt2(), []), (shared_llama(), [2])):
        tokenizer = load_tokenizer(str(folder))
        each = [tokenizer(words(60, seed), add_special_tokens=False)["input_ids"] for seed in range(8)]
        joined = prepare(folder, data, tmp_path, context=16)
        assert joined.documents.ids.tolist() == [i for ids in each for i in (*start, *ids, 3)]
        stream = prepare(folder, data, tmp_path, context=16, join="none")
        assert stream.documents.ids.tolist() == [
            *start,
            *tokenizer("".join(words(60, s) for s in range(8)))["input_ids"][len(start) :],
        ]
    assert any("not used: number" in note for note in joined.info.notes)


def test_blocks_are_the_text_and_labels_come_next(tmp_path: Path) -> None:
    task = prepare(shared_gpt2(), book(), tmp_path, context=16)
    train = task.splits(0).train
    batch = task.batch(train[:3])
    runs = Runs.decode(train[:3], 16)
    for row, start in enumerate(runs.starts):
        ids = task.documents.ids[start : start + 16]
        assert batch["input_ids"][row].tolist() == ids.tolist()
        assert batch["labels"][row * 15 : (row + 1) * 15].tolist() == ids[1:].tolist()
    assert task.weight(train[:3]) == 45
    assert set(task.inputs(batch)) == {"input_ids", "attention_mask", "places"}
    with pytest.raises(IndexError):
        task.batch(np.array([10**12]))


def test_the_plan_knows_sizes_and_shapes_without_weights(tmp_path: Path) -> None:
    task = LanguageModeling(data=str(book()), context=16, stride=4)
    info = task.info_for(lambda: known(shared_gpt2()), tmp_path)
    count = len(prepare(shared_gpt2(), book(), tmp_path, context=16, stride=4).documents.ids)
    test = round(0.2 * count)
    assert info.sizes["test"] == math.ceil((test - 16) / 4) + 1
    assert info.sizes["train"] == math.ceil((count - test) / 16) - round(0.1 * ((count - test) // 16))
    assert task.info().sizes == {}
    shapes = task.batch_shapes(4, known(shared_gpt2()), info)
    ready = task.prepare(known(shared_gpt2()), tmp_path)
    batch = ready.batch(ready.splits(0).train[:4])
    assert {name: tensor.shape for name, tensor in batch.items()} == {name: shape for name, (shape, _) in shapes.items()}


def test_a_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    task = LanguageModeling(data=str(book()), context=16)
    small = dataclasses.replace(known(shared_gpt2()), vocabulary=20)
    for _ in range(2):  # also when the tokens are in the cache
        with pytest.raises(DataError, match="outside the model's vocabulary of 20"):
            task.prepare(small, tmp_path)


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="9 is more than the context of 8 tokens"):
        LanguageModeling(data="a.txt", context=8, stride=9)
    with pytest.raises(OptionError, match="49 is more than the context of 48 tokens"):
        prepare(shared_gpt2(), book(), tmp_path, stride=49)
    with pytest.raises(OptionError, match="64 tokens, but the model has 48 positions"):
        prepare(shared_gpt2(), book(), tmp_path, context=64)
    for option in ("context", "stride"):
        with pytest.raises(OptionError, match="0 tokens"):
            LanguageModeling(data="a.txt", **{option: 0})
    short = tmp_path / "short.txt"
    short.write_text("the film was great .")
    with pytest.raises(OptionError, match="there are 0 in a row"):
        prepare(shared_gpt2(), short, tmp_path)
    two = str(write_tsv(tmp_path / "two.tsv", [("a", "b")], "title\tbody"))
    with pytest.raises(DataError, match=r"which column is the text\? There are 'title', 'body'"):
        LanguageModeling(data=two).info()
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(DataError, match="a number in place of a text") as raised:
        LanguageModeling(data=str(tmp_path / "d.jsonl")).info()
    assert "line 2" in str(raised.value)
    empty = str(write_tsv(tmp_path / "e.tsv", [("", 1)], "text\tnumber"))
    with pytest.raises(DataError, match=r"e\.tsv text: all texts of the train split are empty"):
        LanguageModeling(data=empty).info()


def test_stories_are_easier_for_the_storyteller_than_wikipedia(tmp_path: Path) -> None:
    backbone, found = load(shared_stories()), {}
    wikipedia = (text_data("wikitext2") / "valid.txt").read_text(encoding="utf-8")[:30_000]
    (tmp_path / "wikipedia.txt").write_text(wikipedia, encoding="utf-8")
    stories = {"name": "text-files", "path": str(text_data("tinystories") / "sample.txt"), "separator": "<|endoftext|>"}
    for name, data in (("stories", stories), ("wikipedia", tmp_path / "wikipedia.txt")):
        task = prepare(shared_stories(), data, tmp_path, context=128, stride=128, test_size=2)
        found[name] = measured(backbone, task)
    assert found["stories"]["perplexity"] < 10 < 100 < found["wikipedia"]["perplexity"]
    assert found["stories"]["bits_per_byte"] < 1 < 3 < found["wikipedia"]["bits_per_byte"]
