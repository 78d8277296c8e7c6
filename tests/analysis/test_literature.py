"""The literature table: rows against the figures asked for, families, and when two figures count as comparable."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.assess import assess
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.literature import COLUMNS, Row, beside_literature, literature
from tests.report.fixtures import STUDY, Options, write_results

LORA = {"name": "lora", "rank": 8, "dora": False, "rslora": False}


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Frame:
    return load_frame(write_results(tmp_path_factory.mktemp("results")))


def test_every_row_has_a_source_and_a_place() -> None:
    rows, sources = literature()
    assert len(rows) > 70 and all(row.source in sources and row.place for row in rows)
    for key, text in sources.items():
        if key != "secondary":
            assert re.match(rf"@\w+{{{key},", text) and text.endswith("}")
        assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("source", "data", "method", "value"),
    [
        ("xin2024vpetl", "VTAB-1k (19 tasks)", "LoRA", 72.25),
        ("secondary", "CIFAR-100", "LoRA", 94.87),
        ("zhang2023adalora", "GLUE RTE", "AdaLoRA", 88.09),
        ("hu2022lora", "GLUE RTE", "LoRA", 86.6),
        ("dettmers2023qlora", "Pile Common Crawl", "NF4 with double quantization", 27.41),
        ("xu2024qalora", "MMLU after FLAN v2", "QA-LoRA, 4 bits", 47.0),
        ("peft2026comparison", "GSM8K", "rsLoRA r64", 51.3),
    ],
)
def test_figures_are_those_of_the_sources(source: str, data: str, method: str, value: float) -> None:
    found = [row.value for row in literature()[0] if (row.source, row.data, row.method) == (source, data, method)]
    assert found[0] == value


def test_named_components_and_options_exist() -> None:
    import dataclasses

    from peftlab.registry import component, components

    for row in literature()[0]:
        schemes = [("quantizer", spec) for spec in row.schemes]
        for kind, spec in (("adapter", row.adapter), ("allocator", row.allocator), ("quantizer", row.quantizer), *schemes):
            if spec is None:
                continue
            assert spec["name"] in components(kind)  # pyright: ignore[reportArgumentType]
            cls: Any = component(kind, spec["name"])  # pyright: ignore[reportArgumentType]
            assert spec.keys() - {"name"} <= {f.name for f in dataclasses.fields(cls)}, (row.method, spec)


def row(**more: Any) -> Row:
    about = {"source": "s", "place": "p", "method": "m", "task": "text-classification", "metric": "accuracy", "value": 50.0}
    return Row.model_validate(about | more)


@pytest.mark.parametrize(
    ("asked", "how", "expected"),
    [
        ({"adapter": {"name": "lora"}}, {"adapter": LORA, "quantizer": {"name": "none"}}, True),
        ({"adapter": {"name": "lora", "rank": 8}}, {"adapter": LORA}, True),
        ({"adapter": {"name": "lora", "rank": 2}}, {"adapter": LORA}, False),
        ({"adapter": {"name": "lora"}}, {"adapter": LORA, "allocator": {"name": "uniform"}}, False),
        ({"adapter": {"name": "lora"}}, {"adapter": LORA, "quantizer": {"name": "bnb", "bits": 4}}, False),
        (
            {"adapter": {"name": "lora"}, "quantizer": {"name": "bnb", "type": ["nf4", None]}},
            {"adapter": LORA, "quantizer": {"name": "bnb", "type": None}},
            True,
        ),
        ({}, {"adapter": LORA}, False),
    ],
)
def test_families(asked: dict[str, Any], how: dict[str, Any], expected: bool) -> None:
    assert row(**asked).is_family_of({"kind": "text-classification"}, how) is expected
    assert not row(**asked).is_family_of({"kind": "language-modeling"}, how)


def test_ours_beside_theirs(frame: Frame) -> None:
    findings = assess(frame)
    found = beside_literature(frame, findings)
    arms = {a.label: a for a in findings.arms}
    assert {"full", "linear-probe"} <= {b.arm for b in found} and not any(b.comparable for b in found)
    for b in found:
        assert b.ours == arms[b.arm].mean and b.ratio == pytest.approx(b.ours / (b.row.value / 100))
        assert len(b.differs) == 4 - sum(b.agrees.values())
    assert any("published: 1,000 training examples a task" in text for b in found for text in b.differs)
    assert any("1,077 training, 360 validation, 360 test examples (" in text for b in found for text in b.differs)


@pytest.mark.parametrize("missing", [None, *COLUMNS])
def test_comparable_only_where_all_columns_agree(frame: Frame, missing: str | None) -> None:
    same = {
        "backbone": ["bundled:vit-*"],
        "data": ["digits"],
        "split": ["1,077 training, *"],
        "protocol": ["5 epochs, batch 64, *"],
    }
    same.pop(missing or "", None)
    published = row(task="image-classification", adapter={"name": "full"}, value=97.0, same=same)
    (found,) = beside_literature(frame, assess(frame), (published,))
    assert found.comparable is (missing is None)
    assert [text.split(":")[0] for text in found.differs] == ([missing] if missing else [])


def test_another_metric_is_never_set_beside_ours(frame: Frame) -> None:
    published = row(task="image-classification", adapter={"name": "full"}, metric="f1")
    assert beside_literature(frame, assess(frame), (published,)) == []


def test_it_is_shipped() -> None:
    import peftlab.analysis.literature as module

    assert Path(module.__file__).with_suffix(".yaml").is_file()


def test_an_arm_whose_folds_were_tuned_to_other_values_is_told_fold_by_fold(tmp_path: Path) -> None:
    """The method is that of every fold, with the rank of the first; lengths and rates stand side by side."""
    options = Options(study={**STUDY, "task": {**STUDY["task"], "folds": 2}}, folds=2, failed=(), diverged=())
    folder = write_results(tmp_path, options)
    for path in (folder / "runs").glob("*/*/config.json"):
        form = json.loads(path.read_text())
        form["train"]["epochs"] = form["tuned"]["epochs"] = 1 + form["fold"]
        if "rank" in form["adapter"]:
            form["adapter"]["rank"] = form["tuned"]["adapter.rank"] = 8 * (1 + form["fold"])
        path.write_text(json.dumps(form))
    frame = load_frame(folder)
    found = beside_literature(frame, assess(frame))
    assert {"full", "linear-probe"} <= {entry.arm for entry in found}
    assert all(entry.told["protocol"].startswith("1, 2 by fold epochs") for entry in found)
