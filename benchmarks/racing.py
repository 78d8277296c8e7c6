"""What a race would have spared: the race replayed on the records of a full matrix, by the rule that `run` follows.

    python benchmarks/racing.py [RESULTS...] [--goal best] [--minimum 3] [--futility 0 0.05] [--output FILE]

For each folder of a finished study in which every arm has every seed, and for each goal that its plan allows, prints
JSON: runs and seconds of the race as shares of all, which arms left when, and whether the verdict on every arm is that of the
full matrix analysed with a fixed number of seeds (paired t tests). Seconds are those that the runs took, training and evaluation.
Without a folder the full matrix of studies/racing-digits.yaml is run first, 120 runs.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from _report import report
from _shipped import run_shipped

from peftlab.analysis.analyze import analyze
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import load_frame
from peftlab.records.store import ResultsFolder
from peftlab.study.load import dump
from peftlab.study.schema import Racing, Study
from peftlab.study.task_key import task_key
from peftlab.tuning.racing import Heat, heats, rules, save

KINDS = ("difference", "non_inferiority")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[])
    parser.add_argument("--goal", choices=("best", "margin"))
    parser.add_argument("--minimum", type=int, default=3)
    parser.add_argument("--futility", type=float, nargs="+", default=[0.0, 0.05])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    goals = [arguments.goal] if arguments.goal else ["best", "margin"]
    with tempfile.TemporaryDirectory() as place:
        folders = arguments.folders or [run_shipped("racing-digits", Path(place), "search=null")]
        found = [
            replayed(folder, goal, arguments.minimum, futility)
            for folder, goal, futility in itertools.product(folders, goals, arguments.futility)
        ]
    report("racing", arguments.output, ("torch", "scipy"), {"minimum": arguments.minimum}, found=found)


def replayed(folder: Path, goal: Any, minimum: int, futility: float = 0.0) -> dict[str, Any]:
    """One study, one goal."""
    study = load_frame(folder).study
    asked = study.model_copy(update={"search": Racing(method="racing", goal=goal, minimum=minimum, futility=futility)})
    results = ResultsFolder(folder)
    configs = [run.config() for run in results.runs("evaluation") if run.results() is not None]
    whole = {config.run_id: results.run(config) for config in configs}
    higher = {run.results().higher_is_better[study.analysis.metric] for run in whole.values()}  # pyright: ignore
    named = _named(study)
    found = heats(results, asked, [(named(config.task), config) for config in configs], rules(asked, higher.pop()))
    missing = sum(len(heat.labels) * len(study.seeds) - len(heat.configs) for heat in found)
    if missing:
        raise SystemExit(f"{folder}: {missing} pairs of arm and seed are missing; run the full matrix first")
    seconds = {run_id: _seconds(run.results()) for run_id, run in whole.items()}
    needed = {config.run_id for heat in found for config in heat.needed}
    with tempfile.TemporaryDirectory() as place:
        fixed = _analysed(folder, Path(place) / "fixed", study.model_copy(update={"search": None}), set(whole), None)
        raced = _analysed(folder, Path(place) / "raced", asked, needed, found)
    return {
        "study": study.study,
        "goal": goal,
        "arms": len({label for heat in found for label in heat.labels}),
        "seeds": len(study.seeds),
        "minimum": minimum,
        "futility": futility,
        "runs": {"all": len(whole), "race": len(needed), "share": round(len(needed) / len(whole), 3)},
        "seconds": {
            "all": round(sum(seconds.values()), 1),
            "race": round(sum(seconds[i] for i in needed), 1),
            "share": round(sum(seconds[i] for i in needed) / sum(seconds.values()), 3),
        },
        "left": {left.label: f"{left.why} {left.against} after {left.seeds}" for heat in found for left in heat.race.left},
        "stayed": [label for heat in found for label in heat.race.running],
        "verdicts": _compared(fixed, raced),
        "largest_mean": {"all": _best(fixed), "race": _best(raced)},
    }


def _named(study: Study) -> Any:
    """Task of a record -> its name in the study, which has no defaults filled in."""
    from peftlab.analysis.planned import covers
    from peftlab.study.expand import cells

    tasks = [cell.task for cell in cells(study)]
    return lambda task: next(task_key(asked) for asked in tasks if covers(asked, task))


def _seconds(results: Any) -> float:
    return float(results.time.get("train_s") or 0.0) + float(results.time.get("evaluate_s") or 0.0)


def _analysed(folder: Path, place: Path, study: Study, kept: set[str], race: list[Heat] | None) -> Findings:
    """Findings of a copy that holds only some of the runs."""
    copy = ResultsFolder(place).open_or_create(dump(study))
    for run in ResultsFolder(folder).runs("evaluation"):
        if run.run_id in kept:
            target = place / run.path.relative_to(folder)
            target.mkdir(parents=True)
            for name in ("config.json", "results.json"):
                shutil.copy(run.path / name, target / name)
    if race is not None:
        save(copy, study, race)
    return analyze(place)


def _compared(fixed: Findings, raced: Findings) -> dict[str, Any]:
    """Per kind of finding: on how many arms both say the same, where one says more, and where they contradict each other."""
    silent = ("not shown", "no difference shown", "cannot be tested")
    found: dict[str, Any] = {}
    for kind in KINDS:
        before = {(f.task, f.backbone, f.arms[0]): f.verdict for f in fixed.of(kind)}  # pyright: ignore
        after = {(f.task, f.backbone, f.arms[0]): f.verdict for f in raced.of(kind)}  # pyright: ignore
        unlike = {key[2]: f"{verdict} -> {after.get(key)}" for key, verdict in before.items() if after.get(key) != verdict}
        contradicted = [key[2] for key, verdict in before.items()
                        if verdict not in silent and after.get(key) not in (verdict, *silent, None)]  # fmt: skip
        found[kind] = {"arms": len(before), "same": len(before) - len(unlike), "other": unlike, "contradicted": contradicted}
    return found


def _best(findings: Findings) -> str:
    pick = max if findings.plan.higher_is_better else min
    return pick((arm for arm in findings.arms if arm.mean is not None), key=lambda arm: arm.mean or 0.0).label


if __name__ == "__main__":
    main()
