"""For all tests: the same random numbers in whatever order they run, and in whatever order what tests share is made once;
hypothesis without deadlines (machines differ) and with the same examples on every run; Ray's token before Ray; the machine
measured once."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from _pytest.fixtures import reorder_items
from hypothesis import settings

from tests.execution.clusters import VARIABLES
from tests.measured import keep, measure_once, shared_folder

settings.register_profile("peftlab", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("peftlab")
#: Ray reads them once, when a process first imports it, and that may be in a test of something else (what `doctor` says)
os.environ.update(VARIABLES)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Layers that a test makes without a seed of its own are those of every run of it; nothing loads torch for that."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share one parameter of a fixture (models of one kind, trained once) follow one another, as pytest has it
    without a random order. That order is shuffled after pytest grouped them, and between two kinds that take turns the models
    would be trained anew at every turn. The kinds and the tests of each stay shuffled."""
    items[:] = reorder_items(items)


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Two workers must find the same tests, so that the name of one says nothing of where in memory something lies. Without
    this, a run in one process is green and only one with two fails, before its first test."""
    if re.search(r" at 0x[0-9a-f]{6,}", item.name):
        raise pytest.UsageError(f"{item.nodeid} has an address in its name: give its parameters `ids` without one")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """A million objects of libraries and of tests are there for good: nothing looks for garbage among them while they are made,
    nor ever again. It would take half a second each time, and some libraries ask for it at every call."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes a cache folder in which the machine has been measured: every plan needs that, and it takes some ten seconds."""
    folder = shared_folder(tmp_path_factory, "machine")
    measure_once(folder)
    return lambda cache: keep(folder, cache)
