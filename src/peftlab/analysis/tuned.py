"""``tuning.json`` in sentences: what was chosen for each arm, and what an arm did not get."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from peftlab.analysis.words import listed, plural, show

#: label, backbone, task, fold: each fold is tuned by itself
Arm = tuple[str, str, str, int]


def entries(value: Any) -> list[Mapping[str, Any]]:
    """Those that can be read."""
    items = value if isinstance(value, list) else []
    return [entry for entry in items if isinstance(entry, Mapping) and isinstance(entry.get("values"), Mapping)]


def arm_of(entry: Mapping[str, Any]) -> Arm:
    fold = entry.get("fold", 0)  # of the first fold none is recorded
    about = (str(entry.get(name, "")) for name in ("label", "backbone", "task"))
    return (*about, fold if isinstance(fold, int) else 0)  # pyright: ignore[reportReturnType]


def folded(arms: Iterable[Arm]) -> bool:
    """Whether several folds were tuned."""
    return any(arm[3] for arm in arms)


def arm_names(arms: Iterable[Arm]) -> dict[Arm, str]:
    """The label, with backbone, task and fold where several were tuned."""
    found = _without_folds(arms)
    return {arm: name + (f", fold {arm[3]}" if folded(found) else "") for arm, name in found.items()}


def _without_folds(arms: Iterable[Arm]) -> dict[Arm, str]:
    found = list(arms)
    varying = [i for i in (1, 2) if len({arm[i] for arm in found}) > 1]
    return {arm: arm[0] + (f" ({', '.join(str(arm[i]) for i in varying)})" if varying else "") for arm in found}


def named_once(some: Iterable[Arm], every: Iterable[Arm]) -> list[str]:
    """Names of some arms, each once, with its folds where something is said of a part of them: ``lora (folds 0 and 2)``."""
    names, folds = _without_folds(every), defaultdict[str, list[int]](list)
    for arm in some:
        folds[names[arm]].append(arm[3])
    whole = Counter(names.values())
    return [_with_folds(name, mine, whole[name]) for name, mine in folds.items()]


def _with_folds(name: str, some: Collection[int], count: int) -> str:
    """An arm and of which of its ``count`` folds something is said; the arm alone for all of them."""
    return name if len(some) == count else f"{name} (fold{'s' * (len(some) > 1)} {listed([str(fold) for fold in some])})"


def values_text(values: Mapping[str, Any]) -> str:
    """``learning_rate = 0.001, adapter.rank = 8``."""
    return ", ".join(f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}" for key, value in values.items())


def rung_text(run: Mapping[str, Any]) -> str:
    """What a trial of successive halving had of the steps; empty for all."""
    share = run.get("share", 1)
    return "" if not isinstance(share, int | float) or not 0 < share < 1 else f" ({run.get('steps')} steps)"


def extent(values: Any) -> str:
    """What is searched of one key: a list of values, or a range."""
    if isinstance(values, Mapping):
        scale = " on a logarithmic scale" if values.get("log") else ""
        return f"{values.get('low')} to {values.get('high')}{scale}"
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def chosen_sentences(tuning: Mapping[str, Any]) -> list[str]:
    """What each arm was given, and what was chosen for it."""
    chosen, metric = entries(tuning.get("chosen")), str(tuning.get("metric", ""))
    names = arm_names(map(arm_of, chosen))
    seeds = plural(len(tuning.get("seeds") or []), "seed")
    found = []
    for entry in chosen:
        values = values_text(entry["values"]) or "nothing to choose"
        given = f"{plural(int(entry.get('trials', 0)), 'trial')} on {seeds}, {float(entry.get('time_s') or 0):.3g} s of training"
        mean = show(entry.get("mean"), metric)
        found.append(f"tuning, {names[arm_of(entry)]}: {values} (mean {metric} {mean} on validation data; {given})")
    return found


def by_fold(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How an arm was run, in words, from a configuration of each fold: the first, with tuned values that folds differ in side by
    side; empty without any."""
    if not configs:
        return {}
    found = dict(configs[0])
    for key in found.get("tuned") or {}:
        part, _, option = key.rpartition(".")
        part = part or "train"
        values = [_shown(spec.get(option)) for config in configs if isinstance(spec := config.get(part), Mapping)]
        if len({*values}) > 1:
            found[part] = {**found[part], option: f"{', '.join(values)} by fold"}
    return found


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def not_given(tuning: Mapping[str, Any]) -> list[str]:
    """What an arm did not get: options it lacks, trials that repeated others or gave nothing, a choice at the edge, time."""
    runs, chosen = entries(tuning.get("trials")), entries(tuning.get("chosen"))
    picked = {arm_of(entry): entry for entry in chosen}
    names = _without_folds(dict.fromkeys((*map(arm_of, runs), *picked)))
    told: dict[tuple[str, str], list[int]] = {}
    for arm, name in names.items():
        mine = [run for run in runs if arm_of(run) == arm]
        for text in _not_given(picked.get(arm), mine, tuning):
            told.setdefault((name, text), []).append(arm[3])
    count = len({arm[3] for arm in names})
    found = [f"{_with_folds(name, folds, count)}: {text}" for (name, text), folds in told.items()]
    times: dict[str, float] = defaultdict(float)
    for arm, entry in picked.items():
        if isinstance(entry.get("time_s"), int | float):
            times[names[arm]] += float(entry["time_s"])
    if len(times) > 1 and all(times.values()) and max(times.values()) > 1.1 * min(times.values()):
        spent = ", ".join(f"{name} {time_s:.3g} s" for name, time_s in sorted(times.items(), key=lambda item: item[1]))
        found.append(f"The same number of trials is not the same time: {spent} of training and validation.")
    return found


def _not_given(entry: Mapping[str, Any] | None, runs: list[Mapping[str, Any]], tuning: Mapping[str, Any]) -> list[str]:
    nothing = [] if entry else ["nothing was chosen."]
    entry = entry or {}
    found = []
    if lacks := entry.get("lacks"):
        over = ", ".join(map(str, entry["values"]))
        rest = f"its trials were over {over}" if over else "nothing of it was tuned"
        found.append(f"has no {' and no '.join(map(str, lacks))}; {rest}.")
    trials, different = entry.get("trials"), entry.get("different")
    if isinstance(trials, int) and isinstance(different, int) and different < trials:
        found.append(f"{different} of its {trials} trials were of different values, the others repeated them.")
    found += _lost(runs, max(len(tuning.get("seeds") or []), 1))
    if isinstance(tied := entry.get("tied"), int) and tied > 1:
        found.append(f"{tied} values share the best mean, and the first was taken: the data did not tell them apart.")
    if edge := entry.get("at_edge"):
        found.append(
            f"the best {' and '.join(map(str, edge))} is at the edge of what was searched; a better one may lie outside."
        )
    return found + nothing


def _lost(runs: list[Mapping[str, Any]], seeds: int) -> list[str]:
    """Values that did not give a result on every seed."""
    got: dict[str, dict[Any, bool]] = defaultdict(dict)
    why: dict[str, set[str]] = defaultdict(set)
    for i, run in enumerate(runs):
        text, fine = values_text(run["values"]) + rung_text(run), isinstance(run.get("value"), int | float)
        got[text][run.get("seed", i)] = fine
        if not fine and run.get("status"):
            why[text].add(str(run["status"]))
    return [
        f"{text or 'as it is'} gave a value in {sum(by_seed.values())} of {seeds} runs"
        + (f" ({', '.join(sorted(why[text]))})." if why[text] else ".")
        for text, by_seed in got.items()
        if sum(by_seed.values()) < seeds
    ]
