"""Where in a study a result from elsewhere belongs, and how it becomes a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from peftlab.analysis.planned import canonical
from peftlab.api._orphans import earlier_forms
from peftlab.errors import RecordError, StudyError, nearest
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from peftlab.study.expand import cells
from peftlab.study.schema import Study


@dataclasses.dataclass(frozen=True, slots=True)
class Arm:
    """The arm to be, and the study that takes it in."""

    study: Study
    results: ResultsFolder
    label: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One backbone and task of a study, and what its records say about the task."""

    backbone: str
    backbone_fingerprint: str
    task: Mapping[str, Any]  #: full specification, as in the study's own records
    data_fingerprint: str
    higher_is_better: Mapping[str, bool]
    chance: Mapping[str, float]
    majority: Mapping[str, float]
    splits: Mapping[str, int]

    def config(self, arm: Arm, seed: int, source: Mapping[str, Any]) -> RunConfig:
        """A record's configuration; ``source`` (with a key of that name) says where it comes from and tells two files apart."""
        return RunConfig(
            study=arm.study.study,
            arm=arm.label,
            label=arm.label,
            slug=arm.label,
            backbone=self.backbone,
            backbone_fingerprint=self.backbone_fingerprint,
            task=dict(self.task),
            data_fingerprint=self.data_fingerprint,
            adapter=dict(source),
            quantizer={"name": "none"},
            train={},  # nothing is known about it
            seed=seed,
        )


def find_place(arm: Arm, backbone: str | None = None) -> Place:
    """The study's backbone and task, as its finished records describe them; asked of the components where nothing has run yet.

    Raises:
        StudyError: ``backbone`` is none of the study, or there are several settings to choose from.
    """
    known = {cell.backbone for cell in cells(arm.study)}
    if backbone is not None and backbone not in known:
        raise StudyError(f"the study has no backbone {backbone!r}", where="backbone", remedy=nearest(backbone, known))
    found = {(c.backbone, canonical(c.task)): c for c in cells(arm.study) if backbone in (None, c.backbone)}
    if len(found) > 1:
        what = f"the study has {len(found)} backbones or tasks, and nothing says which of them is meant"
        raise StudyError(what, where=str(arm.results.path), remedy="import into a study with one, or give a backbone column")
    (cell,) = found.values()
    if int(cell.task.get("folds") or 1) > 1:
        remedy = "import into a study with a fixed test split"
        raise StudyError("a study with folds has no one test split", where=str(arm.results.path), remedy=remedy)
    earlier = earlier_forms(arm.results, arm.study)
    for run in arm.results.runs("evaluation"):
        results, config = run.results(), run.config()
        if results is not None and config.backbone == cell.backbone and run.path not in earlier:
            return _from_record(config, results)
    return _from_components(cell.backbone, cell.task)


def _from_record(config: RunConfig, results: RunResults) -> Place:
    return Place(
        backbone=config.backbone,
        backbone_fingerprint=config.backbone_fingerprint,
        task=config.task,
        data_fingerprint=config.data_fingerprint,
        higher_is_better=results.higher_is_better,
        chance=results.chance,
        majority=results.majority,
        splits=results.splits,
    )


def _from_components(backbone: str, spec: Mapping[str, Any]) -> Place:
    from peftlab.backbones.resolve import source_of
    from peftlab.registry import create

    task = create("task", spec, key="kind", where="task")
    info = task.info()
    return Place(
        backbone=backbone,
        backbone_fingerprint=source_of(backbone).fingerprint(backbone),
        task=task.spec("kind"),
        data_fingerprint=task.fingerprint(),
        higher_is_better=info.higher_is_better,
        chance=info.chance,
        majority=info.majority,
        splits=info.sizes,
    )


def check_free(config: RunConfig, results: ResultsFolder) -> RunFolder:
    """The folder that the record will have.

    Raises:
        RecordError: the arm has other results for this seed already.
    """
    place = results.run(config)
    for run in results.runs("evaluation"):
        there = run.config()
        same = (there.label, there.seed, there.backbone) == (config.label, config.seed, config.backbone)
        if same and there.run_id != config.run_id:
            what = f"{config.label!r} has other results for seed {config.seed} already"
            raise RecordError(what, where=str(run.path), remedy="give the new results another label or --seed")
    return place


def write_record(config: RunConfig, outcome: RunResults, results: ResultsFolder, fill: Callable[[RunFolder], None]) -> None:
    """A finished record; ``fill`` writes the files beside the results. The same record twice is no error."""
    run = check_free(config, results)
    if run.status() == "finished":
        return
    run.create(config)
    with run.lease():
        fill(run)
        run.finish(outcome)
