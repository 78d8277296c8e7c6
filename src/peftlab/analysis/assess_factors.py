"""Findings about options: within each task and backbone, between them, and over the tasks."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from peftlab.analysis import statements_design as say
from peftlab.analysis.comparison import holm
from peftlab.analysis.design import design, subfamilies
from peftlab.analysis.factorial import Effect, effects
from peftlab.analysis.factors_over_tasks import EffectOverTasks, effects_over_tasks
from peftlab.analysis.findings import OVER_TASKS, AnalysisPlan, Finding
from peftlab.analysis.frame import Frame
from peftlab.analysis.over_tasks import FEWEST_SAMPLED, FEWEST_TASKS
from peftlab.records.record import RunConfig

METHOD = (
    "Factors, among the arms of one adapter: contrasts averaged over all combinations of the other options in which each of its "
    "levels was run, one value per seed, Student's t over seeds; a factor of three or more positive numbers counts per doubling; "
    "interactions are products of contrasts; an option that only some arms have (an importance metric) is a factor among these; "
    "Holm over all effects and interactions of the study.",
    "Factors over tasks, among arms that every task has: the same contrasts, backbones of a task averaged; on these tasks "
    "Student's t over seeds, on tasks like these, from three on, a mixed model in which tasks and seeds cross (REML, "
    "Satterthwaite's degrees of freedom); Holm over all of them.",
)
ACROSS = ("backbone", "data")  #: factors that lie between settings
Cell = tuple[str, str, str]  #: label, task, backbone


def factor_findings(frame: Frame, tables: Mapping[tuple[str, str], pd.DataFrame], plan: AnalysisPlan) -> list[Finding]:
    """Of each adapter's arms: within each setting, then of what lies between settings, then over the tasks.

    Args:
        frame: what was run.
        tables: (task, backbone) -> [seed, arm].
        plan: of the study.
    """
    known = _configs(frame)
    order = [(str(label), *setting) for setting, table in tables.items() for label in table.columns]
    configs = {key: known[key] for key in order if key in known}
    return factor_statements(configs, _values(configs, tables), plan)


def factor_statements(configs: Mapping[Cell, RunConfig], values: pd.DataFrame, plan: AnalysisPlan) -> list[Finding]:
    """``values``: [seed, cell], NaN where a run is missing."""
    settings = list(dict.fromkeys((task, backbone) for _, task, backbone in configs))
    found: list[tuple[tuple[str, str], str, Effect]] = []
    over: list[tuple[str, EffectOverTasks]] = []
    for adapter in dict.fromkeys(str(c.adapter.get("name", "")) for c in configs.values()):
        family = {key: c for key, c in configs.items() if c.adapter.get("name") == adapter}
        for setting in settings:
            found += [(setting, adapter, effect) for effect in _within(family, setting, values, plan)]
        if len(settings) > 1:
            made = _effects(family, values, plan, across=True)
            found += [(("", ""), adapter, e) for e in made if any(c.factor in ACROSS for c in e.contrasts)]
        whole = _everywhere(family, settings, values)
        shared = {setting: _within(whole, setting, values, plan) for setting in settings}
        over += [(adapter, effect) for effect in effects_over_tasks(shared, plan.confidence)]
    adjusted = holm([effect.p for _, _, effect in found])
    new = holm([effect.mixed.p if effect.mixed else None for _, effect in over])
    return [
        *(say.effect(*about, p, plan, len(found)) for about, p in zip(found, adjusted, strict=True)),
        *(say.effect_over_tasks(*about, p, plan, len(over)) for about, p in zip(over, new, strict=True)),
    ]


def few_tasks(findings: Sequence[Finding]) -> list[str]:
    """A warning where statements about options on other tasks rest on too few of them."""
    told = [f for f in findings if f.kind in OVER_TASKS and (f.n < FEWEST_SAMPLED or f.interval)]
    tasks = max((f.n for f in told), default=FEWEST_TASKS)
    if tasks >= FEWEST_TASKS:
        return []
    if tasks < FEWEST_SAMPLED:
        return [
            f"{tasks} tasks do not show how much an effect of an option varies between tasks (it takes {FEWEST_SAMPLED}): "
            "effects over tasks are of these tasks, and nothing is claimed of others."
        ]
    return [
        f"Effects of options on other tasks rest on {tasks} tasks: how much they vary between tasks is known from {tasks - 1} "
        "degrees of freedom only. Their intervals are wide for that, and they hold for tasks of which these are a fair sample."
    ]


def _within(family: Mapping[Cell, RunConfig], setting: tuple[str, str], values: pd.DataFrame, plan: AnalysisPlan) -> list[Effect]:
    here = {key: c for key, c in family.items() if key[1:] == setting}
    return _effects(here, values, plan, reference=(plan.baseline, *setting))


def _effects(
    family: Mapping[Cell, RunConfig], values: pd.DataFrame, plan: AnalysisPlan, *, reference: object = None, across: bool = False
) -> list[Effect]:
    """Among all arms, then among those that share an option which not all have: there only what is new by it.

    ``across``: with the data and the backbone as factors.
    """
    found: list[Effect] = []
    known: dict[str, set[str]] = {}  # factor -> levels that were compared
    for part in (family, *subfamilies(family)):
        arms = design(part)
        if across:
            arms = {key: {**own, "data": key[1], "backbone": key[2]} for key, own in arms.items()}
        made = effects(arms, values, reference=reference, alone=["backbone"] if across else None, confidence=plan.confidence)
        found += [
            e for e in made if part is family or any(not known.get(c.factor, set()).issuperset(c.levels) for c in e.contrasts)
        ]
        for own in arms.values():
            for factor, level in own.items():
                known.setdefault(factor, set()).add(level)
    return found


def _everywhere(
    family: Mapping[Cell, RunConfig], settings: Sequence[tuple[str, str]], values: pd.DataFrame
) -> dict[Cell, RunConfig]:
    """Arms that every setting has a value of, so that an effect is of the same arms on each task."""
    labels = {label for label, _, _ in family}
    whole = {
        label for label in labels if all((key := (label, *s)) in family and bool(values[key].notna().any()) for s in settings)
    }
    return {key: config for key, config in family.items() if key[0] in whole}


def _values(configs: Mapping[Cell, RunConfig], tables: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    values = pd.DataFrame({i: tables[key[1:]][key[0]] for i, key in enumerate(configs)})
    values.columns = pd.Index(list(configs), tupleize_cols=False)
    return values


def _configs(frame: Frame) -> dict[Cell, RunConfig]:
    folders = {f"runs/{r.folder.parent.name}/{r.folder.name}": r.config for r in frame.records}
    rows = frame.primary().drop_duplicates(["label", "task", "backbone"])
    columns = (rows[name].astype(str) for name in ("label", "task", "backbone", "folder"))
    return {(label, task, backbone): folders[folder] for label, task, backbone, folder in zip(*columns, strict=True)}
