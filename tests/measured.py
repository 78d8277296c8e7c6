"""What is measured of this machine, measured once for all tests, whichever worker process of the suite needs it first."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest


def shared_folder(made: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run of the suite: the workers of pytest-xdist have temporary folders of their own, side by side."""
    base = made.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def measure_once(folder: Path) -> None:
    """Measure, unless another process of the suite has done so; where it is at it, wait."""
    from peftlab.planning.machine import Machine
    from peftlab.training.precision import resolve_device

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for device in dict.fromkeys(("cpu", resolve_device("auto").type)):
            Machine.here(folder, device=device)


def keep(measured: Path, cache: Path) -> Path:
    """Put what was measured into a cache folder, as if it had been measured there."""
    cache.mkdir(parents=True, exist_ok=True)
    for file in measured.glob("machine-*.json"):
        shutil.copy(file, cache)
    return cache
