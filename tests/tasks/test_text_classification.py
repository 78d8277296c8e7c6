"""Text classification on small texts written here: columns, labels, tokens, batches, and what is said about the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from peftlab import registry
from peftlab.backbones.resolve import source_of
from peftlab.errors import BackboneError, DataError, OptionError
from peftlab.study.schema import Train
from peftlab.tasks._tokens import load_tokenizer
from peftlab.tasks.contract import TextPreprocessing
from peftlab.tasks.text_classification import TextClassification
from peftlab.training.schedule import Schedule
from tests.tasks.samples import Sample
from tests.tasks.texts import sentences, shared_bert, shared_gpt2, shared_sst2, write_tsv


def bert() -> TextPreprocessing:
    return source_of(str(shared_bert())).text_preprocessing(str(shared_bert()))


def gpt2() -> TextPreprocessing:
    return source_of(str(shared_gpt2())).text_preprocessing(str(shared_gpt2()))


def random_logits(prepared, batch, generator):
    return torch.randn(len(batch["labels"]), prepared.info.outputs, generator=generator)


def spec(**options: Any) -> dict[str, Any]:
    return {"kind": "text-classification", "data": {"name": "sst2", "path": str(shared_sst2())}, **options}


SAMPLES = [
    Sample(spec=spec(), preprocessing=bert(), outputs=random_logits),  # pyright: ignore[reportArgumentType]
    Sample(spec=spec(folds=3, bucketing=False, max_length=8), preprocessing=gpt2(), outputs=random_logits),  # pyright: ignore
    Sample(
        spec=spec(validation=0.2, train_size=100, test_size=50),
        preprocessing=bert(),  # pyright: ignore[reportArgumentType]
        outputs=random_logits,
    ),
]


def prepared(tmp_path: Path, **options: Any):
    return registry.create("task", spec(**options), key="kind").prepare(bert(), tmp_path)


def table(folder: Path, rows: list[tuple], header: str = "text\tlabel") -> str:
    return str(write_tsv(folder / "data.tsv", rows, header))


def test_batches_are_what_transformers_makes_of_the_texts(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    task = prepared(tmp_path)
    chosen = task.splits(0).train[:7]
    texts = [line.split("\t")[0] for line in (shared_sst2() / "train.tsv").read_text().splitlines()[1:]]
    wanted = AutoTokenizer.from_pretrained(shared_bert())([texts[i] for i in chosen], padding=True, return_tensors="pt")
    found = task.inputs(task.batch(chosen))
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_pairs_have_types_and_the_longer_text_is_cut(tmp_path: Path) -> None:
    rows = [("film " * 30, "plot", i % 2) for i in range(40)]
    data = table(tmp_path, rows, "sentence1\tsentence2\tlabel")
    task = TextClassification(data=data, max_length=10)
    assert task.columns() == ["sentence1", "sentence2"]
    ready = task.prepare(bert(), tmp_path)
    batch = ready.batch(ready.splits(0).train[:3])
    assert batch["input_ids"].shape == (3, 10)
    assert (batch["token_type_ids"].sum(1) == 2).all()  # the second text whole, and its [SEP]
    assert any("40 of 40 texts are longer than 10 tokens" in warning for warning in ready.info.warnings)


def test_a_model_without_padding_token_is_filled_with_its_end_of_text(tmp_path: Path) -> None:
    ready = registry.create("task", spec(), key="kind").prepare(gpt2(), tmp_path)
    batch = ready.batch(ready.splits(0).train[:6])
    assert "token_type_ids" not in batch
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 3).all()
    assert load_tokenizer(str(shared_gpt2())).pad_token is None


def test_logits_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Alone or beside a longer text: padding is masked, and a causal model reads its label off the last real token."""
    for folder, preprocessing in ((shared_bert(), bert()), (shared_gpt2(), gpt2())):
        ready = registry.create("task", spec(), key="kind").prepare(preprocessing, tmp_path)
        backbone = source_of(str(folder)).load(str(folder), outputs=2, head="sequence-classification", seed=0)
        backbone.module.eval()
        chosen = ready.splits(0).train[:8]
        with torch.inference_mode():
            together = backbone.outputs(backbone.module, ready.inputs(ready.batch(chosen)))
            alone = torch.cat([backbone.outputs(backbone.module, ready.inputs(ready.batch(chosen[i : i + 1]))) for i in range(8)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert together.std(0).min() > 1e-3  # the texts do differ


def test_lengths_are_those_of_the_tokens(tmp_path: Path) -> None:
    task = prepared(tmp_path)
    chosen = task.splits(0).train
    lengths = task.lengths(chosen)
    assert lengths is not None
    assert lengths.tolist() == [int(task.batch(chosen[i : i + 1])["attention_mask"].sum()) for i in range(len(chosen))]
    assert prepared(tmp_path, bucketing=False).lengths(chosen) is None


def test_the_plan_knows_the_longest_batch(tmp_path: Path) -> None:
    task = registry.create("task", spec(), key="kind")
    ready = task.prepare(bert(), tmp_path)
    used = np.concatenate([ready.splits(0)[name] for name in ("train", "validation", "test")])
    batch = ready.batch(np.sort(used))
    shapes = task.batch_shapes(4, bert(), task.info())
    assert {name: shape[1] for name, (shape, _) in shapes.items() if len(shape) == 2} == {
        name: tensor.shape[1] for name, tensor in batch.items() if tensor.ndim == 2
    }


@pytest.mark.parametrize("bucketing", [True, False])
def test_the_plan_knows_how_long_an_average_batch_is(tmp_path: Path, bucketing: bool) -> None:
    task = registry.create("task", spec(bucketing=bucketing), key="kind")
    ready = task.prepare(bert(), tmp_path)
    splits, size = ready.splits(0), 16
    schedule = Schedule.of(Train(epochs=4, batch_size=size), len(splits.train))
    lengths = ready.lengths(splits.train)
    seen = [
        ready.batch(indices)["input_ids"].shape[1]
        for step in range(schedule.total)
        for indices in schedule.micro_batches(step, splits.train, 0, lengths)
    ]
    longest = task.batch_shapes(size, bert(), task.info())["input_ids"][0][1]
    assert task.fill(size, bert()) == pytest.approx(np.mean(seen) / longest, rel=0.15)


def test_f1_is_scikit_learns_of_the_second_class(tmp_path: Path) -> None:
    task = prepared(tmp_path)
    batch = task.batch(task.splits(0).test)
    logits = torch.randn(len(batch["labels"]), 2, generator=torch.Generator().manual_seed(0))
    meter = task.meter()
    meter.update(logits, batch)
    assert meter.compute()["f1"] == pytest.approx(f1_score(batch["labels"], logits.argmax(1)))
    assert task.info.majority["f1"] == pytest.approx(
        f1_score(batch["labels"], np.full(len(logits), task.info.majority["f1"] > 0))
    )


@pytest.mark.parametrize(
    ("values", "names"),
    [(["0", "1"], ("0", "1")), (["10", "9"], ("9", "10")), (["yes", "no"], ("no", "yes")), (["a", "b", "c"], ("a", "b", "c"))],
)
def test_labels_without_names_are_numbered_in_order(tmp_path: Path, values: list[str], names: tuple[str, ...]) -> None:
    data = table(tmp_path, [(f"text {i}", values[i % len(values)]) for i in range(60)])
    assert TextClassification(data=data).info().label_names == names


def test_label_names_give_the_order(tmp_path: Path) -> None:
    data = table(tmp_path, [(f"text {i}", ["yes", "no"][i % 2]) for i in range(60)])
    assert TextClassification(data=data, label_names=("yes", "no")).info().label_names == ("yes", "no")
    with pytest.raises(DataError, match=r"label 'no' is none of 'yes', 'not' \(30 such rows\)"):
        TextClassification(data=data, label_names=("yes", "not")).info()


def test_columns_that_are_not_named_or_not_there(tmp_path: Path) -> None:
    data = table(tmp_path, [(f"text {i}", i % 2, i) for i in range(60)], "review\tstars\tnumber")
    with pytest.raises(DataError, match=r"which column is the text\? There are 'review', 'stars', 'number'"):
        TextClassification(data=data).info()
    with pytest.raises(DataError, match="which column is the label"):
        TextClassification(data=data, text="review").info()
    with pytest.raises(DataError, match=r"data\.tsv line 1: there is no column 'star'\n.*Did you mean 'stars'"):
        TextClassification(data=data, text="review", label="star").info()
    with pytest.raises(DataError, match=r"data\.tsv number: 60 different labels"):
        TextClassification(data=data, text="review", label="number").info()
    info = TextClassification(data=data, text="review", label="stars").info()
    assert any("not used: number" in note for note in info.notes)


def test_lists_are_given_as_a_study_has_them(tmp_path: Path) -> None:
    data = table(tmp_path, [(f"film {i}", "plot", "x", ["yes", "no"][i % 2]) for i in range(60)], "a\tb\tc\tverdict")
    options = {"data": data, "text": ["a", "b"], "label": "verdict", "label_names": ["yes", "no"]}
    task = registry.create("task", {"kind": "text-classification", **options}, key="kind")
    assert task.columns() == ["a", "b"] and task.info().label_names == ("yes", "no")
    again = registry.create("task", task.spec("kind"), key="kind")  # as a record has it
    assert again.spec("kind") == task.spec("kind") and again.columns() == ["a", "b"]
    with pytest.raises(OptionError, match="3 columns of text"):
        registry.create("task", {"kind": "text-classification", **options, "text": ["a", "b", "c"]}, key="kind")


@pytest.mark.parametrize("values", [["yes", "no", "Yes", "no"], ["1", "0", "1 ", "0"]])
def test_labels_that_differ_in_case_or_spaces_are_a_mistake_unless_they_are_listed(tmp_path: Path, values: list[str]) -> None:
    data = table(tmp_path, [(f"text {i}", values[i % 4]) for i in range(80)])
    with pytest.raises(DataError, match="differ in case or spaces only"):
        TextClassification(data=data).info()
    assert len(TextClassification(data=data, label_names=tuple(dict.fromkeys(values))).info().label_names) == 3


def test_the_label_is_no_text(tmp_path: Path) -> None:
    data = table(tmp_path, [(f"text {i}", i % 2) for i in range(60)])
    for options in ({"text": "label"}, {"text": ("text", "label")}):
        with pytest.raises(DataError, match="'label' is the label and the text"):
            TextClassification(data=data, **options).info()


def test_a_column_that_a_split_lacks_is_named_with_it(tmp_path: Path) -> None:
    write_tsv(tmp_path / "train.tsv", sentences(60), "sentence\tlabel")
    write_tsv(tmp_path / "test.tsv", [(text,) for text, _ in sentences(20, seed=1)], "sentence")
    with pytest.raises(DataError, match=r"test\.tsv line 1: there is no column 'label'"):
        TextClassification(data=str(tmp_path)).info()
    write_tsv(tmp_path / "test.tsv", sentences(20, seed=1), "text\tlabel")
    with pytest.raises(DataError, match=r"(test|train)\.tsv line 1: there is no column '(text|sentence)'"):
        TextClassification(data=str(tmp_path)).info()


def test_texts_that_are_empty_are_counted_and_data_without_any_text_refused(tmp_path: Path) -> None:
    rows = sentences(60)
    info = TextClassification(data=table(tmp_path, [*rows, ("", 0), (" ", 1)])).info()
    assert "2 texts are empty" in info.notes
    with pytest.raises(DataError, match=r"\.tsv text: every text is empty"):
        TextClassification(data=table(tmp_path, [("", label) for _, label in rows])).info()


def test_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": 1}\n{"text": 3, "label": 0}\n')
    with pytest.raises(DataError, match="a number in place of a text") as raised:
        TextClassification(data=str(tmp_path / "d.jsonl")).info()
    assert "line 2" in str(raised.value)
    data = table(tmp_path, [("a", "0"), ("b", ""), ("c", "1")])
    with pytest.raises(DataError, match="no label"):
        TextClassification(data=data).info()


def test_what_flatters_is_said(tmp_path: Path) -> None:
    rows = sentences(60)
    write_tsv(tmp_path / "train.tsv", rows)
    write_tsv(tmp_path / "dev.tsv", [*rows[:5], ("a film that is new", 1), ("the plot is old", 0)])
    task = TextClassification(data={"name": "sst2", "path": str(tmp_path)})
    assert any("5 of 7 test texts are also in train" in w for w in task.prepare(bert(), tmp_path).info.warnings)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="100 tokens, but the model has 48 positions"):
        prepared(tmp_path, max_length=100)
    with pytest.raises(OptionError, match="3 tokens"):
        TextClassification(data="sst2", max_length=3)
    with pytest.raises(OptionError, match="3 columns"):
        TextClassification(data="sst2", text=("a", "b", "c"))
    for names in ((), ("one",), ("a", "b", "a")):
        with pytest.raises(OptionError, match="two classes or more, each once"):
            TextClassification(data="sst2", label_names=names)


def test_a_task_of_texts_needs_a_model_of_texts(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="no models of texts"):
        source_of("bundled:vit-nano").text_preprocessing("bundled:vit-nano")
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((shared_bert() / name).read_bytes())
    with pytest.raises(BackboneError, match="it has no tokenizer"):
        registry.create("task", spec(), key="kind").prepare(source_of(str(folder)).text_preprocessing(str(folder)), tmp_path)
