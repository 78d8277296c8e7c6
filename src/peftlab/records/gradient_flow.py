"""The form of ``gradient_flow.json`` and the rules by which it is judged. No torch: the probe and the analysis share it."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from peftlab.records.record import Record

FILE = "gradient_flow.json"
EXPLODES = 10.0  #: times the running median
VANISHES = 1e-3  #: share of the running median
IN_A_ROW = 3  #: points below it that count as vanishing
HISTORY = 5  #: points before which there is no running median

Kind = Literal["non-finite", "explosion", "vanishing"]


class Module(Record):
    """Where a module lies, and its gradient at every point; None where it had no entries, or where no number can say it."""

    block: int | None
    role: str
    norm: list[float | None]
    mean: list[float | None]
    max: list[float | None]
    zeros: list[float | None]
    non_finite: list[float | None]


class Flow(Record):
    """``gradient_flow.json`` of a run; ``steps`` count from 1."""

    steps: list[int]
    modules: dict[str, Module]
    left_out: list[int] = []  #: of the steps: those whose gradient passed the range of float16, and which were no updates

    @model_validator(mode="after")
    def _complete(self) -> Flow:
        columns = [c for m in self.modules.values() for c in (m.norm, m.mean, m.max, m.zeros, m.non_finite)]
        if any(len(column) != len(self.steps) for column in columns):
            raise ValueError("values do not fit the steps")
        return self


class Event(Record):
    """One rule that was met by one module, for the first time."""

    kind: Kind
    module: str
    step: int


def events(
    steps: Sequence[int], modules: Mapping[str, Mapping[str, Sequence[float | None]]], left_out: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """What went wrong, in order of steps: per module and kind the first time.

    Steps that were left out, which is how float16 finds the scale of its losses, are not judged.

    With n_t the gradient norm of a module at point t, and m_t the median of n_1 .. n_(t-1) over points with n > 0, which exists
    from five such points on:

    * non-finite: an entry is not finite, or the norm overflows, at once;
    * explosion: n_t > 10 m_t;
    * vanishing: n_t < m_t / 1000, or n_t = 0, at three points in a row, the first point apart (B = 0 gives LoRA's A none there).

    A whole run whose loss goes to zero takes all gradients with it: vanishing of every module at once can be success.
    """
    found: list[dict[str, Any]] = []
    for name, values in modules.items():
        found += [{"kind": kind, "module": name, "step": step} for kind, step in _judged(steps, values, left_out).items()]
    return sorted(found, key=lambda event: event["step"])


def _judged(steps: Sequence[int], values: Mapping[str, Sequence[float | None]], left_out: Sequence[int]) -> dict[Kind, int]:
    first: dict[Kind, int] = {}
    history: list[float] = []
    low = 0
    for number, (step, norm, broken) in enumerate(zip(steps, values["norm"], values["non_finite"], strict=True)):
        if broken is None or step in left_out:  # no entries: a module without rank
            continue
        if norm is None or broken > 0:
            first.setdefault("non-finite", step)
            continue
        judged = len(history) >= HISTORY  # the median lies between the ends of the history: most points need none
        if judged and norm > EXPLODES * history[0] and norm > EXPLODES * _middle(history):
            first.setdefault("explosion", step)
        small = judged and norm < VANISHES * history[-1] and norm < VANISHES * _middle(history)
        low = low + 1 if number > 0 and (norm == 0 or small) else 0
        if low == IN_A_ROW:
            first.setdefault("vanishing", step)
        if norm > 0:
            bisect.insort(history, norm)
    return first


def _middle(ordered: Sequence[float]) -> float:
    """The median of values in order."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
