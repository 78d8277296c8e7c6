"""A run whose task was given to Ray, and what is known of it before and after."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from peftlab.errors import PlanRefused
from peftlab.execution.ray.task import Answer
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import ERROR, RESULTS, RunFolder

#: for another machine's writes to be seen through a network disk's caches
SEEN_S = 90.0


@dataclass(slots=True)
class Flight:
    """In the air until Ray has an answer."""

    config: RunConfig
    run: RunFolder
    reference: Any
    held: ExitStack  #: its lease, where its node works on a copy
    began_s: float = field(default_factory=time.monotonic)


def in_words(why: Exception | str) -> str:
    """Why a machine failed, in a line."""
    lines = [line.strip() for line in str(why).splitlines() if line.strip()]
    return lines[0] if lines else type(why).__name__


def refusal(answer: Answer) -> PlanRefused:
    """Of a node on which nothing may run."""
    host, *why = answer.refused
    remedy = "install the same versions and the same code on every machine (docs/ray.md), and start its node again"
    return PlanRefused(f"{host}: {'; '.join(why)}", where="--address", remedy=remedy)


def wait_until_seen(run: RunFolder) -> None:
    """For the record that another machine wrote; until then a network disk may not even show the run's folder."""
    until = time.monotonic() + SEEN_S
    while time.monotonic() < until:
        with suppress(OSError):
            if {RESULTS, ERROR} & set(os.listdir(run.path)):  # noqa: PTH208 (asks the server anew)
                return
        time.sleep(0.2)
