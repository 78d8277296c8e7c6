"""A run beside its record: bit-equal, within the interval that the record's own seeds give a further run, or different."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from peftlab.analysis.findings import Form
from peftlab.analysis.intervals import finite
from peftlab.analysis.reading import flatten
from peftlab.analysis.words import plural, show, show_interval
from peftlab.records.record import RunResults

FEWEST = 3  #: finished runs of an arm on record by which a further one can be judged: with two t is 12.7 and all lies inside
Verdict = Literal["bit-equal", "within interval", "different", "failed"]
#: of environment.json: what does not bear on the numbers, or is another on every call
_UNTOLD = (
    "host",
    "command",
    "packages_sha256",
    "memory_mb",
    "memory_limit_mb",
    "cores_logical",
    "cores_physical",
    "cores_usable",
)


class Rerun(Form):
    """One run and its record."""

    run_id: str
    arm: str
    task: str
    backbone: str
    seed: int
    fold: int
    verdict: Verdict
    recorded: float | None  #: the study's metric on the judged split
    found: float | None
    interval: tuple[float, float] | None  #: where a further run of this arm was to be expected
    seeds: int  #: runs that the interval comes from
    weights_equal: bool | None  #: adapter's files; None where one side has no hash of them
    sentence: str
    environment: dict[str, tuple[str, str]]  #: what differs -> (recorded, here)
    took_s: float | None = None


class Reproduction(Form):
    """Of a study."""

    study: str
    folder: str  #: where the new runs lie
    metric: str
    confidence: float  #: of each interval, for one further run
    counts: dict[str, int]
    environment: dict[str, tuple[str, str]]  #: differences that all runs share
    runs: list[Rerun]
    skipped: list[str] = []

    @property
    def same(self) -> bool:
        return not any(self.counts.get(verdict) for verdict in ("different", "failed"))


def prediction_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float] | None:
    """Where one further run lies: mean +- t(n - 1) sd sqrt(1 + 1/n), normal errors; None with fewer than :data:`FEWEST` values.

    Not widened for the number of runs that are compared: that would make it easier to pass, not harder.
    """
    known = finite(values)
    if known.size < FEWEST:
        return None
    half = float(stdtrit(known.size - 1, (1 + confidence) / 2)) * float(np.std(known, ddof=1)) * math.sqrt(1 + 1 / known.size)
    return float(known.mean()) - half, float(known.mean()) + half


def bit_equal(recorded: RunResults, found: RunResults) -> bool:
    """Every metric of every split, and what training did."""
    told = ("status", "metrics", "steps", "selected_step", "thresholds")
    return all(getattr(recorded, name) == getattr(found, name) for name in told)


def same_course(recorded: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two journals tell the same losses and metrics; times apart."""

    def without(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in line.items() if key != "time_s"} for line in lines]

    return without(recorded) == without(found)


def judge(
    *,
    equal: bool,
    diverged: tuple[bool, bool],
    recorded: float | None,
    found: float | None,
    interval: tuple[float, float] | None,
    seeds: int,
    metric: str,
) -> tuple[Verdict, str]:
    """The verdict and why, in words. ``diverged``: on record, and now; ``seeds``: finished runs that the interval is from."""
    both = f"{metric} {show(recorded, metric)} recorded, {show(found, metric)} now"
    if equal:
        return "bit-equal", f"bit-equal: every metric and every step of training ({both})"
    if any(diverged):
        before, now = ("diverged" if broken else "finished" for broken in diverged)
        why = "both diverged, and the interval is of finished runs" if all(diverged) else f"{before} on record, {now} now"
        return "different", f"different: {why} ({both})"
    if recorded is None or found is None:
        return "different", f"different: {both}; one of the two has no value"
    if interval is None:
        have = plural(seeds, "finished run")
        why = f"no interval to judge it by: {have} of this arm on record, and it takes {FEWEST}"
        return "different", f"different to the bit: {both}; {why}"
    where = f"the interval of a further run, {show_interval(interval, metric)} from {plural(seeds, 'run')} on record"
    slack = 1e-12 * max(1.0, abs(recorded))  # an arm whose seeds are all equal
    if interval[0] - slack <= found <= interval[1] + slack:
        return "within interval", f"within interval, not to the bit: {both}; inside {where}"
    return "different", f"different: {both}; outside {where}"


def environment_differences(recorded: Any, found: Any) -> dict[str, tuple[str, str]]:
    """Versions, machine, threads, code: what is not the same in two ``environment.json``."""
    before, now = (
        flatten({k: v for k, v in e.items() if k not in _UNTOLD}) if isinstance(e, Mapping) else {} for e in (recorded, found)
    )
    keys = sorted({*before, *now}) if before else []
    return {key: (_text(before.get(key)), _text(now.get(key))) for key in keys if before.get(key) != now.get(key)}


def shared(differences: Sequence[Mapping[str, tuple[str, str]]]) -> dict[str, tuple[str, str]]:
    """What all have in common."""
    if not differences:
        return {}
    first, *rest = differences
    return {key: pair for key, pair in first.items() if all(other.get(key) == pair for other in rest)}


def _text(value: Any) -> str:
    return "absent" if value is None else str(value)
