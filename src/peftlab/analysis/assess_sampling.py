"""Findings that count the test examples as a sample beside the seeds, where runs kept their single predictions."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from peftlab.analysis import statements_design as say
from peftlab.analysis.comparison import holm
from peftlab.analysis.crossed import crossed_mean, mcnemar_p, seed_item_bootstrap
from peftlab.analysis.findings import AnalysisPlan, Finding
from peftlab.analysis.frame import Frame
from peftlab.analysis.item_scores import Arrays, examples_of, item_scores
from peftlab.analysis.setting import Setting

METHOD = (
    "Test examples as a sample: both seeds and examples are random (two-way random effects, Satterthwaite), beside it a "
    "bootstrap of both, which is too narrow with few seeds; a metric that is no mean over examples is made linear in them (delta "
    "method). McNemar's exact test where both arms have one run and no more and each example is right or wrong. Arms with "
    "diverged runs, which have no predictions, are left out."
)
MOST_RUNS = 1500  #: whose single predictions are read
RESAMPLES = 1000


def sampling_findings(
    frame: Frame, settings: Sequence[Setting], plan: AnalysisPlan, generator: np.random.Generator
) -> list[Finding]:
    """Each arm against the baseline, or why that cannot be.

    Args:
        frame: where the runs are.
        settings: tasks and backbones.
        plan: of the study.
        generator: of the bootstrap.
    """
    count = sum(int(s.values.notna().sum().sum()) for s in settings)
    if plan.baseline is None or plan.split != "test" or count > MOST_RUNS:
        return []
    return [f for s in settings if plan.baseline in s.values.columns and s.folds == 1 for f in _of(frame, s, plan, generator)]


def _of(frame: Frame, s: Setting, plan: AnalysisPlan, generator: np.random.Generator) -> list[Finding]:
    base = str(plan.baseline)
    # of these only the runs that went well have predictions, which would be compared as if nothing had happened
    broken = set(s.runs.loc[s.runs["imputed"], "label"].astype(str))
    kept = {(arm, seed): read for arm, seed, folder in _places(s) if (read := _predictions(frame, folder)) is not None}
    scored = {key: scores for key, (_, scores) in kept.items() if scores is not None}
    if kept and not scored:
        return [say.unsampled(s, plan)]
    outcomes = s.values.notna().sum().to_dict()
    found: list[Finding] = []
    single: list[tuple[str, float, tuple[int, int, int]]] = []
    for arm in map(str, s.values.columns):
        seeds = [n for n in s.values.index.get_level_values("seed") if (arm, n) in scored and (base, n) in scored]
        same = len({kept[key][0] for n in seeds for key in ((arm, n), (base, n))}) == 1
        if arm == base or broken & {arm, base} or not same:
            continue  # nothing to pair, or other examples, or in another order
        pairs = [(scored[arm, n], scored[base, n]) for n in seeds]
        if outcomes[arm] == outcomes[base] == 1:
            if (alone := _alone(*pairs[0])) is not None:
                single.append((arm, mcnemar_p(*pairs[0]), alone))
            continue
        table = np.array([first - second for first, second in pairs])
        if (both := crossed_mean(table, plan.confidence)) is not None:
            drawn = seed_item_bootstrap(table, generator, resamples=RESAMPLES, confidence=plan.confidence)
            found.append(say.sampled(arm, base, s, both, drawn, plan))
    adjusted = holm([p for _, p, _ in single])
    return found + [say.single_models(*one, base, s, p, plan) for one, p in zip(single, adjusted, strict=True)]


def _alone(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[int, int, int] | None:
    """(examples that the first alone got right, that the second alone did, all); None where they are not right or wrong."""
    if not np.isin(first, (0.0, 1.0)).all() or not np.isin(second, (0.0, 1.0)).all():
        return None
    return int((first > second).sum()), int((second > first).sum()), first.size


def _places(setting: Setting) -> Iterator[tuple[str, int, str]]:
    runs = setting.runs[~setting.runs["imputed"]]
    yield from zip(runs["label"].astype(str), runs["seed"].astype(int), runs["folder"].astype(str), strict=True)


def _predictions(frame: Frame, folder: str) -> tuple[bytes, NDArray[np.float64] | None] | None:
    """(what the examples were, a score of the declared metric for each or None); None where nothing readable was kept."""
    try:
        with np.load(frame.folder / folder / "predictions.npz", allow_pickle=False) as stored:
            arrays: Arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if not arrays or len({values.shape for values in arrays.values()}) > 1 or next(iter(arrays.values())).shape < (2,):
        return None
    scores = item_scores(frame.study.analysis.metric, arrays)
    return examples_of(arrays), scores if scores is not None and np.isfinite(scores).all() else None
