"""One tidy frame from a results folder: a row per run x split x metric, and a list of everything that is not in it."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pandas as pd

from peftlab.analysis.earlier_form import Asked, without_earlier_forms
from peftlab.analysis.planned import canonical, folds_of, missing_runs, task_names
from peftlab.analysis.raced import heat_of, read_race, spared
from peftlab.analysis.reading import Problem, RunRecord, read_json, read_runs, read_study
from peftlab.analysis.rows import tidy_rows
from peftlab.analysis.safe_csv import quoted
from peftlab.errors import nearest
from peftlab.study.confounds import Trained, unlike
from peftlab.study.expand import cells
from peftlab.study.schema import Study


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What was measured and what was not.

    ``rows`` has the columns of :data:`peftlab.analysis.rows.COLUMNS` and one ``factor.NAME`` per grid key; ``task`` is kind and
    data in one word.
    """

    folder: Path
    study: Study
    rows: pd.DataFrame
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]  #: what runs noted about themselves
    split: str  #: split that is judged: "test", or "validation" where nothing was tested
    plan: Mapping[str, Any]
    tuning: Mapping[str, Any] | None
    race: Mapping[str, Any] | None = None  #: of a study with `search`: which arms left early, and why
    records: tuple[RunRecord, ...] = ()  #: what ``rows`` was made from, failed runs with it

    @property
    def metric(self) -> str:
        """The declared metric."""
        return self.study.analysis.metric

    @property
    def arms(self) -> list[str]:
        """Labels in the order of the study file; arms that are not in it come last."""
        present = list(dict.fromkeys(self.rows["label"]))
        declared = list(dict.fromkeys(cell.label for cell in cells(self.study)))
        return [a for a in declared if a in present] + [a for a in present if a not in declared]

    @property
    def settings(self) -> list[tuple[str, str]]:
        """(task, backbone) pairs that have records, in order of appearance."""
        return list(dict.fromkeys(zip(self.rows["task"], self.rows["backbone"], strict=True)))

    def primary(self) -> pd.DataFrame:
        """One row per run with the declared metric on the judged split; ``value`` may be missing."""
        rows = self.rows
        return rows[(rows["metric"] == self.metric) & (rows["split"] == self.split)].reset_index(drop=True)

    def values(self, task: str, backbone: str) -> pd.DataFrame:
        """Primary values of one setting: index (seed, fold), a column per arm, missing where a run is missing."""
        rows = self.primary()
        rows = rows[(rows["task"] == task) & (rows["backbone"] == backbone)]
        table = rows.pivot(index=["seed", "fold"], columns="label", values="value").sort_index()
        return table.reindex(columns=[arm for arm in self.arms if arm in table.columns])

    def write(self, folder: Path) -> None:
        """``results.parquet`` and ``results.csv``; cells that would start a formula in a spreadsheet are quoted."""
        folder.mkdir(parents=True, exist_ok=True)
        self.rows.to_parquet(folder / "results.parquet", index=False)
        quoted(self.rows).to_csv(folder / "results.csv", index=False)


def load_frame(folder: str | Path, *, study: Study | None = None, asked: Asked | None = None) -> Frame:
    """Read a results folder.

    Args:
        folder: ``results/<study>``.
        study: whose analysis plan to go by; None: the study as it was run last.
        asked: whose runs count; None: those of the study as it was run last.

    Raises:
        RecordError: there is no folder, or no readable ``study.yaml`` in it. Other damage is in ``problems``.
    """
    folder = Path(folder)
    run_last = read_study(folder)
    study = study or run_last
    records, problems, warnings = read_runs(folder)
    plan = read_json(folder / "plan.json")
    plan = plan if isinstance(plan, dict) else {}
    asked = asked or Asked.of(run_last, plan, ((record.folder.name, record.config) for record in records))
    records, problems, earlier = without_earlier_forms(records, problems, asked)
    warnings += earlier
    tuning = read_json(folder / "tuning.json")
    names = task_names(record.config.task for record in records)
    records, duplicates = _without_duplicates(records, asked.ids)
    warnings += duplicates
    frame, outcomes, row_warnings = tidy_rows(records, names, study.analysis.metric)
    problems += outcomes
    race = read_race(folder) if study.search else None
    problems += missing_runs(
        study, records, problems, plan, lambda task, backbone, *run: spared(heat_of(race, task, backbone), *run)
    )
    tested = frame[(frame["metric"] == study.analysis.metric) & frame["value"].notna() & ~frame["imputed"]]
    split = "validation" if len(tested) and "test" not in set(tested["split"]) else "test"
    return Frame(
        folder=folder,
        study=study,
        rows=frame,
        problems=tuple(problems),
        warnings=(
            *warnings,
            *row_warnings,
            *_shared_costs(records),
            *_frame_warnings(study, frame, split),
            *_confounds(study, records, names),
            *_of_data(records, names),
        ),
        notes=tuple(dict.fromkeys(note for r in records if r.results for note in r.results.notes)),
        split=split,
        plan=plan,
        tuning=tuning if isinstance(tuning, dict) else None,
        race=race,
        records=tuple(records),
    )


def _without_duplicates(records: Sequence[RunRecord], planned: Set[str]) -> tuple[list[RunRecord], list[str]]:
    """One record per arm, task, backbone, seed and fold: the planned one, else the newest."""
    groups: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        config = record.config
        groups[(config.label, config.backbone, canonical(config.task), config.seed, config.fold)].append(record)
    kept, dropped = [], []
    for group in groups.values():
        group.sort(key=lambda r: (r.folder.name in planned, r.results is not None, r.folder.stat().st_mtime_ns, r.folder.name))
        kept.append(group[-1])
        dropped += [f"{r.config.label} seed {r.config.seed} ({r.folder.name})" for r in group[:-1]]
    if not dropped:
        return kept, []
    shown = ", ".join(dropped[:5]) + (f" and {len(dropped) - 5} more" if len(dropped) > 5 else "")
    return kept, [f"Older records of the same arm and seed were left out of the analysis: {shown}."]


def _confounds(study: Study, records: Sequence[RunRecord], names: Mapping[str, str]) -> list[str]:
    configs = [record.config for record in records]
    arms = [Trained.of((c.label, c.backbone, names[canonical(c.task)]), c.train) for c in configs]
    elsewhere = ", ".join(dict.fromkeys(record.config.label for record in records if record.config.adapter.get("source")))
    told = f"Trained elsewhere: {elsewhere}. On which data, how long and how tuned is not known here, and may be what differs."
    return [*unlike(arms, study.analysis.baseline), *([told] if elsewhere else [])]


def _of_data(records: Sequence[RunRecord], names: Mapping[str, str]) -> list[str]:
    """What is wrong with the data themselves, e.g. test examples that are copies of training examples."""
    done = [(names[canonical(record.config.task)], record.results.data_warnings) for record in records if record.results]
    several = len({name for name, _ in done}) > 1
    found = dict.fromkeys((name, said) for name, warnings in done for said in warnings)
    return [f"Data{f' of {name}' if several else ''}: {said}." for name, said in found]


def _shared_costs(records: Sequence[RunRecord]) -> list[str]:
    """On runs that were computed together with others, whose memory and time are not their own."""
    labels = [r.config.label for r in records if r.results and r.results.time.get("stacked")]
    if not labels:
        return []
    which, share = ", ".join(dict.fromkeys(labels)), f"{len(labels)} of {len(records)}"
    return [f"Memory and time of {share} runs are those of several runs computed together, and are left out: {which}."]


def _frame_warnings(study: Study, frame: pd.DataFrame, split: str) -> list[str]:
    found: list[str] = []
    metric = study.analysis.metric
    if frame.empty:
        return ["There is no finished run yet: nothing can be said."]
    if metric not in set(frame["metric"]):
        return [f"No record has the declared metric {metric!r}. {nearest(metric, set(frame['metric'].dropna()))}"]
    if split == "validation":
        found.append("Nothing was evaluated on test data: all values are on validation data, which may have guided the training.")
    directions = frame.loc[frame["metric"] == metric, "higher_is_better"].dropna().unique()
    if len(directions) > 1:
        found.append(f"Records disagree on whether a higher {metric} is better.")
    found += [
        f"Not in the study file, but in its folder, and analysed with the rest: {what}." for what in _undeclared(study, frame)
    ]
    declared = {cell.label for cell in cells(study)}
    if frame["label"].nunique() == 1:
        there = f"Of {len(declared)} arms one has finished runs yet" if len(declared) > 1 else "There is one arm only"
        found.append(f"{there}: nothing can be compared.")
    if frame["seed"].nunique() * frame["fold"].nunique() == 1:
        found.append("There is one seed only: no interval and no test is possible, and differences may be chance.")
    return found


def _undeclared(study: Study, frame: pd.DataFrame) -> list[str]:
    """Arms, seeds and folds that have records and that nobody asks for any more."""
    asked = [*cells(study)]
    folds = max(folds_of(cell.task) for cell in asked)
    found = [", ".join(sorted(set(frame["label"]) - {cell.label for cell in asked}))]
    for name, extra in (("seed", set(frame["seed"]) - set(study.seeds)), ("fold", set(frame["fold"]) - set(range(folds)))):
        found.append(f"{name}{'s' * (len(extra) > 1)} {', '.join(map(str, sorted(extra)))}" if extra else "")
    return [what for what in found if what]


def configurations(frame: Frame) -> dict[tuple[str, str, str], tuple[str, list[dict[str, Any]]]]:
    """(label, task, backbone) -> folder of its first run, and how it was run: one configuration for each fold, in their order.

    Empty where the record cannot be read.
    """
    rows, found = frame.rows.drop_duplicates("folder"), {}
    for arm, runs in rows.groupby(["label", "task", "backbone"], sort=False, dropna=False):
        first = str(runs["folder"].iloc[0])
        chosen = runs.drop_duplicates("fold").sort_values("fold")["folder"] if runs["fold"].nunique() > 1 else [first]
        configs = (read_json(frame.folder / str(where) / "config.json") for where in chosen)
        found[arm] = (first, [config for config in configs if isinstance(config, dict)])
    return found
