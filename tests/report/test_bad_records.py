"""Studies that went wrong, one each: the report is written, and says what can and what cannot be concluded from them."""

from __future__ import annotations

import copy
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.analyze import read_findings
from peftlab.analysis.findings import Findings
from peftlab.report.build import build_report
from tests.report.fixtures import LEVELS, STUDY, Options, write_results

CLAIMS = ("better", "worse", "non-inferior", "inferior", "equivalent")


def study(*arms: str, **changes: Any) -> dict[str, Any]:
    raw = copy.deepcopy(STUDY)
    raw.pop("tune")
    raw["arms"] = {name: raw["arms"][name] for name in arms or ("full", "bitfit", "lora-all")}
    return {**raw, "seeds": [0, 1, 2], **changes}


def results(root: Path, raw: dict[str, Any] | None = None, **options: Any) -> Path:
    return write_results(root, Options(study=raw or study(), **{"failed": (), "diverged": (), "flags": {}, **options}))


def report(folder: Path) -> tuple[Findings, str]:
    """Findings and the visible text of the page."""
    page = build_report(folder).read_text(encoding="utf-8")
    found = read_findings(folder)
    assert found.verdict, "a report without an answer"
    assert (folder / "analysis" / "analysis_summary.md").is_file()
    text = unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)))
    return found, re.sub(r"\s+", " ", text)


def claims(found: Findings) -> list[str]:
    return [f.sentence for f in found.findings if f.verdict in CLAIMS]


def test_one_seed(tmp_path: Path) -> None:
    found, page = report(results(tmp_path, study(seeds=[0])))
    assert claims(found) == [] and all(a.interval is None and a.n == 1 for a in found.arms)
    assert {f.verdict for f in found.of("difference")} == {"cannot be tested"}
    assert "There is one seed only: no interval and no test is possible, and differences may be chance." in page
    assert "Cannot be tested: bitfit and lora-all." in page


def test_missing_cells(tmp_path: Path) -> None:
    """One arm lacks two of three seeds: what is left of it is one pair, and the page says which runs are absent."""
    found, page = report(results(tmp_path, skip=(("bitfit", 1), ("bitfit", 2))))
    (difference,) = found.of("difference", "bitfit")
    assert difference.n == 1 and difference.verdict == "cannot be tested" and "one pair of runs only" in difference.sentence
    assert found.runs["missing"] == 2
    assert "2 runs are missing and could not be counted." in page and "bitfit (1)" in page
    assert found.of("difference", "lora-all")[0].n == 3


def test_an_arm_of_which_nothing_is_there(tmp_path: Path) -> None:
    found, page = report(results(tmp_path, skip=tuple(("bitfit", seed) for seed in range(3))))
    assert "bitfit" not in {a.label for a in found.arms} and found.runs["missing"] == 3
    assert "bitfit" in page and "3 runs are missing" in page
    assert found.plan.family_size == 2  # the declared family does not shrink


def test_failed_runs(tmp_path: Path) -> None:
    failed = (("bitfit", 0), ("bitfit", 1), ("bitfit", 2), ("lora-all", 1))
    found, page = report(results(tmp_path, failed=failed))
    assert found.runs["failed"] == 4 and "OutOfMemory" in page and "halve batch_size" in page
    assert "Runs that failed for a reason of the arm itself make its mean look better than it is." in page
    assert not [f for f in found.findings if "bitfit" in f.arms and f.verdict in CLAIMS]


def test_every_run_failed(tmp_path: Path) -> None:
    every = tuple((label, seed) for label in ("full", "bitfit", "lora-all") for seed in range(3))
    found, page = report(results(tmp_path, failed=every))
    assert found.arms == [] and found.findings == [] and "Nothing can be said yet" in page and "OutOfMemory" in page


def test_one_arm_only(tmp_path: Path) -> None:
    found, page = report(results(tmp_path, study("full")))
    assert [a.label for a in found.arms] == ["full"] and found.arms[0].interval is not None
    assert found.of("difference") == [] and claims(found) == []
    assert "There is one arm only: nothing can be compared." in page


def constant(folder: Path, values: dict[str, float]) -> None:
    for path in folder.glob("runs/*/*/results.json"):
        record = json.loads(path.read_text())
        value = values[json.loads((path.parent / "config.json").read_text())["label"]]
        for split in record["metrics"]:
            record["metrics"][split]["accuracy"] = value
        path.write_text(json.dumps(record))


def test_a_metric_that_is_the_same_everywhere(tmp_path: Path) -> None:
    folder = results(tmp_path)
    constant(folder, {"full": 0.5, "bitfit": 0.5, "lora-all": 0.5})
    found, page = report(folder)
    assert claims(found) == [] and {f.verdict for f in found.of("difference")} == {"cannot be tested"}
    assert "the same in every run of every arm" in page
    assert "equal" not in " ".join(found.verdict).replace("not evidence of equality", "")


def test_no_variance_within_arms_that_differ(tmp_path: Path) -> None:
    """Seeds change nothing: the difference is what it is, but no test can say how far to trust it."""
    folder = results(tmp_path)
    constant(folder, {"full": 0.9, "bitfit": 0.8, "lora-all": 0.7})
    found, page = report(folder)
    assert claims(found) == []
    (difference,) = found.of("difference", "bitfit")
    assert difference.estimate == pytest.approx(-0.1) and "the same in every pair" in difference.sentence
    assert "seeds made no difference" in page


def test_one_arm_without_variance(tmp_path: Path) -> None:
    """The baseline's seeds agree to the digit, the others vary: tests are made, and the arm is named."""
    folder = results(tmp_path)
    for path in folder.glob("runs/full/*/results.json"):
        record = json.loads(path.read_text())
        record["metrics"]["test"]["accuracy"] = 0.95
        path.write_text(json.dumps(record))
    found, page = report(folder)
    assert found.of("difference", "bitfit")[0].p is not None and "seeds made no difference to full" in page


def test_records_of_two_schema_versions(tmp_path: Path) -> None:
    folder = results(tmp_path)
    for path in list(folder.glob("runs/full/*/*.json")):
        record = json.loads(path.read_text())
        if "schema_version" in record:
            path.write_text(json.dumps({**record, "schema_version": 2, "of_the_future": True}))
    found, page = report(folder)
    assert found.runs["unreadable"] == 3 and "a newer peftlab wrote it" in page and "update peftlab here" in page
    assert {"bitfit", "lora-all"} <= {a.label for a in found.arms}


def test_a_folder_half_written(tmp_path: Path) -> None:
    """Cut in the middle: one run with half a results file, one without any, one without its config, half a journal, no plan."""
    folder = results(tmp_path)
    first, second, third = sorted((folder / "runs" / "bitfit").iterdir())
    text = (first / "results.json").read_bytes()
    (first / "results.json").write_bytes(text[: len(text) // 2])
    (second / "results.json").unlink()
    (third / "config.json").unlink()
    journal = next((folder / "runs" / "full").iterdir()) / "metrics.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    (folder / "plan.json").write_text('{"study": "fix')
    (folder / "analysis").mkdir()
    (folder / "analysis" / "findings.json").write_text("{")
    found, page = report(folder)
    assert found.runs["unreadable"] == 2 and found.runs["unfinished"] == 1 and found.runs["completed"] == 6
    assert "2 runs cannot be read" in page and "1 run is not finished" in page
    assert not [f for f in found.findings if "bitfit" in f.arms and f.verdict in CLAIMS]
    assert found.of("difference", "lora-all")[0].n == 3


def test_only_the_study_file_is_there(tmp_path: Path) -> None:
    folder = results(tmp_path, skip=tuple((label, seed) for label in LEVELS for seed in range(3)))
    found, page = report(folder)
    assert found.arms == [] and "There is no finished run yet: nothing can be said." in page
    assert found.runs["missing"] == 9


def test_no_chance_level_of_what_has_none(tmp_path: Path) -> None:
    """Perplexity: a diverged run stands at the worst value seen, and 'chance' is not said of it."""
    folder = results(tmp_path, study(analysis={"metric": "perplexity", "baseline": "full", "margin": {"relative": 0.03}}),
                     diverged=(("bitfit", 1),))  # fmt: skip
    for path in folder.glob("runs/*/*/results.json"):
        record = json.loads(path.read_text())
        split = {
            k: {"perplexity": None if v["accuracy"] is None else 20 - 5 * v["accuracy"]} for k, v in record["metrics"].items()
        }
        record |= {"metrics": split, "higher_is_better": {"perplexity": False}, "chance": {}, "majority": {}}
        path.write_text(json.dumps(record))
    found, page = report(folder)
    assert "1 run diverged and counts at the worst value seen." in page
    said = [*found.verdict, *found.notes, *(f.sentence for f in found.findings)]
    assert not [line for line in said if "chance" in line]
