"""Texts that the ``datasets`` library saved, with class labels, withheld labels and splits of any name."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlab.errors import DataError, OptionError
from peftlab.tasks.text.datasets import TextDatasets
from peftlab.tasks.text.resolve import source_of
from peftlab.tasks.text_classification import TextClassification

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
