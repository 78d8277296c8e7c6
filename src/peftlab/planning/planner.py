"""From a study to its plan."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from peftlab.errors import PlanRefused, StudyError, nearest
from peftlab.planning.arms import Arms, Ready, check_tasks, forecast_by, of_arm
from peftlab.planning.budgets import resolve_budgets
from peftlab.planning.compiling import Verdict, verdict, wanted_compile
from peftlab.planning.plan import Plan, PlannedRun, PlanOptions
from peftlab.planning.prefix import Decision
from peftlab.planning.search import (
    ArmKey,
    Key,
    Search,
    Space,
    Values,
    adapter_values,
    grid,
    middle,
    missing_words,
    rung_words,
    shortened,
    shown_values,
    space_of,
    tried,
    whole_numbers,
    words,
)
from peftlab.planning.sharing import decide, schedule_of, sentences
from peftlab.planning.stacking import check_stack, wanted_stack
from peftlab.planning.stacking import sentences as stack_sentences
from peftlab.records.record import RunConfig
from peftlab.study.confounds import Trained, unlike
from peftlab.study.expand import Cell, cells, checked_train, select_cells
from peftlab.study.schema import ADAPTER, Study, Train
from peftlab.study.task_key import task_key


def make_plan(study: Study, options: PlanOptions) -> Plan:
    """Plan a study.

    Raises:
        StudyError, OptionError, DataError, BackboneError: the study cannot be run as it is written.
        PlanRefused: ``only`` names no arm.
    """
    return Planner(study, options).plan(chosen=options.chosen)


class Planner:
    """Plans a study, again and again as its tuning goes on; what does not change with that is looked at once."""

    def __init__(self, study: Study, options: PlanOptions, at: Callable[[str], None] = lambda _: None) -> None:
        """As :func:`make_plan`, which says what is raised; ``at`` is told which arm is looked at, which takes seconds each."""
        self.study, self.options = study, options
        self.arms = Arms(study, options)
        self._verdicts: dict[ArmKey, Verdict] = {}
        known = cells(study)
        _check_baseline(study, [cell.label for cell in known])
        spaces = {id(cell): space_of(cell, study.tune, known) for cell in known} if study.tune else {}
        chosen = select_cells(known, options.only)
        wanted = resolve_budgets(chosen, known, {key: adapter_values(space) for key, (space, _) in spaces.items()})
        looked = [*self._looked_at(wanted, at)]
        check_tasks(looked)
        searched = {item.key: spaces[id(cell)] for item, cell in zip(looked, chosen, strict=True) if self._tunable(item)}
        ready = [self._typical(item, searched[item.key][0]) if item.key in searched else item for item in looked]
        self.items = ready = self.arms.settle_batches(ready, {key: self._tried(space) for key, (space, _) in searched.items()})
        self.items = [self._searched(item, *searched[item.key]) if item.key in searched else item for item in ready]

    def _looked_at(self, wanted: Sequence[Cell], at: Callable[[str], None]) -> Iterator[Ready]:
        for number, cell in enumerate(wanted, 1):
            at(f"planning {cell.label} ({number} of {len(wanted)})")
            yield self.arms.ready(cell)

    def plan(self, drawn: Mapping[Key, Sequence[Values]] | None = None, chosen: Mapping[Key, Values] | None = None) -> Plan:
        """The plan as far as it is known.

        Args:
            drawn: the trials of each search so far, where they are not a grid.
            chosen: the values for the evaluation runs of each fold.
        """
        pairs = list(
            itertools.islice(((item, run) for item in self.items for run in self.runs(item, chosen)), self.options.max_runs)
        )
        runs = tuple(run for _, run in pairs)
        needed = {run.key for _, run in pairs}
        searched = [(item, search) for item in self.items for search in item.searches if search.key in needed]
        tuning = tuple(run for item, search in searched for run in self.tuning_runs(item, search, drawn or {}))
        if not any(run.refusal is None for run in runs):
            reasons = "; ".join(dict.fromkeys(f"{run.label}: {run.refusal}" for run in runs))
            raise PlanRefused(f"no run of the study can be run here: {reasons}", where=self.study.study, remedy="see the reasons")
        wanted = wanted_stack(self.options.stack)
        check_stack(self.study, wanted)
        return Plan(
            study=self.study.study,
            question=self.study.question,
            tuning=tuning,
            runs=runs,
            warnings=tuple(self.warnings()),
            notes=(*self.notes(), *stack_sentences((*tuning, *runs), wanted)),
            machine=self.arms.machine.as_dict(),
            higher_is_better=self.items[0].info.higher_is_better[self.study.analysis.metric],
            searches=tuple(search for item, search in searched if item.refusal is None),
        )

    def _tunable(self, item: Ready) -> bool:
        """Whether tuning can change the outcome: an arm that takes no step has nothing to tune."""
        tune = self.study.tune
        return tune is not None and (item.train.max_steps != 0 or "max_steps" in tune.space)

    def _typical(self, item: Ready, space: Space) -> Ready:
        """With values from the middle of what is searched: those of the study file are never used.

        Raises:
            StudyError, OptionError: the arm cannot take them.
        """
        if not forecast_by(middle(space)):
            return item
        found = self.arms.variant(dataclasses.replace(item, refusal=None), middle(space))
        if found.refusal and found.refusal != item.refusal:
            found = dataclasses.replace(found, refusal=f"with {shown_values(middle(space))}: {found.refusal}")
        return found

    def _tried(self, space: Space) -> Sequence[Values]:
        """What is looked at before anything runs; of lists whose values are one forecast each run is planned anyway."""
        tune = self.study.tune
        return tried(space, tune) if tune is not None and (forecast_by(middle(space)) or not tune.listed) else []

    def _searched(self, item: Ready, space: Space, lacks: tuple[str, ...]) -> Ready:
        """With its searches, one for each fold, every value of which the arm can take.

        Raises:
            StudyError, OptionError: it cannot take one.
        """
        tune = self.study.tune
        assert tune is not None
        for values in whole_numbers(space):
            self._train(item, values)
        searches = []
        for fold in range(item.info.folds):
            typical = self._planned(item, tune.seeds[0], fold, "tuning", middle(space))
            about = {"about": typical.config.run_id if typical.config else "", "trials": tune.number, "seeds": tuple(tune.seeds)}
            searches.append(Search(key=typical.key, space=space, lacks=lacks, **about))
        item = dataclasses.replace(item, searches=tuple(searches))
        for values in self._tried(space):
            planned = self._planned(item, tune.seeds[0], 0, "tuning", values)
            if planned.refusal and not item.refusal:
                item = dataclasses.replace(item, refusal=f"with {shown_values(values)}: {planned.refusal}")
        return item

    def tuning_runs(self, item: Ready, search: Search, drawn: Mapping[Key, Sequence[Values]]) -> Iterator[PlannedRun]:
        """Every trial on every tuning seed; those not drawn yet without a configuration."""
        tune = self.study.tune
        assert tune is not None
        known = grid(search.space) if tune.sampler == "grid" else list(drawn.get(search.key, []))[: search.trials]
        for number in range(search.trials):
            values = known[number] if number < len(known) else middle(search.space)
            for seed in tune.seeds:
                run = self._planned(item, seed, search.key.fold, "tuning", values, tune.rung_of(number)[2])
                yield dataclasses.replace(run, trial=number, config=run.config if number < len(known) else None)

    def runs(self, item: Ready, found: Mapping[Key, Values] | None) -> Iterator[PlannedRun]:
        keys = [search.key for search in item.searches]
        for fold, seed in itertools.product(range(item.info.folds), self.study.seeds):
            chosen: Values | None = (found or {}).get(keys[fold]) if keys else {}
            yield self._planned(item, seed, fold, "evaluation", chosen)

    def _train(self, item: Ready, values: Values) -> Train:
        tuned = {key: value for key, value in values.items() if not key.startswith(ADAPTER)}
        return checked_train({**item.train.model_dump(), **tuned}, where="tune" if tuned else f"arms.{item.cell.arm}")

    def _planned(self, item: Ready, seed: int, fold: int, purpose: str, chosen: Values | None, share: float = 1.0) -> PlannedRun:
        item = self.arms.variant(item, chosen or {})
        train = self._train(item, chosen or {})
        schedule = schedule_of(item, train)
        if share < 1:  # the schedule is as long as the run: warm-up and decay are shares of its steps
            train = train.model_copy(update={"max_steps": shortened(schedule.total, share, item.cell.label)})
            schedule = schedule_of(item, train)
        parts = item.ingredients
        if chosen is not None:  # else: checked for every value that the tuning tries
            with of_arm(item.cell):
                parts.quantizer.check(train, parts.quantize)
                if parts.allocator is not None:
                    parts.allocator.check(item.forecast.sites, item.forecast.ranks or {}, schedule.total, train)
        decision = decide(self.items, item, schedule, self.study, self.options)
        config = None if item.refusal or chosen is None else self._config(item, train, seed, fold, purpose, chosen, decision)
        return PlannedRun(
            label=item.cell.label,
            backbone=item.cell.backbone,
            task=task_key(item.cell.task),
            seed=seed,
            fold=fold,
            purpose=purpose,
            config=config,
            steps=schedule.total,
            trainable=item.forecast.trainable,
            total_parameters=item.forecast.total,
            estimate=item.forecast.used(decision),
            predicted_s=item.forecast.seconds(schedule, item.info.sizes, decision),
            refusal=item.refusal,
        )

    def _config(
        self, item: Ready, train: Train, seed: int, fold: int, purpose: str, chosen: Values, decision: Decision | None
    ) -> RunConfig:
        parts = item.ingredients
        return RunConfig(
            study=self.study.study,
            arm=item.cell.arm,
            label=item.cell.label,
            slug=item.cell.slug,
            factors=dict(item.cell.factors),
            backbone=item.cell.backbone,
            backbone_fingerprint=item.backbone_fingerprint,
            task=parts.task.spec("kind"),
            data_fingerprint=item.data_fingerprint,
            adapter=parts.adapter.spec(),
            allocator=parts.allocator.spec() if parts.allocator else None,
            quantizer=parts.quantizer.spec(),
            quantize=parts.quantize,
            train=train.model_dump(mode="json"),
            seed=seed,
            fold=fold,
            purpose=purpose,  # pyright: ignore
            tuned=dict(chosen),
            predicted=self._predicted(item, decision),
            evaluate_test=purpose == "evaluation",
        )

    def _predicted(self, item: Ready, decision: Decision | None) -> dict[str, Any]:
        estimate = item.forecast.used(decision)
        moving = {"moving": True} if item.forecast.moving else {}
        if estimate is None:
            return moving
        shared = {"prefix": decision.as_dict()} if decision is not None else {}
        parts = {k: round(v, 3) for k, v in estimate.parts_mb.items()}
        about = {"peak_mb": round(estimate.peak_mb, 3), "step_s": float(f"{estimate.step_time_s:.4g}")}
        verdict = self._verdict(item)
        compiled = {"compile": True} if verdict is not None and verdict.compiles else {}
        return {**about, "parts_mb": parts, **shared, **compiled, **moving}

    def _verdict(self, item: Ready) -> Verdict | None:
        """Whether steps of this arm are compiled; None where nobody asked. One for all its runs."""
        wanted = wanted_compile(self.options.compile)
        if wanted == "off" or item.refusal is not None:
            return None
        if item.key not in self._verdicts:
            self._verdicts[item.key] = verdict(item, self.study, self.items, self.options, wanted, self.arms.machine.device)
        return self._verdicts[item.key]

    def warnings(self) -> list[str]:
        """What makes the comparison unfair."""
        tuned = tuple(self.study.tune.space) if self.study.tune else ()
        arms = [Trained.of(item.key, item.train.model_dump(), tuned=tuned) for item in self.items]
        return unlike(arms, self.study.analysis.baseline)

    def notes(self) -> Iterator[str]:
        """What a reader of the plan should know before it is run."""
        ready = self.items
        yield from dict.fromkeys(f"data: {said}" for item in ready if (said := item.info.words()))
        yield from dict.fromkeys(said for item in ready for said in (*item.info.warnings, *item.info.notes))
        yield from dict.fromkeys(note for item in ready for note in item.forecast.notes)
        yield from sentences(ready, self.study, self.options)
        yield from dict.fromkeys(found.words for item in ready if (found := self._verdict(item)) is not None)
        tune = self.study.tune
        if tune is not None:
            runs = f"{tune.number} trials" + (f" x {len(tune.seeds)} seeds" if len(tune.seeds) > 1 else "")
            of = "every arm and fold" if any(item.info.folds > 1 for item in ready) else "every arm"
            yield f"tuning ({tune.sampler}): {runs} for {of}, over {words(tune.space)}"
            if tune.sampler == "halving":
                yield f"tuning (halving): {rung_words(tune)}; every rung trains afresh, on a schedule of its own length"
            yield from (f"{item.cell.label} takes no step: nothing of it is tuned" for item in ready if not item.searches)
        yield from dict.fromkeys(missing_words(item.searches[0]) for item in ready if item.searches and item.searches[0].lacks)


def _check_baseline(study: Study, labels: Sequence[str]) -> None:
    """Told here, not by findings without a comparison after all runs.

    Raises:
        StudyError: the baseline is no arm.
    """
    baseline = study.analysis.baseline
    if baseline is not None and baseline not in labels:
        grid = [label for label in labels if label.startswith(f"{baseline}[")]
        what = f"{baseline!r} stands for several arms" if grid else f"the study has no arm {baseline!r}"
        remedy = f"name one of them: {', '.join(grid)}" if grid else nearest(baseline, set(labels))
        raise StudyError(what, where="analysis.baseline", remedy=remedy)
