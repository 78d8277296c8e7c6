"""What the page's script is given: every run, every number that of the findings, and small enough."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._stretch import stretch
from peftlab.analysis.findings import Findings
from peftlab.analysis.words import is_share, show, show_difference, show_interval, show_p
from peftlab.report.build import build_report
from peftlab.report.html import runs
from peftlab.report.html.runs import MOST_POINTS, number, scalars, thinned
from peftlab.report.html.shared import Pool, grouped_facts, told_facts
from tests.report.diagnostics import write_diagnostics
from tests.report.fixtures import LEVELS, STUDY, Options, write_results, write_unlike_settings
from tests.report.gradients import write_gradients
from tests.report.layers import write_layers
from tests.report.test_build import embedded


def built(folder: Path) -> tuple[dict[str, Any], Findings, str]:
    text = build_report(folder).read_text(encoding="utf-8")
    return embedded(text), Findings.model_validate_json((folder / "analysis" / "findings.json").read_bytes()), text


@pytest.mark.usefixtures("only_drawn_by_the_page")
def test_every_run_is_there_with_what_it_left(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    write_gradients(folder)
    write_diagnostics(folder)
    trace = "Traceback (most recent call last): ..."
    (path,) = folder.glob("runs/bitfit/*/error.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "traceback": trace}))
    data, _, _ = built(folder)
    runs = {run["id"]: run for run in data["runs"]}
    assert set(runs) == {p.parent.name for p in folder.glob("runs/*/*/config.json")}
    failed = runs[path.parent.name]
    assert (
        failed["status"] == "failed" and failed["error"]["traceback"] == trace and failed["error"]["remedy"] == "halve batch_size"
    )
    diverged = [run for run in runs.values() if run["status"] == "diverged"]
    assert [(run["arm"], run["seed"], run["value"], run["imputed"]) for run in diverged] == [("lora[rank=32]", 4, 0.1, True)]
    for run in runs.values():
        config = json.loads((folder / run["where"] / "config.json").read_text())
        assert (run["arm"], run["seed"]) == (config["label"], config["seed"])
        assert data["configs"][run["config"]]["adapter.name"] == config["adapter"]["name"]
        assert data["packages"][run["packages"]] == {"torch": "2.14.1", "peft": "0.21.2"}
        if run["status"] == "completed":
            results = json.loads((folder / run["where"] / "results.json").read_text())
            assert run["metrics"]["test"]["accuracy"] == pytest.approx(results["metrics"]["test"]["accuracy"], rel=1e-5)
            assert len(data["steps"][run["curves"]["train"][0]]) == len(run["curves"]["validation"][2]) == 5
    told = told_facts(data["facts"], run_of(runs, "lora-all")["facts"])
    assert told["base_check.unchanged"] is True and told["memory.measured_peak_mb"] > 50
    assert len(data["steps"][run_of(runs, "lora[rank=2]")["gradients"][0]]) == 18


def run_of(runs: dict[str, Any], arm: str) -> dict[str, Any]:
    return next(run for run in runs.values() if run["arm"] == arm)


@pytest.mark.usefixtures("only_drawn_by_the_page")
def test_every_number_that_is_compared_is_one_of_the_findings(tmp_path: Path) -> None:
    data, findings, _ = built(write_results(tmp_path))
    (setting,) = data["settings"]
    labels = [arm["label"] for arm in setting["arms"]]
    assert labels == list(LEVELS)
    for arm, summary in zip(setting["arms"], findings.arms, strict=True):
        assert (arm["mean"], arm["low"]) == (pytest.approx(summary.mean, rel=1e-5), pytest.approx(summary.interval[0], rel=1e-5))
    for f in findings.of("difference"):
        declared = setting["declared"][str(labels.index(f.arms[0]))]
        assert (declared["verdict"], declared["n"]) == (f.verdict, f.n) and f.sentence in declared["sentences"]
        assert declared["q"] == pytest.approx(f.p_adjusted, rel=1e-5)
    (pairs,) = findings.exploratory
    assert len(setting["pairs"]["first"]) == len(pairs.first) == 15  # six arms beside the baseline
    named = [(pairs.arms[a], pairs.arms[b]) for a, b in zip(pairs.first, pairs.second, strict=True)]
    assert [(labels[a], labels[b]) for a, b in zip(setting["pairs"]["first"], setting["pairs"]["second"], strict=True)] == named
    assert setting["pairs"]["estimate"] == pytest.approx(pairs.estimate, rel=1e-3)
    assert [setting["pairs"]["verdicts"][place] for place in setting["pairs"]["verdict"]] == pairs.verdict


SAME = {label: (0.9, 0.0, *rest) for label, (_, _, *rest) in LEVELS.items()}
FLAT = {label: (mean, 0.0, *rest) for label, (mean, _, *rest) in LEVELS.items()}
CALM = {"failed": (), "diverged": ()}


@pytest.mark.usefixtures("only_drawn_by_the_page")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            Options(study={**STUDY, "seeds": [0]}, **CALM),
            ["There is one seed only: no interval and no test is possible", "Cannot be tested", "one pair of runs only"],
        ),
        (Options(skip=(("bitfit", 0), ("bitfit", 1)), **CALM), ["bitfit (3)", "planned, but never run", "2 runs are missing"]),
        (
            Options(failed=tuple((label, 1) for label in LEVELS), diverged=()),
            ["7 runs failed and could not be counted", "bitfit: 1 failed", "halve batch_size"],
        ),
        (
            Options(study={**STUDY, "arms": {"full": {"adapter": "full"}}}, **CALM),
            ["There is one arm only: nothing can be compared.", "no comparison was declared or possible"],
        ),
        (Options(levels=SAME, **CALM), ["Cannot be tested", "the difference was the same in every pair"]),
        (Options(levels=FLAT, **CALM), ["Cannot be tested", "tell nothing about its variation"]),
    ],
    ids=["one seed", "missing cells", "failed runs", "one arm", "constant metric", "zero variance"],
)
def test_bad_input_is_told_what_can_and_cannot_be_concluded(tmp_path: Path, options: Options, said: list[str]) -> None:
    data, _, text = built(write_results(tmp_path, options))
    for words in said:
        assert words in text
    assert "NaN" not in text[: text.index('id="report-data"')] and data["runs"]
    assert ('id="compare"' in text) == (len(data["settings"][0]["arms"]) > 1)


@pytest.mark.usefixtures("only_drawn_by_the_page")
def test_a_half_written_folder(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options(**CALM))
    broken = sorted(folder.glob("runs/bitfit/*"))
    (broken[0] / "results.json").unlink()
    (broken[1] / "results.json").write_text('{"run_id": "x", "metr')
    (broken[2] / "config.json").write_text("{")
    (broken[3] / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 2.0, "epoch"')
    (broken[3] / "evaluation.json").write_text("[1, 2")
    (folder / "plan.json").unlink()
    data, findings, text = built(folder)
    statuses = {run["id"]: run["status"] for run in data["runs"]}
    assert [statuses[path.name] for path in broken] == ["unfinished", "unreadable", "unreadable", "completed", "completed"]
    assert "neither results.json nor error.json is there yet" in text and "is damaged" in text
    assert findings.runs["completed"] == 32
    assert next(run for run in data["runs"] if run["id"] == broken[0].name)["error"]["remedy"].startswith("run the study again")


@pytest.mark.slow
def test_five_hundred_runs_fit_in_five_megabytes(tmp_path: Path) -> None:
    source = write_results(tmp_path / "small")
    write_layers(source)
    write_gradients(source)
    for path in source.glob("runs/*/*/metrics.jsonl"):  # as long as a real one
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        train = [{**lines[0], "step": k, "loss": 2.3 / k + 1e-4 * hash_of(path, k)} for k in range(1, 101)]
        path.write_text("".join(json.dumps(line) + "\n" for line in [*train, *(n for n in lines if n["split"] == "validation")]))
    for path in source.glob("runs/*/*/environment.json"):
        packages = {f"package-{k}": f"{k}.{k % 7}.1" for k in range(130)}
        path.write_text(json.dumps({**json.loads(path.read_text()), "packages": packages}))
    folder = tmp_path / "large"
    assert stretch(source, folder, 500, seeds=5) >= 500
    page = build_report(folder)
    assert len(embedded(page.read_text(encoding="utf-8"))["runs"]) >= 500
    assert page.stat().st_size <= 5_000_000


def hash_of(path: Path, k: int) -> int:
    return (int(path.parent.name[:8], 16) * (k + 17)) % 9973


def test_numbers_and_curves_are_cut_short() -> None:
    assert number(0.123456789, 6) == 0.123457 and number(0.95134999999999996) == 0.95134999999999996
    assert number(3.0) == 3 and number(float("nan")) is None and number(None) is None
    points = list(range(1000))
    kept = thinned(points)
    assert len(kept) == MOST_POINTS and (kept[0], kept[-1]) == (0, 999) and kept == sorted(set(kept))
    assert thinned([1, 2]) == [1, 2] and thinned([]) == []


def test_single_values_are_kept_and_tables_counted() -> None:
    content = {"a": 1, "b": {"c": 0.5, "d": None}, "modules": {f"layer.{k}": {"norm": 1.0} for k in range(3)},
               "list": [1, 2], "flag": True, "many": {str(k): k for k in range(99)}}  # fmt: skip
    assert scalars(content) == {
        "a": 1,
        "b.c": 0.5,
        "modules (entries)": 3,
        "list (entries)": 2,
        "flag": True,
        "many (entries)": 99,
    }


def test_equal_values_are_kept_once() -> None:
    pool = Pool()
    assert [pool.place(v) for v in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1})] == [0, 0, 1]
    assert pool.values == [{"a": 1, "b": 2}, {"a": 1}]


VALUES = st.one_of(st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from(["", "1", "cpu"]))


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), VALUES), max_size=6))
def test_what_runs_say_alike_is_kept_once_and_nothing_else_is_taken_for_it(told: list[dict[str, Any]]) -> None:
    facts = {Path(str(k)): values for k, values in enumerate(told)}
    groups, short = grouped_facts(facts)
    for run, values in facts.items():
        back = told_facts(groups, short[run])
        assert list(back) == list(values) and all(type(back[k]) is type(v) and back[k] == v for k, v in values.items())
    for place, group in enumerate(groups):
        runs = [facts[run] for run in facts if short[run][0] == place]
        for name, same in zip(group["names"], group["same"], strict=True):
            alike = len({(type(values[name]), values[name]) for values in runs}) == 1
            assert (same is not None) is alike


@pytest.mark.usefixtures("only_drawn_by_the_page")
def test_a_setting_has_its_own_seeds_and_folds(tmp_path: Path) -> None:
    data, _, _ = built(write_unlike_settings(tmp_path))
    assert {s["task"].split()[1]: s["units"] for s in data["settings"]} == {
        "digits": [[1, 0], [2, 0]], "letters": [[0, 0], [0, 1], [1, 0], [1, 1]],
    }  # fmt: skip
    measured = {(run["s"], run["a"], run["seed"], run["fold"]): run["value"] for run in data["runs"]}
    for s, setting in enumerate(data["settings"]):
        for a, arm in enumerate(setting["arms"]):
            assert arm["values"] == [measured[s, a, *unit] for unit in setting["units"]]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_script_writes_numbers_as_the_tables_do(metric: str) -> None:
    """Means of 10,000 examples over four seeds, what lies exactly between two numbers, and what rounds to nothing."""
    means = np.random.default_rng(0).integers(9000, 10_000, size=(400, 4)).mean(1) / 10_000
    halves = [0.95125, 0.95375, -0.00125, 0.00125, 0.0625, 2.0625, 0.5, 30.0625, 7.125, 7.375, 0.0, -0.0, 3.14159, -7.5, 0.999996]
    plain = [1234.5, 1235.5, 12345.5, -23456.7, 999.4, 999.6, -1000.5, 9999.4, 9999.6, 1e-9, -2.5e-7, 0.00012]
    large = [-1e-5, 1e-5] if metric == "accuracy" else plain
    values = [number(value) for value in (*means, *halves)]
    page = {"share": is_share(metric), "confidence": 0.95, "costs": []}
    core = (Path(runs.__file__).parent / "script" / "core.js").read_text(encoding="utf-8").partition("\nconst tip =")[0]
    script = f"""const document = {{ getElementById: () => ({{ textContent: `{json.dumps(page)}` }}) }};
{core}
const [values, large] = {json.dumps([values, large])}, all = [...values, ...large];
const differences = all.map((v) => showDifference(v));
const intervals = all.slice(1).map((v, i) => showInterval(all[i], v));
process.stdout.write(JSON.stringify([all.map((v) => show(v)), differences, values.map((v) => showP(Math.abs(v))), intervals]));"""
    told = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True, encoding="utf-8").stdout
    shown, differences, p, intervals = json.loads(told)
    every = [*values, *large]
    assert shown == [show(v, metric) for v in every]
    assert differences == [show_difference(v, metric) for v in every]
    assert p == [show_p(abs(v or 0)) for v in values]
    assert intervals == [show_interval(pair, metric) for pair in pairwise(every)]
