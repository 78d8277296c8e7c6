"""Gradients over seeds against numpy and scipy on the files themselves."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from peftlab.analysis.assess_flow import FlowTables, assess_flow
from peftlab.analysis.frame import load_frame
from tests.report.fixtures import LEVELS, STUDY, Options, write_results
from tests.report.gradients import STEPS, write_gradients

BITS4 = {"name": "bnb", "bits": 4, "type": "nf4"}


def options() -> Options:
    study: dict[str, Any] = copy.deepcopy(STUDY)
    lora = {"name": "lora", "rank": 8, "targets": "standard"}
    study["arms"] = {
        "lora": {"adapter": lora},
        "qlora": {"adapter": lora, "quantizer": BITS4},
        "qlora-r2": {"adapter": {**lora, "rank": 2}, "quantizer": BITS4},
        "late": {"adapter": lora, "quantizer": BITS4, "learning_rate": 3e-4},
    }
    study["analysis"] = {"metric": "accuracy"}
    study.pop("tune")
    levels = dict.fromkeys(study["arms"], LEVELS["lora[rank=8]"])
    study = json.loads(json.dumps(study))  # shared parts would be YAML aliases
    return Options(study=study, levels=levels, failed=(), diverged=(("qlora", 4),), flags={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("results"), options())
    write_gradients(folder, {"lora": 0.2, "qlora": 0.3, "late": 0.2})
    return folder


@pytest.fixture(scope="module")
def tables(folder: Path) -> FlowTables:
    return assess_flow(load_frame(folder))


def files(folder: Path, arm: str) -> dict[int, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Seed -> (gradient_flow.json, lines of metrics.jsonl)."""
    found = {}
    for path in (folder / "runs" / arm).glob("*/gradient_flow.json"):
        seed = json.loads((path.parent / "config.json").read_text())["seed"]
        lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        found[seed] = (json.loads(path.read_text()), lines)
    return dict(sorted(found.items()))


def naive_log_norm(content: dict[str, Any]) -> float:
    return float(np.mean([np.log10(m["norm"]) for name, m in content["modules"].items() if name != "head"]))


def naive_log_depth(content: dict[str, Any]) -> float:
    first, last = (
        np.sqrt(sum(np.array(content["modules"][f"blocks.{b}.{role}"]["norm"]) ** 2 for role in ("q", "v"))) for b in (0, 3)
    )
    return float(np.log10(first / last)[1:].mean())


def naive_stability(lines: list[dict[str, Any]]) -> float:
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    moves = np.diff(losses)
    return 1 - moves[moves > 0].sum() / np.abs(moves).sum()


def test_means_and_intervals_are_those_of_scipy(folder: Path, tables: FlowTables) -> None:
    arm = next(a for a in tables.flow.arms if a.arm == "lora")
    seeds = files(folder, "lora").values()
    for found, values in (
        (arm.log_norm, [naive_log_norm(c) for c, _ in seeds]),
        (arm.log_depth, [naive_log_depth(c) for c, _ in seeds]),
        (arm.stability, [naive_stability(lines) for _, lines in seeds]),
    ):
        assert found is not None and found.mean == pytest.approx(np.mean(values)) and found.n == 5
        if np.std(values) > 0:
            expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
            assert found.interval == pytest.approx(expected)
    assert arm.zeros is not None and arm.zeros.mean == pytest.approx(0.5 / len(STEPS))


def test_quantized_against_float_is_the_paired_test_of_scipy(folder: Path, tables: FlowTables) -> None:
    contrasts = tables.flow.contrasts
    assert {(c.quantized, c.float_arm, c.same_learning_rate) for c in contrasts} == {
        ("qlora", "lora", True),
        ("late", "lora", False),
    }
    base, other = files(folder, "lora"), files(folder, "qlora")
    values = {
        "gradient norm": [[naive_log_norm(c) for c, _ in arm.values()] for arm in (other, base)],
        "first block against last": [[naive_log_depth(c) for c, _ in arm.values()] for arm in (other, base)],
    }
    for measure, (mine, theirs) in values.items():
        found = next(c for c in contrasts if (c.quantized, c.measure) == ("qlora", measure))
        test = stats.ttest_rel(mine, theirs)
        assert found.estimate == pytest.approx(10 ** np.mean(np.subtract(mine, theirs)))
        assert found.p == pytest.approx(test.pvalue) and found.n == 5
        bounds = test.confidence_interval(0.95)
        assert found.interval == pytest.approx((10**bounds.low, 10**bounds.high))
    known = [c for c in contrasts if c.p is not None]
    # a test that could not be made is a member of the family all the same
    adjusted = multipletests([*(c.p for c in known), *[1.0] * (len(contrasts) - len(known))], method="holm")[1]
    expected = np.asarray(adjusted)[: len(known)]
    assert [c.p_adjusted for c in known] == pytest.approx(list(expected))
    assert all(c.family_size == len(contrasts) for c in contrasts)


def test_a_diverged_run_has_no_stability_and_is_counted(tables: FlowTables) -> None:
    arm = next(a for a in tables.flow.arms if a.arm == "qlora")
    assert arm.diverged == 1 and arm.runs == 5
    assert arm.stability is not None and arm.stability.mean < 0.85


def test_events_are_counted_by_run(tables: FlowTables) -> None:
    found = {a.arm: [(e.kind, e.runs, e.modules) for e in a.events] for a in tables.flow.arms}
    assert found == {"lora": [("explosion", 1, ["blocks.0.v"])], "qlora": [], "late": []}
    assert any("lora: explosion in 1 of 5 runs" in text for text in tables.flow.sentences)


def test_early_stopping_is_replayed(tables: FlowTables) -> None:
    arm = next(a for a in tables.flow.arms if a.arm == "lora")
    assert [s.patience for s in arm.stopping] == [1, 2, 3]  # five evaluations: a patience of five can never end one
    assert all(0 <= s.saved.mean < 1 and s.lost.mean >= 0 and s.fired <= s.runs == 5 for s in arm.stopping)
    assert all(m.interval is not None and m.interval[0] >= 0 for s in arm.stopping for m in (s.saved, s.lost))


@pytest.mark.parametrize(("recorded", "followed"), [("accuracy", "accuracy"), (None, "loss")])
def test_early_stopping_is_replayed_on_the_metric_that_training_follows(
    tmp_path: Path, recorded: str | None, followed: str
) -> None:
    """The study declares the loss, which falls throughout; the loop would have stopped by the accuracy."""
    chosen = options()
    chosen.study["analysis"]["metric"] = "loss"
    folder = write_results(tmp_path, dataclasses.replace(chosen, diverged=()))
    write_gradients(folder, {"lora": 0.2})
    for run in (folder / "runs" / "lora").iterdir():
        results = json.loads((run / "results.json").read_text())
        if recorded:  # records from before it was kept do not say
            (run / "results.json").write_text(json.dumps({**results, "primary_metric": recorded}))
        curve = zip([0.5, 0.6, 0.55, 0.58, 0.7], [1.0, 0.9, 0.8, 0.7, 0.6], strict=True)
        lines = [
            {"step": n, "epoch": n, "split": "validation", "accuracy": accuracy, "loss": loss}
            for n, (accuracy, loss) in enumerate(curve, start=1)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (arm,) = assess_flow(load_frame(folder)).flow.arms
    first = arm.stopping[0]
    assert (first.metric, first.patience, first.runs) == (followed, 1, 5)
    expected = (5, 0.4, 0.1) if recorded else (0, 0.0, 0.0)
    assert (first.fired, first.saved.mean, first.lost.mean) == pytest.approx(expected)


def test_the_table_is_what_was_recorded(folder: Path, tables: FlowTables, tmp_path: Path) -> None:
    frame = load_frame(folder)
    tables.write(frame)
    table = pd.read_csv(folder / "analysis" / "gradient_flow.csv")
    content = files(folder, "qlora")[2][0]
    rows = table[(table["arm"] == "qlora") & (table["seed"] == 2) & (table["site"] == "blocks.1.q")]
    assert list(rows["norm"]) == pytest.approx(content["modules"]["blocks.1.q"]["norm"]) and list(rows["step"]) == STEPS
    assert json.loads((folder / "analysis" / "gradient_flow.json").read_text())["arms"][0]["arm"] == "lora"


def test_nothing_recorded_nothing_written(tmp_path: Path) -> None:
    folder = write_results(tmp_path, options())
    tables = assess_flow(load_frame(folder))
    tables.write(load_frame(folder))
    assert tables.empty and tables.flow.arms == [] and not (folder / "analysis" / "gradient_flow.csv").exists()


def test_a_damaged_file_is_left_out_and_named(tmp_path: Path) -> None:
    folder = write_results(tmp_path, options())
    write_gradients(folder, {"lora": 0.2})
    broken = next((folder / "runs" / "lora").glob("*/gradient_flow.json"))
    broken.write_text('{"steps": [1, 2], "modules": {"m": {}}}')
    tables = assess_flow(load_frame(folder))
    assert any("is damaged" in note for note in tables.flow.notes)
    assert tables.flow.arms[0].runs == 4
