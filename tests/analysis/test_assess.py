"""From records to statements: numbers agree with scipy, words with the numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from peftlab.analysis.analyze import analyze, read_findings
from peftlab.analysis.choose import choose
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import load_frame
from peftlab.analysis.words import equation_p, show_correlation
from peftlab.errors import RecordError
from tests.report.fixtures import LEVELS, STUDY, Options, write_results, write_unlike_settings


def changed(**study: Any) -> dict[str, Any]:
    return {**STUDY, "tune": None, **study}


def test_findings_json_is_what_was_returned(folder: Path, findings: Findings) -> None:
    assert read_findings(folder) == findings
    files = {"results.parquet", "results.csv", "findings.json", "analysis_summary.md"}
    assert {p.name for p in (folder / "analysis").iterdir()} == files
    raw = json.loads((folder / "analysis" / "findings.json").read_text())
    assert raw["plan"]["baseline"] == "full" and raw["plan"]["margin_relative"] == 0.03 and raw["plan"]["family_size"] == 6


def test_twice_the_same_bytes(folder: Path, findings: Findings) -> None:
    before = (folder / "analysis" / "findings.json").read_bytes()
    analyze(folder)
    assert (folder / "analysis" / "findings.json").read_bytes() == before


def test_numbers_are_those_of_scipy(folder: Path, findings: Findings) -> None:
    table = load_frame(folder).values("image-classification digits", "bundled:vit-nano")
    for label in ("lora[rank=2]", "lora[rank=32]", "lora-all"):
        judge = stats.ttest_rel(table[label], table["full"])
        found = findings.of("difference", label)[0]
        assert found.p == pytest.approx(judge.pvalue)
        margin = findings.of("non_inferiority", label)[0]
        assert margin.p == pytest.approx(stats.ttest_1samp(table[label] - 0.97 * table["full"], 0, alternative="greater").pvalue)
        shifted = (table[label] - 0.1) - 0.97 * (table["full"] - 0.1)
        assert margin.details["above_chance"]["p"] == pytest.approx(stats.ttest_1samp(shifted, 0, alternative="greater").pvalue)


def test_the_achieved_correlation_is_said(folder: Path, findings: Findings) -> None:
    table = load_frame(folder).values("image-classification digits", "bundled:vit-nano")
    summary = (folder / "analysis" / "analysis_summary.md").read_text(encoding="utf-8")
    for label in ("lora[rank=2]", "linear-probe", "lora-all"):
        (found,) = findings.of("difference", label)
        r = stats.pearsonr(table[label], table["full"]).statistic
        assert found.correlation == pytest.approx(r)
        assert f", correlation over seeds {r:.2f}".replace("-", "−") in found.sentence and found.sentence in summary
    assert (show_correlation(-0.314), show_correlation(-0.004), show_correlation(None)) == ("−0.31", "0.00", "–")


def test_the_margin_above_chance_level_is_shown_for_each_arm(tmp_path: Path, folder: Path, findings: Findings) -> None:
    """A column of the summary's table; none where the margin is absolute, which chance does not change."""
    title, table = "margin above chance level", load_frame(folder).values("image-classification digits", "bundled:vit-nano")
    summary = (folder / "analysis" / "analysis_summary.md").read_text(encoding="utf-8").splitlines()
    head = next(line for line in summary if line.startswith("| arm |"))
    cells = {line.split(" |")[0][2:]: line.split(" | ")[-1].removesuffix(" |") for line in summary if line.startswith("| ")}
    assert head.endswith(f"| {title} (p, not adjusted) |") and cells["full"] == "–"
    assert len({line.count("|") for line in summary if line.startswith("|")}) == 1
    for label in ("linear-probe", "lora[rank=2]", "lora-all"):
        shifted = (table[label] - 0.1) - 0.97 * (table["full"] - 0.1)
        p = stats.ttest_1samp(shifted, 0, alternative="greater").pvalue
        assert cells[label] == f"{'met' if p <= 0.05 else 'not shown'} ({equation_p(p)})"
    assert {cells["linear-probe"].split(" (")[0], cells["lora-all"].split(" (")[0]} == {"met", "not shown"}
    study = changed(analysis={"metric": "accuracy", "baseline": "full", "margin": {"absolute": 0.01}})
    analyze(absolute := write_results(tmp_path, Options(study=study)))
    assert title not in (absolute / "analysis" / "analysis_summary.md").read_text(encoding="utf-8")


def test_two_pairs_have_no_correlation(tmp_path: Path) -> None:
    options = Options(study=changed(seeds=[0, 1]), failed=(), diverged=(), flags={})
    assert not any("correlation" in f.sentence for f in analyze(write_results(tmp_path, options)).of("difference"))


def test_verdicts_follow_the_adjusted_p(findings: Findings) -> None:
    for f in findings.of("difference"):
        assert (f.verdict in ("better", "worse")) == (f.p_adjusted is not None and f.p_adjusted <= 0.05)
    for f in findings.of("non_inferiority"):
        assert (f.verdict == "non-inferior") == (f.p_adjusted is not None and f.p_adjusted <= 0.05)
    verdicts = {f.arms[0]: f.verdict for f in findings.of("non_inferiority")}
    assert verdicts["linear-probe"] == "inferior" and verdicts["lora-all"] == "non-inferior"
    assert verdicts["lora[rank=32]"] == "not shown"  # it has a diverged seed


def test_no_difference_is_never_equality(findings: Findings) -> None:
    silent = [f for f in findings.of("difference") if f.verdict == "no difference shown"]
    assert silent
    for f in silent:
        assert "not evidence of equality" in f.sentence
    for text in [f.sentence for f in findings.findings] + findings.verdict:
        assert " equal to" not in text and "same as" not in text and "no effect" not in text


def test_five_pairs_are_told_their_limit(findings: Findings) -> None:
    assert any("cannot go below p = 0.0625" in note for note in findings.notes)
    assert all("0.0625" in f.sentence for f in findings.of("difference") if f.n == 5)


def test_power_note(findings: Findings) -> None:
    (note,) = findings.of("power")
    assert note.details["detectable_effect"]["5"] == pytest.approx(1.68, abs=0.005)
    assert "15 seeds" in note.sentence and "seeds" in note.sentence


def test_what_happened_is_in_the_verdict(findings: Findings) -> None:
    assert findings.runs == {"completed": 33, "diverged": 1, "failed": 1}
    text = " ".join(findings.verdict)
    assert "1 run diverged and counts at chance level" in text and "1 run failed" in text
    assert any("bitfit (4)" in w for w in findings.warnings)


def test_arms_that_may_have_learnt_nothing_are_named(tmp_path: Path, findings: Findings) -> None:
    words = "Not shown to be better than always giving the most frequent class"
    assert not any(words in text for text in findings.verdict)
    levels = {**LEVELS, "linear-probe": (0.102, 0.004, 970, 31.0, 3.2), "bitfit": (0.09, 0.004, 5_386, 48.0, 8.1)}
    found = analyze(write_results(tmp_path, Options(levels=levels)))
    (said,) = [text for text in found.verdict if words in text]
    assert said.startswith(f"{words} (10.20 % accuracy): linear-probe and bitfit.")


def test_lower_is_better(tmp_path: Path) -> None:
    study = changed(analysis={"metric": "loss", "baseline": "full", "margin": {"relative": 0.1}})
    findings = analyze(write_results(tmp_path, Options(study=study, failed=(), diverged=())))
    assert not findings.plan.higher_is_better
    assert findings.of("difference", "linear-probe")[0].verdict == "worse"  # a higher loss
    assert findings.of("difference", "linear-probe")[0].estimate == pytest.approx(0.054, abs=0.01)
    assert findings.of("non_inferiority", "linear-probe")[0].verdict == "inferior"


def test_absolute_margin(tmp_path: Path) -> None:
    study = changed(analysis={"metric": "accuracy", "baseline": "full", "margin": {"absolute": 0.01}})
    findings = analyze(write_results(tmp_path, Options(study=study, failed=(), diverged=())))
    assert "above_chance" not in findings.of("non_inferiority")[0].details
    assert "1.00 percentage points" in findings.of("non_inferiority")[0].sentence


def test_two_tasks_need_both(tmp_path: Path) -> None:
    tasks = [{"kind": "image-classification", "data": d} for d in ("digits", "letters")]
    findings = analyze(write_results(tmp_path, Options(study=changed(matrix={"task": tasks}), failed=(), diverged=())))
    joint = findings.of("non_inferiority_everywhere")
    assert len(joint) == 6 and findings.plan.family_size == 12
    for f in joint:
        parts = [g.p for g in findings.of("non_inferiority", f.arms[0])]
        assert len(parts) == 2 and f.p == max(p for p in parts if p is not None)


def test_a_declared_setting_without_a_comparison_is_one_of_every(tmp_path: Path) -> None:
    """Full fine-tuning that ran out of memory on the third backbone leaves nothing to compare with there."""
    backbones = ["bundled:vit-nano", "bundled:vit-pico", "bundled:vit-femto"]
    study = changed(matrix={"backbone": backbones})
    folder = write_results(tmp_path, Options(study=study, failed=(), diverged=()))
    whole = analyze(folder)
    shown = [f.arms[0] for f in whole.of("non_inferiority_everywhere") if f.verdict == "non-inferior"]
    assert shown and whole.verdict[0].startswith("Shown to be within 3 % of full on every task and backbone: ")
    assert choose(folder).label in shown
    for label, untested in (("full", 1), ("*", 1)):  # the baseline alone, then the whole backbone
        for path in folder.glob(f"runs/{'*' if label == '*' else 'full'}/*/config.json"):
            if json.loads(path.read_text())["backbone"] == backbones[-1]:
                shutil.rmtree(path.parent)
        found = analyze(folder)
        joint = found.of("non_inferiority_everywhere")
        assert joint and {f.verdict for f in joint} == {"cannot be tested"} and found.plan.family_size == 18
        assert "it was tested in 2 of them" in joint[0].sentence
        assert found.verdict[0] == "No arm is shown to be within 3 % of full on every task and backbone."
        assert found.verdict[1].startswith(f"In {untested} of the 3 declared pairs of task and backbone no arm could be compared")
        made = choose(folder)
        why = {other.label: other.why for other in made.not_chosen}
        assert made.label is None and "2 of 3 settings" in why.pop("full")
        assert all("cannot be tested" in words for words in why.values())


def test_an_arm_that_lacks_a_setting_is_named(tmp_path: Path) -> None:
    tasks = [{"kind": "image-classification", "data": d} for d in ("digits", "letters")]
    folder = write_results(tmp_path, Options(study=changed(matrix={"task": tasks}), failed=(), diverged=()))
    for path in folder.glob("runs/linear-probe/*/config.json"):
        if json.loads(path.read_text())["task"]["data"] == "letters":
            shutil.rmtree(path.parent)
    assert analyze(folder).verdict[1] == "Not compared in each of them: linear-probe."
    assert "linear-probe" in {other.label for other in choose(folder, margin=0.2).not_chosen}


def test_folds_widen_the_intervals(tmp_path: Path) -> None:
    task = {"kind": "image-classification", "data": "digits", "folds": 5}
    study = changed(task=task, seeds=[0])
    findings = analyze(write_results(tmp_path, Options(study=study, failed=(), diverged=(), folds=5)))
    arm = next(a for a in findings.arms if a.label == "full")
    values = np.array(arm.values, dtype=float)
    assert arm.interval is not None and arm.n == 5
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert (arm.interval[1] - arm.interval[0]) / 2 == pytest.approx(half)
    assert all(f.p_sign_flip is None for f in findings.of("difference"))


@pytest.mark.parametrize(
    ("study", "options", "words"),
    [
        (changed(seeds=[0]), {}, "one seed only"),
        (changed(arms={"full": {"adapter": "full"}}), {}, "There is one arm only"),
        (changed(), {"skip": tuple((label, s) for label in LEVELS if label != "full" for s in range(5))}, "one has finished"),
        (changed(analysis={"metric": "accuracy"}), {}, "No baseline is declared"),
        (changed(analysis={"metric": "accuracy", "baseline": "fulll"}), {}, "'fulll' has no outcome"),
        (changed(analysis={"metric": "top9"}), {}, "No record has the declared metric 'top9'"),
        (changed(), {"skip": tuple((label, s) for label in LEVELS for s in range(5))}, "no finished run yet"),
        (changed(), {"failed": tuple((label, s) for label in LEVELS for s in range(5))}, "no finished run yet"),
        (changed(), {"diverged": tuple((label, s) for label in LEVELS for s in range(5))}, ""),
    ],
)
def test_degenerate_folders_give_warnings(tmp_path: Path, study: dict[str, Any], options: dict[str, Any], words: str) -> None:
    folder = write_results(tmp_path, Options(study=study, **{"failed": (), "diverged": (), **options}))
    findings = analyze(folder)
    assert words in " ".join(findings.warnings)
    assert findings.verdict
    assert read_findings(folder) == findings
    claimed = [f for f in findings.findings if f.verdict in ("better", "non-inferior", "equivalent") and f.kind != "effect"]
    assert not claimed or words == ""
    choose(folder)


def test_damaged_findings_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "findings.json").write_text('{"study": "x"}')
    with pytest.raises(RecordError):
        read_findings(tmp_path)


def test_values_stand_at_their_own_seed_and_fold_where_settings_have_others(tmp_path: Path) -> None:
    folder = write_unlike_settings(tmp_path)
    found = analyze(folder)
    assert found.pairs == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)] and read_findings(folder) == found
    runs = [(json.loads(p.read_text()), p.with_name("results.json")) for p in folder.glob("runs/*/*/config.json")]
    measured = {
        (c["task"]["data"], c["label"], (c["seed"], c["fold"])): json.loads(p.read_text())["metrics"]["test"]["accuracy"]
        for c, p in runs
    }
    for arm in found.arms:
        data = arm.task.split()[1]
        assert arm.values == [measured.get((data, arm.label, pair)) for pair in found.pairs]
    assert [found.places(f"image-classification {data}", "bundled:vit-nano") for data in ("digits", "letters")] == [
        [2, 4], [0, 1, 2, 3],
    ]  # fmt: skip
    assert {arm.task.split()[1] for arm in found.incomplete()} == {"digits", "letters"}
    shifted = found.model_dump()
    shifted["arms"][0]["values"] = shifted["arms"][0]["values"][1:]
    (folder / "analysis" / "findings.json").write_text(json.dumps(shifted))
    with pytest.raises(RecordError, match="cannot be read as findings"):
        read_findings(folder)
