"""Findings of a study's design, where a reader of the page looks for them."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from peftlab.analysis.analyze import read_findings
from peftlab.analysis.findings import Finding, Findings
from peftlab.analysis.words import show, show_difference, show_interval, show_p, show_share
from peftlab.report.build import build_report
from peftlab.report.html.design import BETWEEN, MOST_OPEN, design
from peftlab.report.html.render import script
from tests.report.designed import write_design
from tests.report.fixtures import Options, write_results
from tests.report.test_build import Page, embedded

pytestmark = pytest.mark.usefixtures("only_drawn_by_the_page")
GONE = "lora[rank=8,targets=all-linear]"


def section(page: str, name: str) -> str:
    """Text of a section, tags left out."""
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    assert found is not None, name
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[0])))


def shown(f: Finding) -> list[str]:
    texts = [show_difference(f.estimate, "accuracy"), show_interval(f.interval, "accuracy", True), f.verdict]
    return [*texts, *([show_p(f.p_adjusted)] if f.p_adjusted is not None else [])]


@pytest.fixture
def built(tmp_path: Path) -> tuple[str, Findings]:
    folder = write_design(tmp_path)
    return build_report(folder).read_text(encoding="utf-8"), read_findings(folder)


def test_every_finding_is_in_its_section_and_among_the_statements(built: tuple[str, Findings]) -> None:
    page, findings = built
    over, factors, results = (section(page, name) for name in ("over-tasks", "factors", "results"))
    for arm in (a for a in dict.fromkeys(a.label for a in findings.arms) if a != "bitfit"):
        (middle,) = findings.of("interquartile_mean", arm)
        assert arm in over and show(middle.estimate, "accuracy") in over and show_interval(middle.interval, "accuracy") in over
    for f in (*findings.of("over_tasks"), *findings.of("new_tasks")):
        assert all(text in over for text in shown(f)), f.sentence
    assert all(show_share(f.estimate) in over for f in findings.of("improvement"))
    assert len(findings.of("effect")) == 6 and len(findings.of("interaction")) == 7
    for f in (*findings.of("effect"), *findings.of("interaction")):
        assert all(text in factors for text in shown(f)), f.sentence
    assert "rank × targets" in factors and "all-linear against standard" in factors and BETWEEN in factors
    several = (*findings.of("effect_over_tasks"), *findings.of("interaction_over_tasks"))
    assert len(several) == 3 and "Over the 3 tasks" in factors and "3 tasks show little of how much it varies" in factors
    for f in several:
        these = f.details["these"]
        texts = [show_difference(these["estimate"], "accuracy"), show_interval(these["interval"], "accuracy", True)]
        assert all(text in factors for text in (*shown(f), *texts)), f.sentence
    sampled = findings.of("sampling")
    assert len(sampled) == 6 * 3 - 1  # not of the arm with a diverged run, nor of BitFit where it is missing
    assert GONE not in {f.arms[0] for f in sampled} and results.count("examples counted as a sample too") == 3
    assert all(show_interval(f.interval, "accuracy", True) in results for f in sampled)
    assert all(show_interval(f.details["bootstrap"], "accuracy", True) in results for f in sampled)
    statements = section(page, "statements")
    for f in findings.findings:
        assert re.sub(r"\s+", " ", f.sentence) in statements
        assert f"{f.task}, {f.backbone}: {f.task}, {f.backbone}" not in statements
    assert all(line in section(page, "plan") for line in findings.plan.further)


def test_an_arm_that_a_task_lacks_is_named_and_the_contents_lead_there(built: tuple[str, Findings]) -> None:
    page, _ = built
    assert "Not here, because a task lacks them: bitfit." in section(page, "over-tasks")
    parser = Page()
    parser.feed(page)
    assert len(parser.ids) == len(set(parser.ids))
    assert {"#over-tasks", "#factors"} <= set(parser.addresses)


def test_each_note_is_of_its_own_task(built: tuple[str, Findings]) -> None:
    _, findings = built
    assert len(findings.notes) == len(set(findings.notes))
    sampled = [note for note in findings.notes if "is a sample as well" in note]
    tasks = dict.fromkeys((a.task, a.backbone) for a in findings.arms)
    for (task, backbone), note in zip(tasks, sampled, strict=True):
        means = sorted(a.mean for a in findings.arms if (a.task, a.backbone) == (task, backbone) and a.mean is not None)
        assert note.startswith(f"{task}, {backbone}: ") and show(means[len(means) // 2], "accuracy") in note
    (beyond,) = [note for note in findings.notes if "reaches beyond" in note]
    assert beyond.count(GONE) == 1


def test_single_models_of_one_seed(tmp_path: Path) -> None:
    folder = write_design(tmp_path, seeds=1, tasks=2)
    page, findings = build_report(folder).read_text(encoding="utf-8"), read_findings(folder)
    results, sampled = section(page, "results"), findings.of("sampling")
    assert sampled and "McNemar" in results and "full alone right" in results
    assert all(f"{f.details['only_first']} {f.details['only_second']} 400" in re.sub(r"\s+", " ", results) for f in sampled)
    assert "cannot be tested" in section(page, "over-tasks")


def test_a_plain_study_has_none_of_it(tmp_path: Path) -> None:
    page = build_report(write_results(tmp_path)).read_text(encoding="utf-8")
    assert 'id="over-tasks"' not in page and "The test set as a sample" not in page


def test_many_interactions_are_folded_and_backbones_are_no_tasks(built: tuple[str, Findings]) -> None:
    _, findings = built
    task = findings.arms[0].task
    (one,) = [f for f in findings.of("interaction") if f.task == task]
    many = findings.model_copy(
        update={"findings": [f for f in findings.findings if f.kind == "effect"] + [one] * (MOST_OPEN + 1)}
    )
    table = next(t for t in design(many)["factors"] if t["title"].startswith(f"{task},"))
    assert len(table["folded"]) == MOST_OPEN + 1 and len(table["rows"]) == 2
    arms = [a.model_copy(update={"task": "digits", "backbone": a.task}) for a in findings.arms]
    middles = [f.model_copy(update={"details": {"settings": 3, "tasks": 1}}) for f in findings.of("interquartile_mean")]
    over = design(findings.model_copy(update={"arms": arms, "findings": middles}))["over"]
    assert over["title"] == "Over all backbones" and over["of"] == "the 3 backbones" and not over["compared"]


def test_where_diverged_runs_stand_is_said_in_the_plans_words(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options())
    page = build_report(folder).read_text(encoding="utf-8")
    assert embedded(page)["imputed_at"] == read_findings(folder).plan.imputed_at == "chance level"
    assert "chance level" not in script()  # the script does not know it by itself
