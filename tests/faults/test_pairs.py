"""A few of the studies that ``python -m tests.faults.pairs`` draws: choices put together, held to what every run promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from tests.faults import pairs
from tests.faults.pairs import Trial, World

#: of them some are refused, as a user's would be
SEEDS = range(1, 9)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_what_can_be_planned_keeps_every_promise(world: World, cache: Path, tmp_path: Path, seed: int) -> None:
    how, words, _ = pairs.trial(world, seed, tmp_path, cache)
    assert words == [] if how == "tried" else words


@pytest.mark.slow
def test_a_promise_that_is_broken_is_found(world: World, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run in the place of the continued one."""
    seed = next(seed for seed in SEEDS if pairs.study(world, seed)["arms"]["drawn"].get("allocator") is None)

    def other(self: Trial, quiet: RunFolder) -> Iterator[str]:
        self.go("other", self.runs[1])
        yield from self.same(quiet, ResultsFolder(self.folder / "other").run(self.runs[1]))

    monkeypatch.setattr(pairs, "CHECKS", {"another": other})
    how, words, _ = pairs.trial(world, seed, tmp_path, cache)
    assert how == "tried" and any("results.json: metrics differs" in word for word in words)


def test_draws_are_those_of_the_seed_and_reach_every_choice(world: World) -> None:
    studies = [pairs.study(world, seed) for seed in range(600)]
    assert studies[3] == pairs.study(world, 3)
    arms = [study["arms"]["drawn"] for study in studies]
    adapters, allocators, quantizers = (
        Counter(arm[key]["name"] for arm in arms if key in arm) for key in ("adapter", "allocator", "quantizer")
    )
    assert {*adapters} == {sample.name for sample in pairs.samples("adapter")}
    assert {*allocators} == {sample.name for sample in pairs.samples("allocator")}
    assert {*quantizers} == {sample.name for sample in pairs.samples("quantizer")}
