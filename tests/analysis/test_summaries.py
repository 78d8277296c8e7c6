"""The schema of findings.json, and the summaries: they say what the findings say, and only of families that the study has."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from pathlib import Path

import pytest

from peftlab.analysis.analyze import analyze
from peftlab.analysis.findings import Findings
from tests.report.fixtures import LEVELS, STUDY, Options, write_results

SCHEMA = files("peftlab.analysis") / "findings.schema.json"
REGENERATE = "python -c 'from peftlab.analysis.findings import write_schema; write_schema()'"
FAMILIES = {"quantization_experiments_summary.json", "quantization_detailed_analysis.json", "adaptive_summary.json"}


def results(root: Path, more: dict[str, dict[str, object]] | None = None) -> Path:
    study = copy.deepcopy(STUDY)
    study.pop("tune")
    study["arms"] = {name: study["arms"][name] for name in ("full", "bitfit")} | (more or {})
    levels = LEVELS | dict.fromkeys(more or {}, LEVELS["bitfit"])
    return write_results(root, Options(study=study, levels=levels, failed=(("bitfit", 1),), diverged=()))


def test_the_shipped_schema_is_that_of_the_program() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == Findings.model_json_schema(mode="serialization"), REGENERATE


def test_what_is_written_keeps_to_the_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    folder = results(tmp_path)
    analyze(folder)
    written, schema = json.loads((folder / "analysis/findings.json").read_text()), json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(written, schema)
    for broken in ({**written, "verdict": 3}, {**written, "more": 1}, {k: v for k, v in written.items() if k != "findings"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)
    assert all(f["sentence"].endswith((".", "]")) and f["verdict"] for f in written["findings"])


def test_a_study_of_neither_family_has_neither_file(tmp_path: Path) -> None:
    folder = results(tmp_path)
    (folder / "analysis").mkdir()
    (folder / "analysis" / "adaptive_summary.json").write_text("{}")  # of a study that had such arms before
    found = analyze(folder)
    written = {p.name for p in (folder / "analysis").iterdir()}
    assert not written & FAMILIES
    text = (folder / "analysis" / "analysis_summary.md").read_text(encoding="utf-8")
    for line in (*found.verdict, *found.warnings, *found.notes, *(f.sentence for f in found.of("difference"))):
        assert f"- {line}" in text
    assert "bitfit seed 1: failed: OutOfMemory" in text and "## Factors" not in text


def test_families_are_told_with_their_findings(tmp_path: Path) -> None:
    more = {
        "qlora": {"adapter": "lora", "quantizer": {"name": "groupwise", "type": "int4", "group_size": 32}},
        "adaptive": {"adapter": "svd", "allocator": {"name": "adalora", "budget": {"ranks": 64}}},
    }
    folder = results(tmp_path, more)
    found = analyze(folder)
    read = {name: json.loads((folder / "analysis" / name).read_text()) for name in FAMILIES}
    quantized, adaptive = read["quantization_experiments_summary.json"], read["adaptive_summary.json"]
    assert [(a["label"], a["quantizer"]["type"]) for a in quantized["arms"]] == [("qlora", "int4")]
    assert [(a["label"], a["allocator"]["name"]) for a in adaptive["arms"]] == [("adaptive", "adalora")]
    (difference,) = found.of("difference", "qlora")
    assert difference.sentence in [f["sentence"] for f in quantized["findings"]]
    assert quantized["arms"][0]["mean"] == next(a.mean for a in found.arms if a.label == "qlora")
    assert read["quantization_detailed_analysis.json"]["study"] == "fixture"
