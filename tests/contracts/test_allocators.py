"""What every allocator promises, checked on every registered one."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab import registry
from peftlab.allocators.contract import Allocator
from peftlab.nn.roles import Site
from peftlab.nn.surgery import slice_fused
from tests.allocators.probing import probe
from tests.contracts.conftest import Bench, Sample, samples

ROLES = ("q", "k", "v", "o", "up", "down")


def sites(blocks: int) -> list[Site]:
    return [
        Site(name=f"layers.{b}.{role}", role=role, block=b, d_in=64 if role == "down" else 32, d_out=64 if role == "up" else 32)
        for b in range(blocks)
        for role in ROLES
    ]


@pytest.fixture(params=samples("allocator"), ids=str)
def allocator(request: pytest.FixtureRequest) -> Allocator:
    return registry.create("allocator", request.param.spec)


@given(blocks=st.integers(1, 6), rank=st.integers(1, 16), seed=st.integers(0, 99))
@pytest.mark.parametrize("sample", samples("allocator"), ids=str)
def test_every_module_gets_a_rank_that_fits_whatever_the_order(sample, blocks: int, rank: int, seed: int) -> None:
    allocator: Allocator = registry.create("allocator", sample.spec)
    wanted = sites(blocks)
    ranks = allocator.initial(wanted, rank)
    assert ranks.keys() == {site.name for site in wanted}
    assert all(isinstance(r, int) and 0 <= r <= min(s.d_in, s.d_out) for s, r in ((s, ranks[s.name]) for s in wanted))
    assert allocator.initial(wanted, rank) == ranks
    shuffled = random.Random(seed).sample(wanted, len(wanted))
    assert allocator.initial(shuffled, rank) == ranks


PRICES = {"r(d_in+d_out)": lambda site, rank: rank * (site.d_in + site.d_out), "r^2": lambda site, rank: rank * rank}


@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("sample", samples("allocator"), ids=str)
def test_a_budget_of_parameters_holds_whatever_a_rank_costs(sample: Sample, price: str) -> None:
    """Ranks of allocators that go with any adapter that has some: what an adapter counts is its own formula."""
    found = registry.component("allocator", sample.name)
    if "budget" not in {field.name for field in dataclasses.fields(found)}:  # pyright: ignore
        pytest.skip("takes no budget")
    wanted, cost = sites(3), PRICES[price]
    amount = sum(cost(site, 5) for site in wanted) + 1
    allocator: Allocator = registry.create("allocator", {**sample.spec, "budget": {"parameters": amount}})
    if allocator.needs_triplets or allocator.needs_resizing or allocator.sets_factors:
        pytest.skip("goes with adapters of one formula only")
    ranks = allocator.initial(wanted, 8, cost=cost)
    spent = sum(cost(site, ranks[site.name]) for site in wanted)
    assert 0.9 * amount < spent <= amount


def test_options_survive_the_way_to_a_study_file_and_back(allocator: Allocator) -> None:
    assert registry.create("allocator", allocator.spec()) == allocator
    assert allocator.summary()


@pytest.mark.parametrize("sample", samples("allocator"), ids=str)
def test_a_look_leaves_the_base_as_it_was_and_sees_the_same_again(sample, bench: Bench) -> None:
    allocator: Allocator = registry.create("allocator", sample.spec)
    if not allocator.needs_probe:
        pytest.skip("takes no look")
    backbone = bench.backbone()
    wanted = registry.create("adapter", {"name": "lora", "rank": 2, "targets": "all-linear"}).sites(backbone)
    slice_fused(backbone.module, wanted)
    backbone.module.train()
    asked = {n: p.requires_grad for n, p in backbone.module.named_parameters()}
    values = {n: t.clone() for n, t in backbone.module.state_dict().items()}
    looks = [allocator.measure(probe(backbone, bench.kind), wanted, 2) for _ in range(2)]
    assert {n: p.requires_grad for n, p in backbone.module.named_parameters()} == asked
    assert all(p.grad is None for p in backbone.module.parameters())
    assert all(torch.equal(values[n], t) for n, t in backbone.module.state_dict().items())
    assert all(part.training for part in backbone.module.modules())
    first, second = (allocator.initial(wanted, 2, found) for found in looks)
    assert first == second == allocator.initial(wanted[::-1], 2, looks[0])
    assert first.keys() == {site.name for site in wanted} and any(first.values())
    assert all(0 <= first[s.name] <= min(s.d_in, s.d_out) for s in wanted)


def test_uniform_spends_rank_times_modules() -> None:
    uniform = registry.create("allocator", "uniform")
    ranks = uniform.initial(sites(3), 8)
    assert set(ranks.values()) == {8}
    assert sum(ranks.values()) == 8 * 18
    shared = registry.create("allocator", {"name": "uniform", "budget": {"ranks": 40}})
    assert sorted(shared.initial(sites(3), 8).values()) == [2] * 14 + [3] * 4
