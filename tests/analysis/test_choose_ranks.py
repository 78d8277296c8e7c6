"""Ranks for the next study: honest where seeds disagree, exact in the budget, and what it prints can be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.analysis.choose_ranks import RankChoice, choose_ranks, share_out
from peftlab.errors import StudyError
from tests.report.fixtures import Options, write_results
from tests.report.layers import SITES, write_layers

ADAPTIVE = "lora[rank=8]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("results"), Options(failed=(), diverged=()))
    write_layers(folder)
    return folder


def role_mean(choice: RankChoice, *roles: str) -> float:
    return float(np.mean([m.rank for m in choice.modules if m.role in roles]))


def test_an_adaptive_arm_speaks_first_and_by_its_final_ranks(folder: Path) -> None:
    found = choose_ranks(folder)
    assert (found.arm, found.basis, found.supported, found.seeds) == (ADAPTIVE, "final ranks", True, 5)
    assert found.tau_interval is not None and found.tau_interval[0] > 0
    assert found.ranks.keys() == SITES.keys() and found.spent["ranks"] == found.budget["ranks"]
    assert role_mean(found, "q", "k", "v", "o") > role_mean(found, "up", "down")
    top = max(found.modules, key=lambda m: m.share)
    assert top.probability_above_uniform == 1.0 and top.interval is not None and top.interval[0] < top.share


def test_importance_of_a_fixed_arm_in_parameters(folder: Path) -> None:
    found = choose_ranks(folder, arm="lora[rank=2]", budget=("parameters", 10_000))
    assert found.basis == "importance by sensitivity" and found.supported
    cheapest = min(a["d_in"] + a["d_out"] for a in SITES.values())
    assert 10_000 - cheapest < found.spent["parameters"] <= 10_000
    assert choose_ranks(folder, arm="lora[rank=2]", metric="fisher").basis == "importance by fisher"


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """The fixture with other ``sites`` in every ``importance.json``."""
    folder = write_results(tmp_path, Options(failed=(), diverged=()))
    write_layers(folder)
    for path in folder.glob("runs/*/*/importance.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"sites": {name: change(site) for name, site in content["sites"].items()}}))
    return folder


@pytest.mark.parametrize(
    ("cost", "price"),
    [([36, 36, 0], lambda r: 36 * r), ([1, 3, 2], lambda r: r * r), ([96, 64, 0], lambda r: 64 * r + 32)],
    ids=["qa-lora", "lora-xs", "dora"],
)
def test_prices_and_largest_ranks_are_the_adapters_own(tmp_path: Path, cost: list[int], price: Callable[[int], int]) -> None:
    """QA-LoRA's layer of 32 inputs in groups of 8 has four."""
    folder = changed(tmp_path, lambda site: site | {"cost": cost, "largest_rank": 4})
    least, most = len(SITES) * price(1), len(SITES) * price(4)
    found = choose_ranks(folder, budget=("parameters", (least + most) // 2))
    assert found.supported and max(found.ranks.values()) == 4
    assert found.spent["parameters"] == sum(map(price, found.ranks.values())) <= (least + most) // 2
    assert found.spent["parameters"] > (least + most) // 2 - (price(4) - price(3))
    assert choose_ranks(folder, budget=("parameters", most)).spent == {"ranks": 4 * len(SITES), "parameters": most}
    with pytest.raises(StudyError, match=rf"between {least} \(one rank a module\) and {most} \(all\)"):
        choose_ranks(folder, budget=("parameters", most + 1))


def test_records_that_do_not_know_the_price_are_read_and_that_is_said(folder: Path, tmp_path: Path) -> None:
    older = changed(tmp_path, lambda site: {key: site[key] for key in ("block", "role", "d_in", "d_out")})
    now, then = choose_ranks(folder), choose_ranks(older)
    assert then.ranks == now.ranks and then.spent == now.spent
    assert [note for note in then.notes if note not in now.notes] == then.notes[:1] and "LoRA's price is taken" in then.notes[0]


def test_disagreement_gives_uniform_ranks_and_says_so(folder: Path) -> None:
    found = choose_ranks(folder, arm="lora-all", budget=("ranks", 3 * len(SITES)))
    assert not found.supported and set(found.ranks.values()) == {3}
    assert found.sentence.startswith("No pattern is supported: use uniform ranks")


def test_two_seeds_are_too_few(tmp_path: Path) -> None:
    skip = tuple((ADAPTIVE, s) for s in (2, 3, 4))
    folder = write_results(tmp_path, Options(failed=(), diverged=(), skip=skip))
    write_layers(folder)
    found = choose_ranks(folder, arm=ADAPTIVE)
    assert not found.supported and "3 seeds" in found.sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arm": "lora[rank=9]"}, "is no arm"),
        ({"arm": "bitfit"}, "has no layers with ranks"),
        ({"metric": "fishr"}, "'fishr'"),
        ({"budget": ("ranks", 3)}, "one rank a module"),
        ({"budget": ("ranks", 10**6)}, "must lie between"),
    ],
    ids=str,
)
def test_what_is_refused(folder: Path, options: dict, words: str) -> None:
    with pytest.raises(StudyError, match=words.replace("[", r"\[")):
        choose_ranks(folder, **options)


def test_nothing_recorded_is_said(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no arm with ranks recorded its layers"):
        choose_ranks(write_results(tmp_path))


@given(weights=st.lists(st.floats(0.001, 10), min_size=1, max_size=30), extra=st.integers(0, 200))
def test_a_budget_of_ranks_is_met_exactly_and_in_proportion(weights: list[float], extra: int) -> None:
    n = len(weights)
    array, ones = np.array(weights), np.ones(n, dtype=int)
    amount = n + min(extra, 99 * n)
    ranks = share_out(array, amount, lambda ranks: ranks, 100 * ones)
    assert ranks.sum() == amount and ranks.min() >= 1 and ranks.max() <= 100
    order = np.argsort(array, kind="stable")
    assert all(ranks[b] >= ranks[a] for a, b in pairwise(order) if array[b] > array[a])
    free = [i for i in range(n) if 1 < ranks[i] < 100]  # where no bound holds, Webster's quotients are within one of each other
    for i in free:
        for j in free:
            assert array[i] / (ranks[i] - 0.5) >= array[j] / (ranks[j] + 0.5) - 1e-12
