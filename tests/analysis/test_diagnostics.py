"""What is said of training's effect on the model: against numbers computed here from the same records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from peftlab.analysis.assess_diagnostics import DiagnosticTables, assess_diagnostics
from peftlab.analysis.frame import load_frame
from tests.report.diagnostics import BLOCKS, SITES, write_diagnostics
from tests.report.fixtures import write_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = write_results(tmp_path_factory.mktemp("results"))
    write_diagnostics(found)
    return found


@pytest.fixture(scope="module")
def tables(folder: Path) -> DiagnosticTables:
    return assess_diagnostics(load_frame(folder))


def records(folder: Path, slug: str, name: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in (folder / "runs" / slug).glob(f"*/{name}.json")]


def interval(values: list[float]) -> tuple[float, float]:
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
    return float(low), float(high)


def test_blocks_are_means_over_seeds_with_their_intervals(tables: DiagnosticTables, folder: Path) -> None:
    (found,) = [b for b in tables.diagnostics.blocks if b.arm == "lora-all"]
    kept = records(folder, "lora-all", "representation")
    assert (found.runs, found.token, len(found.points)) == (len(kept), "class", BLOCKS)
    for number, point in enumerate(found.points):
        drifts = [record["blocks"][number]["drift"] for record in kept]
        assert point.drift is not None and point.drift.mean == pytest.approx(np.mean(drifts))
        assert point.drift.interval == pytest.approx(interval(drifts))


def test_no_interval_reaches_where_no_value_can_lie(tables: DiagnosticTables) -> None:
    for arm in tables.diagnostics.blocks:
        for point in arm.points:
            assert point.cka is not None and point.cka.interval is not None and point.cka.interval[1] <= 1


def test_more_of_the_rank_than_was_allotted_can_be_in_use(tmp_path: Path) -> None:
    """PiSSA's update has up to twice as many directions: the interval holds the mean then."""
    folder = write_results(tmp_path)
    write_diagnostics(folder)
    for number, path in enumerate(sorted((folder / "runs" / "lora-all").glob("*/rank_utilisation.json"))):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({"sites": {n: {**s, "share_in_use": 1.4 + number / 50} for n, s in content["sites"].items()}}))
    found = [s.share_in_use for s in assess_diagnostics(load_frame(folder)).diagnostics.spectra if s.arm == "lora-all"]
    assert found and all(m is not None and m.interval is not None and m.interval[0] < m.mean < m.interval[1] < 2 for m in found)


def test_norms_are_over_modules_and_then_over_seeds(tables: DiagnosticTables, folder: Path) -> None:
    (found,) = [n for n in tables.diagnostics.norms if n.arm == "lora[rank=8]"]
    kept = [[m["end"]["relative"] for m in r["modules"].values()] for r in records(folder, "lora.rank-8", "adapter_norms")]
    assert found.relative is not None and found.spread is not None
    assert found.relative.mean == pytest.approx(np.mean([np.mean(v) for v in kept]))
    assert found.spread.mean == pytest.approx(np.mean([np.std(v, ddof=1) for v in kept]))
    (shown,) = [m for m in tables.diagnostics.maps if m.arm == "lora[rank=8]"]
    assert {m.site: m.mean for m in shown.modules} == pytest.approx(dict(zip(SITES, np.mean(kept, axis=0), strict=True)))


def test_of_merging_the_worst_run_counts(tables: DiagnosticTables, folder: Path) -> None:
    (found,) = [m for m in tables.diagnostics.merges if m.arm == "lora-all"]
    kept = records(folder, "lora-all", "merge_equivalence")
    assert found.relative == max(record["relative"] for record in kept) and found.within == found.merged == len(kept)
    assert [t.rows for t in found.latency] == [1, 8]
    assert all(t.ratio is not None and t.ratio.mean == pytest.approx(1.2) for t in found.latency)
    (full,) = [m for m in tables.diagnostics.merges if m.arm == "full"]
    assert (full.merged, full.left_out) == (0, ["nothing was added"])


def test_spectra_are_medians_over_modules_and_seeds(tables: DiagnosticTables, folder: Path) -> None:
    (found,) = [s for s in tables.diagnostics.spectra if (s.arm, s.role) == ("lora-all", "q")]
    sites = [s for r in records(folder, "lora-all", "rank_utilisation") for s in r["sites"].values() if s["role"] == "q"]
    rows = np.array([s["singular_values"] for s in sites])
    expected = np.median(rows / rows[:, :1], axis=0)
    assert found.values == pytest.approx(expected.tolist()) and found.values[0] == 1
    assert all(low <= middle <= high for low, middle, high in zip(found.low, found.values, found.high, strict=True))


def test_it_is_said_in_words_and_written(tables: DiagnosticTables, folder: Path) -> None:
    said = tables.diagnostics
    assert said.time_share == pytest.approx(0.01)
    assert any("unchanged, byte for byte" in line for line in said.sentences)
    tables.write(load_frame(folder))
    content = json.loads((folder / "analysis" / "diagnostics.json").read_text())
    assert content["blocks"] and content["merges"]
    assert len(tables.representation) == BLOCKS * sum(arm.runs for arm in said.blocks)


def test_older_records_say_nothing_and_mixed_ones_say_how_many(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    assert assess_diagnostics(load_frame(folder)).empty
    write_diagnostics(folder, {"lora-all": 0.1})
    found = assess_diagnostics(load_frame(folder)).diagnostics
    assert any("have no representation.json" in note for note in found.notes)


def test_a_damaged_file_is_left_out_and_noted(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    write_diagnostics(folder, {"lora-all": 0.1})
    path = next((folder / "runs" / "lora-all").glob("*/representation.json"))
    path.write_text('{"blocks": 1}')
    found = assess_diagnostics(load_frame(folder)).diagnostics
    assert any("representation.json is damaged" in note for note in found.notes)
