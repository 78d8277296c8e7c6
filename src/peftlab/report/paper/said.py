"""What the records say beside the findings, as further keys of numbers.tex: protocol, data, machine, incidents, captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from peftlab.analysis.raced import race_table, race_words
from peftlab.analysis.words import listed, plural, show, show_margin
from peftlab.records.times import own_s
from peftlab.report.paper.material import Material, options_text
from peftlab.report.paper.numbers import prefix_of, settings_of, slugs
from peftlab.report.paper.text import show_seconds
from peftlab.report.tuning import tuning

#: keys of train that decide what is computed; the others say what to do when something goes wrong
TRAINED = (
    "epochs max_steps batch_size effective_batch_size learning_rate weight_decay beta1 beta2 schedule warmup clip_norm "
    "label_smoothing precision evaluate_every early_stopping select"
).split()
_MACHINE = {
    "cpu": "processor", "cores_usable": "cores used", "memory_mb": "memory (MB)", "device": "device", "threads": "threads",
    "threads.intra_op": "threads", "platform": "platform", "python": "Python", "torch.cuda": "CUDA", "torch.devices": "GPU",
    "torch.cpu_capability": "instruction set",
}  # fmt: skip


def facts(material: Material) -> dict[str, str]:
    """Key -> text."""
    found: dict[str, str] = {}
    for part in (_plan, _race, _data, _training, _tuning, _incidents, _machine, _sentences):
        found |= dict(part(material))
    return found


def _plan(material: Material) -> Iterator[tuple[str, str]]:
    plan = material.findings.plan
    for key in ("replication", "difference_test", "margin_test", "equivalence_test", "adjustment", "intervals", "exploratory"):
        yield f"plan.{key.replace('_', '-')}", getattr(plan, key)
    yield "study.sha", material.study_sha
    yield "source", (material.frame.study.source.rstrip(".") or "none is named in the study file") + "."


def imputed(material: Material) -> str:
    """Where diverged runs stand."""
    return material.findings.plan.imputed_at


def _race(material: Material) -> Iterator[tuple[str, str]]:
    asked, race = material.frame.study.search, material.frame.race
    if asked is None:
        return
    metric = material.findings.plan.metric
    margin = f" by more than {show_margin(asked.margin, metric)}" if asked.margin else ""
    yield (
        "race.goal",
        {
            "best": f"which arm is best: an arm left when it was shown to be worse than an arm still in the race{margin}",
            "margin": f"which arms are within {show_margin(material.frame.study.analysis.margin, metric)} of the baseline: "
            "an arm left when it was shown to be within, or beyond",
        }[asked.goal],
    )
    yield "race.minimum", str(asked.minimum)
    yield "race.futility", (
        f"an arm also left, its question open, when the chance that the last planned seed would answer it was below "
        f"{100 * asked.futility:g} %" if asked.futility else "no arm left because its question could hardly be answered any more"
    )  # fmt: skip
    yield "race.keep", listed(asked.keep, most=40) or "none but the baseline"
    table = race_table(race)
    if not table:
        return
    yield "race.family", _range([f"{heat['family']}" for heat in table])
    yield "race.level", _range([f"{heat['rule']['level']:.3g}" for heat in table if "level" in heat["rule"]])
    yield "race.earliest", _range([f"{heat['earliest']}" for heat in table])
    for i, line in enumerate(race_words(race), start=1):
        yield f"race.says.{i}", line
    heats = [
        heat for heat in (race or {}).get("heats", []) if isinstance(heat, Mapping) and isinstance(heat.get("runs"), Mapping)
    ]
    counted = [(int(h["runs"].get("planned") or 0), int(h["runs"].get("needed") or 0)) for h in heats]
    yield "race.planned", f"{sum(planned for planned, _ in counted):,}"
    ended = [planned - needed for heat, (planned, needed) in zip(heats, counted, strict=True) if heat.get("over")]
    yield "race.spared", f"{sum(ended):,}"


def _range(values: list[str]) -> str:
    return listed(list(dict.fromkeys(values)), most=20) or "not recorded"


def _data(material: Material) -> Iterator[tuple[str, str]]:
    for index, (task, backbone) in enumerate(settings_of(material.findings)):
        prefix = prefix_of(material.findings, index)
        here = [t for t in material.treatments if (t.task, t.backbone) == (task, backbone)]
        sizes = [t.splits for t in here if t.splits]
        same = {name: {s.get(name) for s in sizes} for name in dict.fromkeys(n for s in sizes for n in s)}
        words = [
            f"{' to '.join(f'{v:,}' for v in sorted(v for v in values if v is not None))} {name}" for name, values in same.items()
        ]
        yield f"{prefix}data.sizes", listed(words) or "of recorded size in no run"
        runs = material.frame.primary()
        runs = runs[(runs["task"] == task) & (runs["backbone"] == backbone)]
        for name in ("chance", "majority"):
            level = next((float(value) for value in runs[name].tolist() if pd.notna(value)), None)
            yield f"{prefix}data.{name}", "not recorded" if level is None else show(level, material.findings.plan.metric)
        spec = next((dict(t.part("task")) for t in here), {})
        data = spec.pop("data", "")
        shown = options_text(data) if isinstance(data, Mapping) else str(data)
        yield f"{prefix}data.options", shown
        kept = {k: v for k, v in spec.items() if k != "kind" and v is not None}
        yield f"{prefix}task.options", options_text({"name": "", **kept}).removeprefix(": ") or "all at their defaults"
        hashes = next((f for f in material.fingerprints if (f["task"], f["name"]) == (task, backbone)), {})
        for name in ("data", "backbone"):
            yield f"{prefix}{name}.sha", hashes.get(name) or "not recorded"


def shared_training(material: Material) -> tuple[dict[str, Any], list[str]]:
    """(key -> value that every arm was trained with, keys in which arms differ), of those trained here."""
    trained = [t.part("train") for t in material.trained]
    keys = [key for key in TRAINED if any(t.get(key) is not None for t in trained)]
    differing = [key for key in keys if len({repr(t.get(key)) for t in trained}) > 1]
    return {key: trained[0].get(key) for key in keys if key not in differing}, differing


def _training(material: Material) -> Iterator[tuple[str, str]]:
    same, differing = shared_training(material)
    yield (
        "train.same",
        options_text({key.replace("_", " "): value for key, value in same.items()}).removeprefix(": ") or "nothing",
    )
    yield "train.differing", listed([key.replace("_", " ") for key in differing]) or "nothing"
    steps = sorted({t.steps for t in material.trained if t.steps is not None})
    yield (
        "train.steps",
        (f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}") if steps else "an unrecorded number of",
    )
    yield from _compute(material)


def _compute(material: Material) -> Iterator[tuple[str, str]]:
    """Of all runs with results: those computed together share their time, and have no memory of their own."""
    times = [record.results.time for record in material.frame.records if record.results is not None]
    taken = [own_s(time, "train_s") for time in times]
    known = [seconds for seconds in taken if seconds is not None]
    yield "compute.runs", str(len(times))
    yield "compute.time", _duration(sum(known)) if known else "not recorded"
    if together := sum(bool(time.get("stacked")) for time in times):
        yield "compute.together", str(together)
    if len(known) < len(taken):
        yield "compute.untimed", str(len(taken) - len(known))
    peaks = material.frame.rows["measured_peak_mb"].dropna()
    yield "compute.peak", f"{peaks.max():,.0f} MB" if len(peaks) else "not recorded"


def _duration(seconds: float) -> str:
    for name, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{show_seconds(seconds / size)} {name}"
    return f"{show_seconds(seconds)} seconds"


def _tuning(material: Material) -> Iterator[tuple[str, str]]:
    data, shown = material.frame.tuning, tuning(material.frame)
    if not data or shown is None:
        return
    seeds = [str(seed) for seed in data.get("seeds") or []]
    yield "tuning.seeds", listed(seeds, most=20) or "no seeds"
    tune = material.frame.study.tune
    yield "tuning.trials", str(tune.number) if tune else "an unrecorded number of"
    space = tune.space if tune else {}
    texts = [
        f"{key.replace('_', ' ')} in {listed([f'{v:g}' if isinstance(v, float) else str(v) for v in values], most=20)}"
        if isinstance(values, list)
        else f"{key.replace('_', ' ')} from {values.low:g} to {values.high:g}"
        for key, values in space.items()
    ]
    yield "tuning.space", "; ".join(texts) or "an unrecorded space"
    yield "tuning.how", str(shown["intro"]).rstrip(",")
    for i, line in enumerate(shown["lost"], start=1):
        yield f"tuning.lost.{i}", line


def _incidents(material: Material) -> Iterator[tuple[str, str]]:
    counted: dict[str, int] = {}
    for problem in material.frame.problems:
        about = f"{problem.label}, {problem.backbone}, {problem.task}".strip(", ")
        line = f"{about}: {problem.kind}: {problem.what}"
        counted[line] = counted.get(line, 0) + 1
    for i, (line, count) in enumerate(counted.items(), start=1):
        yield f"problem.{i}", line.rstrip(".") + (f" ({plural(count, 'run')})." if count > 1 else ".")


def _machine(material: Material) -> Iterator[tuple[str, str]]:
    same, differs = material.environment["same"], material.environment["differs"]
    for key, name in _MACHINE.items():
        if key in same:
            yield f"machine.{key.replace('_', '-').lower()}", f"{name}: {same[key]}"
        elif key in differs:
            yield f"machine.{key.replace('_', '-').lower()}", f"{name}: {listed(list(differs[key]))} (runs differ)"
    for key in sorted({*same, *differs}):
        if key.startswith("package ") or key == "peftlab":
            name = key.removeprefix("package ")
            yield f"software.{name.replace('_', '-')}", f"{name} {same.get(key) or ' and '.join(differs[key])}"
    commit = same.get("git.commit", "")
    dirty = same.get("git.dirty") == "true" or "git.dirty" in differs
    if commit or "git.commit" in differs:
        many = f"{len(differs.get('git.commit', {}))} different commits"
        yield "software.commit", commit or many
        if dirty:
            yield "software.changed", "with changes that were not committed"


def _sentences(material: Material) -> Iterator[tuple[str, str]]:
    for name, data in material.said.items():
        for part in ("sentences", "method", "notes"):
            lines = data.get(part) or []
            for i, line in enumerate(lines if isinstance(lines, list) else [], start=1):
                yield f"said.{name.replace('_', '-')}.{part}.{i}", str(line)
    stems = slugs([str(f.get("stem", "")) for f in material.figures])
    for figure in material.figures:
        yield (
            f"caption.{stems[str(figure.get('stem', ''))]}",
            str(figure.get("caption", "")).replace("named below", "named in the supplement"),
        )
