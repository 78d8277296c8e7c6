"""A fork server of these tests' own, without the heavy imports, given back at the end."""

from __future__ import annotations

import contextlib
import multiprocessing.forkserver
from collections.abc import Iterator
from pathlib import Path

import pytest

from peftlab.execution import processes
from peftlab.execution.protocol import WorkerOptions
from peftlab.records.store import ResultsFolder


@pytest.fixture(scope="module", autouse=True)
def light_fork_server() -> Iterator[None]:
    server = multiprocessing.forkserver._forkserver  # the module's one server; _stop is what CPython's own tests use
    heavy = processes.PRELOAD
    with contextlib.suppress(AttributeError):
        server._stop()
    processes.PRELOAD = ("peftlab.execution.child", "tests.execution.targets")
    yield
    server._stop()
    processes.PRELOAD = heavy


@pytest.fixture
def results_folder(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "tests").open_or_create("study: tests\n")


@pytest.fixture
def options(tmp_path: Path) -> WorkerOptions:
    return WorkerOptions(cache=tmp_path / "cache")
