"""reproduce: run a chosen part of a study again, in a fresh folder, and lay every run beside its record."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftlab.api import answers
from peftlab.api.answers import Answer
from peftlab.errors import PlanRefused, RecordError, StudyError, nearest

EXIT_DIFFERENT = 10
OUTPUT = Path("reproduced")


def reproduce(
    source: str | Path,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    runs: Sequence[str] = (),
    output: str | Path = OUTPUT,
    jobs: int | None = None,
) -> Answer:
    """Run finished evaluation runs again, exactly as their records say they were run, and compare.

    Every run comes out as bit-equal, within interval (where the seeds on record let a further run of the arm be expected),
    different, or failed; runs that failed on record are listed and left out. The exit code is 10 where a run is different, 1
    where one failed.

    Args:
        source: ``results/<study>``, or a bundle of it.
        only: arms, by name or label; default: all.
        seeds: default: all.
        runs: ids of runs, or how they begin; default: all.
        output: the new runs are made in ``output/<study>``, which must not hold them yet.
        jobs: runs at the same time; default 1, which leaves times comparable.

    Raises:
        RecordError: no results, a bad bundle, or the new folder holds such runs already.
        StudyError: nothing is chosen by that.
        PlanRefused: the data or the backbone are not those of the record.
    """
    source = Path(source)
    if source.is_dir():
        return _reproduce(source, tuple(only), tuple(seeds), tuple(runs), Path(output), jobs)
    if not source.is_file():
        raise RecordError("there is no such folder or bundle", where=str(source), remedy="give results/<study> or its bundle")
    from peftlab.report.unarchive import unpack

    with tempfile.TemporaryDirectory(prefix="peftlab-bundle-") as folder:
        unpack(source, Path(folder))
        return _reproduce(Path(folder), tuple(only), tuple(seeds), tuple(runs), Path(output), jobs)


def _reproduce(
    folder: Path, only: tuple[str, ...], seeds: tuple[int, ...], runs: tuple[str, ...], output: Path, jobs: int | None
) -> Answer:
    from peftlab.analysis.frame import load_frame
    from peftlab.records.commit import write_atomic
    from peftlab.records.record import to_json
    from peftlab.records.store import ResultsFolder

    frame = load_frame(folder)
    chosen, skipped = _chosen(frame, only, seeds, runs)
    _same_sources(chosen)
    target = ResultsFolder(output / frame.study.study)
    for record in chosen:
        if target.run(record.config).results() is not None:
            remedy = "choose another --output, or move it away"
            raise RecordError("holds such a run already", where=str(target.run(record.config).path), remedy=remedy)
    target.open_or_create((folder / "study.yaml").read_text(encoding="utf-8"))
    outcome = _execute(frame, chosen, target, jobs or 1)
    if outcome.interrupted:
        return Answer({"folder": target.path, "interrupted": True}, exit_code=outcome.exit_code)
    found = _compare(frame, chosen, target, skipped)
    write_atomic(target.path / "reproduction.json", to_json(found))
    code = EXIT_DIFFERENT if found.counts.get("different") else 1 if found.counts.get("failed") else 0
    return Answer(found.model_dump(mode="json"), lambda: _table(found), exit_code=code)


def _chosen(frame: Any, only: tuple[str, ...], seeds: tuple[int, ...], runs: tuple[str, ...]) -> tuple[list[Any], list[str]]:
    """(records to run again, what cannot be run again and why)."""
    records = [r for r in frame.records if r.results is not None]
    arms = {name for r in records for name in (r.config.arm, r.config.label)}
    for name in only:
        if name not in arms:
            raise StudyError(f"no finished run is of the arm {name!r}", where="--only", remedy=nearest(name, arms))
    known = {r.config.seed for r in records}
    if lacking := sorted(set(seeds) - known):
        have = ", ".join(map(str, sorted(known)))
        raise StudyError(f"no finished run has the seed {lacking[0]}", where="--seeds", remedy=f"recorded: {have}")
    for prefix in runs:
        if not any(r.folder.name.startswith(prefix) for r in records) or not prefix:
            raise StudyError(f"no finished run begins with {prefix!r}", where="--runs", remedy="`peftlab status` lists them")
    wanted = [
        r
        for r in frame.records
        if (not only or {r.config.arm, r.config.label} & {*only})
        and (not seeds or r.config.seed in seeds)
        and (not runs or r.folder.name.startswith(runs))
    ]
    why = {r.folder: _no_rerun(r) for r in wanted}
    skipped = [f"{r.config.label} seed {r.config.seed} {why[r.folder]}" for r in wanted if why[r.folder]]
    chosen = [r for r in wanted if not why[r.folder]]
    if not chosen:
        remedy = "; ".join(skipped[:3]) or "`peftlab run` the study first: only finished runs can be run again"
        raise StudyError("no run that could be run again is chosen", where=str(frame.folder), remedy=remedy)
    return chosen, skipped


def _no_rerun(record: Any) -> str:
    """Why a recorded run is not run again; empty where it is."""
    if record.results is None:
        reason = record.error.error.get("what", "")
        return "failed on record, so that nothing can be laid beside it" + (f": {reason}" if reason else "")
    return "" if record.config.train else "came from outside: nothing says how it was trained"


def _same_sources(chosen: Sequence[Any]) -> None:
    """Refuse before anything is run: other data or other weights cannot reproduce anything."""
    from peftlab.training.assemble import Ingredients

    seen: set[tuple[str, str]] = set()
    for record in chosen:
        c = record.config
        if (key := (c.backbone, repr(c.task))) in seen:
            continue
        seen.add(key)
        parts = Ingredients.of_run(c)
        here = {"backbone": parts.source.fingerprint(c.backbone), "data": parts.task.fingerprint()}
        for what, found in here.items():
            if (recorded := getattr(c, f"{what}_fingerprint")) != found:
                raise PlanRefused(
                    f"the {what} on this machine are not those of the record ({found[:12]}, recorded: {recorded[:12]})",
                    where=c.backbone if what == "backbone" else str(c.task.get("data")),
                    remedy="get the same revision; nothing else can be compared with the record",
                )


def _execute(frame: Any, chosen: Sequence[Any], target: Any, jobs: int) -> Any:
    """Each run as its record says it was executed: adapted layers fused or not, hidden states shared or not."""
    from rich.console import Console

    from peftlab.analysis.reading import read_json
    from peftlab.api.running import cache_folder
    from peftlab.execution.bars import listener_for
    from peftlab.execution.local import execute, warm_up
    from peftlab.execution.outcome import Outcome
    from peftlab.execution.protocol import WorkerOptions
    from peftlab.training.prefix_store import LIMIT_MB

    console = Console(stderr=True)
    console.print(_expected(chosen, jobs), markup=False, highlight=False, soft_wrap=True)  # libraries alone take a while to load
    warm_up()
    groups: dict[tuple[bool, bool, int, int, bool], list[Any]] = {}
    for record in chosen:
        fused, prefix = (read_json(record.folder / name) or {} for name in ("fused.json", "prefix.json"))
        environment = read_json(record.folder / "environment.json") or {}
        threads, processes = environment.get("threads"), environment.get("processes")
        used = threads.get("intra_op") if isinstance(threads, dict) else threads
        how = (
            fused.get("asked") is True,
            prefix.get("used") is True,
            used if isinstance(used, int) and used > 0 else 1,
            processes if isinstance(processes, int) and processes > 0 else 1,
            "sharded" in record.results.time,
        )
        groups.setdefault(how, []).append(record.config)
    listener, endings, stopped = listener_for(console), [], None
    for (fused, shared, threads, processes, shard), configs in groups.items():
        options = WorkerOptions(
            cache=cache_folder(), threads=threads, fused=fused, prefix_cache_mb=LIMIT_MB if shared else 0.0,
            probes=frame.study.probes, processes=processes, shard=shard,
        )  # fmt: skip
        outcome = execute(target, configs, jobs=jobs, options=options, listener=listener, retry_failed=True)
        endings += outcome.endings
        stopped = outcome.stop_signal
        if outcome.interrupted:
            break
    return Outcome(tuple(endings), stopped)


def _expected(chosen: Sequence[Any], jobs: int) -> str:
    from peftlab.analysis.words import plural
    from peftlab.records.times import took_s

    times = [took_s(record.results.time) for record in chosen]
    known = [seconds for seconds in times if seconds is not None]
    took = f"that took {answers.duration(sum(known))} on record" if known else "of none of which it is on record how long it took"
    lacking = f" (without {times.count(None)}, which do not say)" if known and None in times else ""
    how = "one after another; --jobs runs several at once" if jobs == 1 else f"{jobs} at a time"
    return f"{plural(len(chosen), 'run')} {took}{lacking}, {how}"


def _compare(frame: Any, chosen: Sequence[Any], target: Any, skipped: list[str]) -> Any:
    from peftlab.analysis import reproduction as again
    from peftlab.analysis.planned import canonical, task_names
    from peftlab.analysis.reading import RunRecord
    from peftlab.records.times import took_s

    names = task_names(record.config.task for record in frame.records)
    primary = frame.primary()
    primary = primary[~primary["imputed"]]  # a diverged run's stand-in is no run that a further one could be like
    values = {about: group["value"].dropna() for about, group in primary.groupby(["task", "backbone", "label"])}
    confidence, found = frame.study.analysis.confidence, []
    for record in chosen:
        config, run = record.config, target.run(record.config)
        task, results, error = names[canonical(config.task)], run.results(), run.error()
        column = values.get((task, config.backbone, config.label), ())
        interval = again.prediction_interval(column, confidence)
        recorded, now, weights = _value(record.results, frame), _value(results, frame), None
        diverged = RunRecord(folder=run.path, config=config, results=results, error=error).diverged  # a non-finite loss as well
        if results is None and not diverged:
            verdict, sentence = (
                "failed",
                f"failed: {error.error.get('what', '') if error else 'it left neither results nor an error'}",
            )
        else:
            equal = False
            if results is not None:
                weights = _weights_equal(record.folder, run.path)
                equal = again.bit_equal(record.results, results) and weights is not False and _same_course(record.folder, run)
            verdict, sentence = again.judge(
                equal=equal, diverged=(record.diverged, diverged), recorded=recorded, found=now, interval=interval,
                seeds=len(column), metric=frame.metric,
            )  # fmt: skip
        found.append(
            again.Rerun(
                run_id=config.run_id, arm=config.label, task=task, backbone=config.backbone, seed=config.seed, fold=config.fold,
                verdict=verdict, recorded=recorded, found=now, interval=interval, seeds=len(column), weights_equal=weights,
                sentence=sentence, environment=_differs(record, run),
                took_s=took_s(results.time) if results else None,
            )
        )  # fmt: skip
    common = again.shared([rerun.environment for rerun in found if rerun.verdict != "failed"])
    counts = {v: sum(r.verdict == v for r in found) for v in ("bit-equal", "within interval", "different", "failed")}
    return again.Reproduction(
        study=frame.study.study, folder=str(target.path), metric=frame.metric, confidence=confidence, counts=counts,
        environment=common, runs=found, skipped=skipped,
    )  # fmt: skip


def _value(results: Any, frame: Any) -> float | None:
    return (results.metrics.get(frame.split) or {}).get(frame.metric) if results is not None else None


def _same_course(recorded: Path, run: Any) -> bool:
    from peftlab.analysis.reproduction import same_course
    from peftlab.records.run_folder import RunFolder

    before, now = ([line.model_dump() for line in folder.metrics()] for folder in (RunFolder(recorded), run))
    return same_course(before, now)


def _weights_equal(recorded: Path, found: Path) -> bool | None:
    """By the hashes in the two manifests: the record's weights need not be there."""
    from peftlab.records.manifest import read_manifest

    def hashes(folder: Path) -> dict[str, str]:
        listed = read_manifest(folder)
        files = listed.items() if isinstance(listed, dict) else ()
        return {name: entry["sha256"] for name, entry in files if name.endswith(".safetensors")}

    before, now = hashes(recorded), hashes(found)
    return before == now if before and now else None


def _differs(record: Any, run: Any) -> dict[str, tuple[str, str]]:
    from peftlab.analysis.reading import read_json
    from peftlab.analysis.reproduction import environment_differences

    return environment_differences(read_json(record.folder / "environment.json"), read_json(run.path / "environment.json"))


def _table(found: Any) -> Any:
    several = len({(run.task, run.backbone) for run in found.runs}) > 1
    rows = [
        (run.arm + (f" @ {run.task}, {run.backbone}" if several else ""), run.seed, run.run_id, run.sentence)
        for run in found.runs
    ]
    told = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items() if count)
    machine = [f"not as recorded: {key}: {before} -> {now}" for key, (before, now) in found.environment.items()]
    if not found.environment and any(run.verdict != "failed" for run in found.runs):
        machine = ["versions, machine, threads and code: nothing differs that all runs share"]
    said = (
        f"An interval is for one further run at {found.confidence:.0%}, if seeds vary as normal errors do: of many runs some lie "
        "outside by chance."
    )
    head = answers.table(["arm", "seed", "run", "beside its record"], rows, right=("seed",))
    return answers.lines(head, *(f"left out: {line}" for line in found.skipped), *machine, said, f"{told}; {found.folder}")


__all__ = ["EXIT_DIFFERENT", "reproduce"]
