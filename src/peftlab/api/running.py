"""plan, run, analyze, report, choose: from a study to its answer."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftlab.analysis.words import plural
from peftlab.api import answers
from peftlab.api._amounts import parse_memory_mb, parse_share
from peftlab.api._at_work import at_work
from peftlab.api._data_first import prepare_first, unfinished
from peftlab.api._left import left_of
from peftlab.api._seed_notes import with_seed_notes
from peftlab.api._study_tables import findings_table, plan_table
from peftlab.api.answers import Answer
from peftlab.api.engines import Where
from peftlab.study.load import dump, load_study, of_file
from peftlab.study.schema import Study

RESULTS = Path("results")


def cache_folder() -> Path:
    """Where prepared data are shared between studies: ``$PEFTLAB_CACHE``, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PEFTLAB_CACHE") or Path(base) / "peftlab")


def plan(  # noqa: PLR0913
    study: str | Path,
    *,
    overrides: Iterable[str] = (),
    only: Sequence[str] = (),
    max_runs: int | None = None,
    output: Path = RESULTS,
    prefix_cache: bool | float = True,
    fused: bool = True,
    stack: str = "off",
    compile: str = "off",
    device: str = "auto",
) -> Answer:
    """Every run of a study, what is refused and why, predicted memory and time; what is left to do. Nothing is started."""
    narrowed = {"only": tuple(only), "max_runs": max_runs, "fused": fused, "stack": stack, "compile": compile}
    narrowed |= {"device": device, **_shared(prefix_cache)}
    folder, parsed, _, progress = _planned(study, tuple(overrides), Path(output), narrowed)
    return _shown_plan(folder, parsed, progress.plan)


def run(  # noqa: PLR0913
    study: str | Path,
    *,
    overrides: Iterable[str] = (),
    only: Sequence[str] = (),
    max_runs: int | None = None,
    output: Path = RESULTS,
    jobs: int | None = None,
    processes: int = 1,
    shard: bool = False,
    stack: str = "off",
    compile: str = "off",
    device: str = "auto",
    retry_failed: bool = False,
    dry_run: bool = False,
    checkpoint_every_s: float = 30.0,
    prefix_cache: bool | float = True,
    fused: bool = True,
    engine: str = "local",
    address: str | None = None,
    place: Sequence[str] = (),
    gpus: float | None = None,
    shared_disk: bool = True,
) -> Answer:
    """Run a study, or go on with it; then analyse it and write the report.

    Tuning runs come first (if the study has ``tune``), then the evaluation runs with what was chosen. Finished runs are reused.
    ``checkpoint_every_s``: what ``kill -9`` may cost each run; no result depends on it.
    ``prefix_cache``: whether runs share hidden states before the first trained layer, or at most how many megabytes of them.
    ``fused``: adapted layers compute base and update together, which gives the same numbers up to rounding and dropout's draws.
    ``processes``: of each run; they share the examples of every batch (:mod:`peftlab.training.team`), one on each GPU, and
    with ``shard`` the frozen weights as well.
    ``stack``: runs in one process that are computed together (:mod:`peftlab.training.stack`): off, auto, or so many at most.
    ``compile``: training steps (:mod:`peftlab.training.compiled`): off, on, or auto: where it is predicted to pay.
    ``device``: auto, cpu, cuda or mps; of this machine.
    ``engine``: ``local`` or ``ray``; what follows is for a Ray cluster (:class:`peftlab.api.engines.Where`).
    """
    name = load_study(study, overrides).study  # a mistake in it is told at once
    narrowed: dict[str, Any] = {"only": tuple(only), "max_runs": max_runs, "fused": fused, "stack": stack, "compile": compile}
    narrowed |= {"device": device, **_shared(prefix_cache)}

    from rich.console import Console

    from peftlab.execution.bars import listener_for
    from peftlab.tuning.study_run import StudyRun

    console = Console(stderr=True)

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    local = {"jobs": jobs, "processes": processes, "shard": shard, "stack": stack, "device": device}
    cluster = {"address": address, "place": place, "gpus": gpus, "shared_disk": shared_disk}
    where = Where(engine=engine, **local, **cluster)  # pyright: ignore
    machines = where.make(Path(output) / name, cache_folder(), starts=not dry_run)
    with contextlib.closing(machines), contextlib.redirect_stdout(sys.stderr):  # Ray prints what its nodes die of
        told = list(machines.open())
        narrowed["available_mb"] = machines.available_mb
        folder, parsed, planner, progress = _planned(study, tuple(overrides), Path(output), narrowed)
        told += machines.check(progress.plan)
        for sentence in told:
            say(sentence)
        if dry_run:
            return _shown_plan(folder, parsed, progress.plan)
        if engine == "local":  # the nodes of a cluster have caches of their own
            for sentence in prepare_first(unfinished(folder, progress.plan), cache_folder()):
                say(f"data: {sentence}")
        folder.open_or_create(dump(parsed, tuple(overrides)))
        execution = StudyRun(
            folder=folder,
            study=parsed,
            planner=planner,
            progress=progress,
            cache=cache_folder(),
            engine=machines,
            retry_failed=retry_failed,
            checkpoint_every_s=checkpoint_every_s,
            listener=lambda what: listener_for(console, what),
            say=say,
        )
        outcome = execution.run()
    if left := outcome.counts.get("leased", 0):
        say(f"{plural(left, 'run')} left to another process; the same command takes up what becomes of it there")
    data: dict[str, Any] = {"folder": str(folder.path), "runs": outcome.counts, "interrupted": outcome.interrupted}
    if folder.superseded:
        data["superseded"] = True
    if execution.said:
        data["tuning"] = execution.said
    if execution.raced:
        data["racing"] = execution.raced
    if outcome.interrupted or not any(record.status() == "finished" for record in folder.runs("evaluation")):
        short = {"folder": data["folder"], "runs": data["runs"]}  # what tuning and race told was said as it happened
        return Answer(data, lambda: answers.pairs(short), exit_code=outcome.exit_code)
    try:
        shown = report(folder.path)
    except (KeyboardInterrupt, SystemExit):
        say(f"every run has ended, the report is not written yet; `peftlab report {folder.path}` writes it without training")
        raise
    return Answer({**data, **shown.as_dict()}, shown.table, exit_code=outcome.exit_code)


def analyze(folder: str | Path) -> Answer:
    """Frame and findings from the records, written to ``analysis/``."""
    from peftlab.analysis.analyze import analyze as compute

    findings = compute(folder)
    return Answer(findings.model_dump(mode="json"), lambda: findings_table(findings))


def report(folder: str | Path, *, eps: bool = False) -> Answer:
    """Analyse, then write ``report/``: index.html, figures (PDF and PNG, with ``eps`` EPS as well), tables."""
    from peftlab.analysis.analyze import read_findings
    from peftlab.report.build import build_report

    with at_work("writing the report: analysis, figures, tables"):
        path = build_report(folder, eps=eps)  # analyses anew
    findings = read_findings(folder)
    data = {"report": str(path), "verdict": findings.verdict}
    return Answer(data, lambda: answers.lines(findings_table(findings), f"report: {path}"))


def choose(folder: str | Path, *, memory: str | None = None, margin: str | None = None) -> Answer:
    """The smallest arm that is shown to be non-inferior within a memory limit, and how sure that is."""
    from peftlab.analysis.choose import choose as pick

    made = pick(folder, memory_mb=parse_memory_mb(memory), margin=parse_share(margin))
    rows = [(other.label, other.why) for other in made.not_chosen]
    table = answers.table(["passed over", "why"], rows) if rows else None
    return Answer(made.model_dump(mode="json"), lambda: answers.lines(made.sentence, table, *made.notes))


def _shared(prefix_cache: bool | float) -> dict[str, float]:
    return {} if prefix_cache is True else {"prefix_cache_mb": float(prefix_cache)}


def _planned(study: str | Path, overrides: tuple[str, ...], output: Path, narrowed: Mapping[str, Any]) -> Any:
    """(results folder, study, planner, how far its tuning is, with the plan); ``narrowed``: options of the plan."""
    parsed = load_study(study, overrides)  # a typo is told before torch is imported

    from peftlab.trackers.contract import trackers_of

    with of_file(study, overrides):
        trackers_of(parsed.trackers)  # so is one that is not installed

    from peftlab.planning.begun import begun_batches
    from peftlab.planning.plan import PlanOptions
    from peftlab.planning.planner import Planner
    from peftlab.probes.contract import probes_of
    from peftlab.records.store import ResultsFolder
    from peftlab.study.expand import cells
    from peftlab.tuning.search import follow

    folder = ResultsFolder(output / parsed.study)
    with of_file(study, overrides), at_work("planning") as at:
        probes_of(parsed.probes)
        begun = begun_batches(folder) if any(cell.train.batch_size == "auto" for cell in cells(parsed)) else {}
        planner = Planner(parsed, PlanOptions(cache=cache_folder(), begun=begun, **narrowed), at)
        return folder, parsed, planner, follow(folder, parsed, planner)


def _shown_plan(folder: Any, study: Study, made: Any) -> Answer:
    made = with_seed_notes(made, study, folder)
    left = left_of(made, study, folder)
    return Answer({**made.as_dict(), **left.as_dict()}, lambda: plan_table(study, made, left))


__all__ = ["analyze", "cache_folder", "choose", "plan", "report", "run"]
