"""Texts that the ``datasets`` library saved, with class labels, withheld labels and splits of any name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import DataError, OptionError
from peftlab.tasks.text.datasets import TextDatasets
from peftlab.tasks.text.mrpc import Mrpc
from peftlab.tasks.text.resolve import source_of
from peftlab.tasks.text.stsb import Stsb
from peftlab.tasks.text_classification import TextClassification
from peftlab.tasks.text_regression import TextRegression

library = pytest.importorskip("datasets")


def save(folder: Path, **splits: list[int]) -> Path:
    features = library.Features({"sentence": library.Value("string"), "label": library.ClassLabel(names=["no", "yes"])})
    tables = {}
    for split, labels in splits.items():
        texts = [f"{split} text {i}" for i in range(len(labels))]
        tables[split] = library.Dataset.from_dict({"sentence": texts, "label": labels}, features=features)
    library.DatasetDict(tables).save_to_disk(folder)
    return folder


def test_class_labels_become_names_and_withheld_ones_are_left_out(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", train=[0, 1] * 20, validation=[0, 1] * 4, test=[-1] * 5)
    rows = source_of(str(folder)).read()
    assert set(rows.column("label")) == {"no", "yes"} and len(rows) == 48
    assert any("'test' split has no labels" in note for note in rows.notes)
    info = TextClassification(data=str(folder)).info()
    assert info.label_names == ("no", "yes") and info.sizes["test"] == 8


def save_pairs(folder: Path, **splits: list[Any]) -> Path:
    """As GLUE's STS-B lies on the hub."""
    text, number = library.Value("string"), library.Value("float32")
    features = library.Features({"sentence1": text, "sentence2": text, "label": number})
    tables = {}
    for split, labels in splits.items():
        one, two = ([f"{split} {side} {i}" for i in range(len(labels))] for side in ("one", "two"))
        tables[split] = library.Dataset.from_dict({"sentence1": one, "sentence2": two, "label": labels}, features=features)
    library.DatasetDict(tables).save_to_disk(folder)
    return folder


def test_glue_is_tested_on_validation_though_a_test_split_has_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MRPC's test labels are public, on the hub too; in GLUE's own files, and in what others report, validation is the test."""
    features = library.Features({"label": library.ClassLabel(names=["not_equivalent", "equivalent"])})
    tables = {}
    for split, size in {"train": 20, "validation": 8, "test": 12}.items():
        one, two = ([f"{split} {side} {i}" for i in range(size)] for side in ("one", "two"))
        table = library.Dataset.from_dict({"label": [i % 2 for i in range(size)]}, features=features)
        tables[split] = table.add_column("sentence1", one).add_column("sentence2", two)
    library.DatasetDict(tables).save_to_disk(tmp_path / "mrpc")
    monkeypatch.setattr(Mrpc, "_source", lambda self: TextDatasets(path=str(tmp_path / "mrpc")))
    rows = Mrpc().read()
    assert [part.split for part in rows.parts] == ["train", "validation"] and rows.left_out == ("test",)
    assert "the data's 'test' split is left out: GLUE is reported on validation" in rows.notes
    info = TextClassification(data="mrpc").info()
    assert info.sizes["test"] == 8 and info.label_names == ("not_equivalent", "equivalent")


SCORES = [0.5 * (i % 11) for i in range(40)]


@pytest.mark.parametrize("withheld", [[-1.0] * 8, [None] * 8, [-1.0, None] * 4])
def test_numbers_that_are_withheld_are_left_out_and_validation_serves_as_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, withheld: list[Any]
) -> None:
    folder = save_pairs(tmp_path / "d", train=SCORES, validation=SCORES[:20], test=withheld)
    monkeypatch.setattr(Stsb, "_source", lambda self: TextDatasets(path=str(folder)))
    task = TextRegression(data="stsb")
    assert task.info().sizes == {"train": 36, "validation": 4, "test": 20}
    assert "the data's 'test' split is left out: GLUE is reported on validation" in task.info().notes
    plain = TextRegression(data=str(folder)).info()
    assert plain.sizes == task.info().sizes and "the data's 'test' split has no labels and is left out" in plain.notes
    assert sum("serves as test" in note for note in task.info().notes) == 1
    folded = TextRegression(data="stsb", folds=5)
    assert sum(folded.info().sizes.values()) == 60 and folded.examples().labels.min() == 0.0
    assert task.fingerprint() == folded.fingerprint() != task.source().fingerprint()  # another run id, other tokens kept


@pytest.mark.parametrize(
    "splits",
    [
        {"train": SCORES, "validation": SCORES[:10], "test": SCORES[:9]},
        {"train": [-1.0, *SCORES], "validation": SCORES[:10], "test": [-1.0, -1.0]},  # a target like any other
        {"train": SCORES, "validation": SCORES[:10], "test": [-1.0, 2.0]},
    ],
)
def test_numbers_that_are_told_stay(tmp_path: Path, splits: dict[str, list[Any]]) -> None:
    task = TextRegression(data=str(save_pairs(tmp_path / "d", **splits)))
    assert len(task.examples().labels) == sum(map(len, splits.values()))
    assert task.fingerprint() == task.source().fingerprint()


def test_what_was_said_of_splits_that_are_left_out_is_not_said(tmp_path: Path) -> None:
    info = TextRegression(data=str(save_pairs(tmp_path / "d", train=SCORES, validation=[-1.0] * 5))).info()
    assert sum(info.sizes.values()) == 40 and not any("serves as test" in note for note in info.notes)


@pytest.mark.parametrize("write", [int, str])
def test_whole_numbers_as_classes_are_withheld_alike(tmp_path: Path, write: Callable[[int], Any]) -> None:
    tables = {}
    for split, labels in {"train": [0, 1] * 20, "validation": [0, 1] * 4, "test": [-1] * 5}.items():
        texts = [f"{split} text {i}" for i in range(len(labels))]
        tables[split] = library.Dataset.from_dict({"sentence": texts, "label": list(map(write, labels))})
    library.DatasetDict(tables).save_to_disk(tmp_path / "d")
    info = TextClassification(data=str(tmp_path / "d"), folds=2).info()
    assert info.label_names == ("0", "1") and sum(info.sizes.values()) == 48


def test_splits_can_be_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", fit=[0, 1] * 4, held=[1, 0])
    rows = TextDatasets(path=str(folder), train="fit", test="held").read()
    assert {role: len(indices) for role, indices in rows.roles.items()} == {"train": 8, "test": 2}
    with pytest.raises(DataError, match=r"d train: there is no column 'lable'\n.*Did you mean 'label'"):
        rows.column("lable")
    with pytest.raises(DataError, match="no split 'hold'"):
        TextDatasets(path=str(folder), train="fit", test="hold").read()


def test_one_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="exactly one"):
        TextDatasets()
    assert source_of("nyu-mll/glue").spec()["id"] == "nyu-mll/glue"
    place = str(tmp_path)
    assert TextDatasets(path=place).fingerprint() != TextDatasets(path=place, train="a").fingerprint()
    with pytest.raises(DataError, match="no such data"):
        TextDatasets(path=f"{place}/nowhere").fingerprint()
