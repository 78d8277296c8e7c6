"""The reproducibility checklist, answered from the records alone; what no record can answer is left to the authors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from peftlab.report.paper.material import Material
from peftlab.report.paper.numbers import Numbers
from peftlab.report.paper.said import imputed
from peftlab.report.paper.text import Tex

Answer = Literal["Yes", "No", "Partly", "Not applicable", "For the authors"]


class Item(NamedTuple):
    """``why`` holds no number of its own: those are results."""

    question: str
    answer: Answer
    why: Tex


def checklist(material: Material, numbers: Numbers) -> list[Item]:
    """Items in the order in which a reviewer asks."""
    return [item for part in (_claims, _protocol, _runs, _machine, _authors) for item in part(material, numbers)]


def _claims(material: Material, numbers: Numbers) -> Iterator[Item]:
    plan, tested = material.findings.plan, [f for f in material.findings.findings if f.kind == "difference"]
    yield Item(
        "Do the claims follow from the results?", "Yes",
        Tex("Every number of the generated text is a macro written from the findings; the verdicts are theirs, word for word."),
    )  # fmt: skip
    if any(arm.interval for arm in material.findings.arms):
        text = r"Intervals: \result{plan.intervals}. They cover the randomness of training over \result{seeds.count} seeds."
        if plan.anytime:
            text = text.replace("over ", "over at most ") + " They are anytime-valid: they hold at any number of seeds."
        yield Item("Are error bars reported, and is their meaning stated?", "Yes", Tex(text))
    else:
        text = "No interval can be given: no arm has two runs."
        yield Item("Are error bars reported, and is their meaning stated?", "No", Tex(text))
    if any(f.p is not None for f in tested):
        text = r"\result{plan.difference-test}; adjustment: \result{plan.adjustment}."
        text += " These tests are anytime-valid." if plan.anytime else ""
        yield Item("Are differences tested, and tests adjusted for their number?", "Yes", Tex(text))
    else:
        why = "a baseline is not declared" if not plan.baseline else "no two runs of one seed can be paired more than once"
        yield Item("Are differences tested, and tests adjusted for their number?", "No", Tex(f"Nothing was tested: {why}."))
    declared = plan.margin_declared
    yield Item(
        "Was the analysis declared before the runs?", "Yes" if declared else "Partly",
        Tex(r"Metric, baseline, margin and confidence stand in the study file (SHA-256 \texttt{\result{study.sha}})"
            + ("." if declared else "; the margin was given afterwards.")),
    )  # fmt: skip


def _protocol(material: Material, numbers: Numbers) -> Iterator[Item]:
    if "tuning.seeds" in numbers:
        lost = "tuning.lost.1" in numbers
        text = r"\result{tuning.how}; on validation data, seeds \result{tuning.seeds}, none of them an evaluation seed."
        text += " Where it fell short is listed under limitations." if lost else ""
        yield Item("Did every arm get the same tuning?", "Partly" if lost else "Yes", Tex(text))
    else:
        text = "Nothing was tuned in this study: hyper-parameters are those of the study file; the authors must say where from."
        yield Item("Did every arm get the same tuning?", "Not applicable", Tex(text))
    test, raced = material.findings.plan.split == "test", material.findings.plan.anytime
    text = "Weights were chosen without it; each run was evaluated on it once, after training."
    if raced:
        text += " But the arms were raced on it: its values decided which further runs were made. "
        text += r"The tests allow for that: they are anytime-valid \citep{wang2024anytime}."
    text += " Whether imported arms had seen it is not known here." if material.imported else ""
    yield Item(
        "Was the test split kept for the end?", ("Partly" if raced or material.imported else "Yes") if test else "No",
        Tex(text if test else "Nothing was evaluated on test data: all values are on validation data."),
    )  # fmt: skip
    yield Item(
        "Are data and splits specified?", "Yes" if material.fingerprints else "No",
        Tex("Section~\\ref{sec:data} names the data, the sizes of the splits and the SHA-256 of what was read." if
            material.fingerprints else "No run was recorded."),
    )  # fmt: skip
    text = "Section~\\ref{sec:protocol} and the supplement list them, defaults filled in, as recorded by the runs."
    text += " Those of imported arms are not known here." if material.imported else ""
    yield Item(
        "Are all hyper-parameters given?", ("Partly" if material.imported else "Yes") if material.trained else "No",
        Tex(text if material.trained else "No run was recorded that trained anything."),
    )  # fmt: skip


def _runs(material: Material, numbers: Numbers) -> Iterator[Item]:
    problems = [p.kind for p in material.frame.problems]
    lost = [kind for kind in problems if kind != "diverged"]
    counted = {"diverged": "diverged", "failed": "failed", "missing": "were never run", "unfinished": "are unfinished",
               "unreadable": "cannot be read", "refused": "were refused by the plan"}  # fmt: skip
    told = [rf"\result{{runs.{kind}}} {word}" for kind, word in counted.items() if material.findings.runs.get(kind)]
    text = r"\result{runs.completed} completed" + "".join(f", {line}" for line in told) + ". "
    if "race.spared" in numbers:
        text += r"Of \result{race.planned} planned runs the race spared \result{race.spared}; "
        text += r"Section~\ref{sec:protocol} gives its rule. "
    text += f"Diverged runs count at {imputed(material)}; none was dropped."
    yield Item("Is every planned run accounted for?", "Partly" if lost else "Yes", Tex(text))
    flagged = any(arm.flags for arm in material.findings.arms)
    text = "Arms that fell back to another setting while running are marked in the tables, with the reason below them."
    yield Item("Are deviations from the plan reported?", "Yes", Tex(text if flagged else "No run fell back to another setting."))
    if material.environment["runs"]:
        text = (
            r"\result{compute.runs} evaluation runs, \result{compute.time} of training, at most \result{compute.peak} of memory"
        )
        text += "; tuning runs and evaluation not counted." if "tuning.seeds" in numbers else "; evaluation not counted."
        if "compute.together" in numbers:
            text += r" Runs that shared a process with others: \result{compute.together}; each counts with its part of the time, "
            text += "and with no memory, which is that of all."
        if "compute.untimed" in numbers:
            text += r" Runs of which no record says how long they took: \result{compute.untimed}; they are not in the time."
        yield Item("Is the compute reported?", "Yes", Tex(text))
    else:
        yield Item("Is the compute reported?", "No", Tex("No run recorded its environment."))


def _machine(material: Material, numbers: Numbers) -> Iterator[Item]:
    commit = "software.commit" in numbers
    same = not any(key.startswith("package ") for key in material.environment["differs"])
    if not material.environment["runs"]:
        yield Item("Are software versions recorded?", "No", Tex("No run recorded its environment."))
    else:
        text = "The supplement lists the versions that were recorded" + (", and the commit of the program." if commit else ".")
        text += "" if same else " Runs differ in them."
        yield Item("Are software versions recorded?", "Yes" if same else "Partly", Tex(text))
    yield Item(
        "Can the results be reproduced with one command?", "Yes" if material.fingerprints else "Partly",
        Tex(r"\texttt{peftlab run study.yaml} repeats the study, and \texttt{peftlab paper} writes these sections from its "
            "records. Bit-equal results can be expected on the same machine with the same versions only."),
    )  # fmt: skip


def _authors(material: Material, numbers: Numbers) -> Iterator[Item]:
    for question in (
        "Are the licences of data, models and code stated and respected?",
        "Are societal impact and possible misuse discussed?",
        "Was research with people reviewed and consented to, if there was any?",
        "Are uses of language models in the research described?",
    ):
        yield Item(question, "For the authors", Tex("No record can answer this."))
