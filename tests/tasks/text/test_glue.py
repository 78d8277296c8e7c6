"""GLUE's tasks, from files as GLUE has them; and the extracts, where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlab.registry import components
from peftlab.tasks.text.resolve import source_of
from peftlab.tasks.text_classification import TextClassification
from tests.tasks.texts import write_sst2, write_tsv

REAL = Path(__file__).parents[4] / "shared" / "data" / "text"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the data extracts are not here")


def test_names_are_sources() -> None:
    assert {"sst2", "mrpc", "rte"} <= set(components("text"))
    assert source_of("sst2").spec() == {"name": "sst2", "path": None, "revision": None}


def test_glues_own_test_file_without_labels_is_left_alone(tmp_path: Path) -> None:
    write_sst2(tmp_path, train=30, dev=12)
    write_tsv(tmp_path / "test.tsv", [(0, "a film")], "index\tsentence")
    info = TextClassification(data={"name": "sst2", "path": str(tmp_path)}).info()
    assert info.sizes == {"train": 27, "validation": 3, "test": 12}
    assert info.label_names == ("negative", "positive")


def test_mrpc_and_rte_have_their_columns(tmp_path: Path) -> None:
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    rows = [(i % 2, i, i, f'he said "x{i}', f"she said y{i}") for i in range(40)]
    for name in ("train", "dev"):
        write_tsv(tmp_path / "mrpc" / f"{name}.tsv", rows, header)
    task = TextClassification(data={"name": "mrpc", "path": str(tmp_path / "mrpc")})
    assert task.columns() == ["#1 String", "#2 String"]
    assert task.info().label_names == ("not_equivalent", "equivalent")
    for name in ("train", "dev"):
        rte = [(i, f"a{i}", f"b{i}", ["entailment", "not_entailment"][i % 2]) for i in range(40)]
        write_tsv(tmp_path / "rte" / f"{name}.tsv", rte, "index\tsentence1\tsentence2\tlabel")
    info = TextClassification(data={"name": "rte", "path": str(tmp_path / "rte")}).info()
    assert info.label_names == ("entailment", "not_entailment")
    assert any("not used: index" in note for note in info.notes)


@real
@pytest.mark.parametrize(
    ("name", "train", "test", "positive"),
    [("sst2", 10_000, 372, 194), ("mrpc", 3_668, 408, 279), ("rte", 2_490, 139, 139 - 73)],
)
def test_the_extracts_have_their_published_counts(name: str, train: int, test: int, positive: int) -> None:
    info = TextClassification(data={"name": name, "path": str(REAL / name)}).info()
    assert info.sizes["train"] + info.sizes["validation"] == train and info.sizes["test"] == test
    most = max(positive, test - positive) / test
    assert max(info.majority["accuracy"], 1 - info.majority["accuracy"]) == pytest.approx(most)
