"""A plan as the planner would make it of a study whose records are those of tests/report/fixtures.py."""

from __future__ import annotations

from typing import Any

from peftlab.planning.plan import Plan, PlannedRun
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.study.task_key import task_key
from tests.report.fixtures import config_of


def plan_of(raw: dict[str, Any], **changes: Any) -> Plan:
    """Evaluation runs of every arm and seed, two seconds each; ``changes``: of their configurations."""
    study = validate_study(raw)
    runs = [
        PlannedRun(
            label=cell.label, backbone=cell.backbone, task=task_key(cell.task), seed=seed, fold=0, purpose="evaluation",
            config=config_of(study, cell, seed).model_copy(update=changes), steps=1, trainable=1, total_parameters=1,
            estimate=None, predicted_s=2.0,
        )
        for cell in cells(study)
        for seed in study.seeds
    ]  # fmt: skip
    return Plan(
        study=study.study, question="", tuning=(), runs=tuple(runs), warnings=(), notes=("one of its own",), machine={},
        higher_is_better=True,
    )  # fmt: skip
