"""AlphaLoRA: Hill's estimate against scipy's maximum likelihood, ranks by hand, and weights that have no tail."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from peftlab.allocators._probe import Measured
from peftlab.allocators.alphalora import AlphaLora, hill
from peftlab.errors import NonFinite, OptionError
from peftlab.nn.roles import Site
from peftlab.nn.surgery import slice_fused
from peftlab.registry import create
from tests.adapters import models
from tests.allocators.probing import FAMILIES, attached, probe

TARGETS = {"name": "lora", "rank": 4, "targets": "all-linear"}


@pytest.mark.parametrize("tail", [0.1, 0.5, 0.9])
def test_hills_estimate_is_the_likeliest_pareto_law_above_its_threshold(tail: float) -> None:
    values = np.sort(np.random.default_rng(3).pareto(1.7, size=200) + 1)[::-1]
    k = int(200 * tail)
    shape, _, _ = stats.pareto.fit(values[:k], floc=0, fscale=values[k])
    assert hill(torch.tensor(values.copy()), tail) == pytest.approx(1 + shape, rel=1e-5)


def test_the_tail_has_the_share_that_is_stated() -> None:
    values = torch.linspace(90, 1, 90, dtype=torch.float64)
    exact = 1 + 63 / float((values[:63] / values[63]).log().sum())
    assert hill(values, 0.7) == pytest.approx(exact, rel=1e-12), "0.7 * 90 < 63"


def test_it_finds_the_exponent_of_a_power_law() -> None:
    values = np.random.default_rng(0).pareto(2.0, size=20_000) + 1  # p(x) ~ x^-3
    assert hill(torch.tensor(values), 0.5) == pytest.approx(3.0, abs=0.06)


@pytest.mark.parametrize("values", [[0.0] * 6, [2.0] * 6, [5.0, 0.0, 0.0]])
def test_no_tail_no_exponent(values: list[float]) -> None:
    assert hill(torch.tensor(values), 0.5) is None


def test_eigenvalues_that_are_rounding_errors_are_not_in_the_tail() -> None:
    values = [8.0, 4.0, 2.0, 1.0]
    assert hill(torch.tensor([*values, 1e-13, 1e-14, 0.0]), 0.5) == hill(torch.tensor(values), 0.5)


def test_what_counts_as_a_rounding_error_goes_by_the_largest_eigenvalue() -> None:
    assert hill(torch.tensor([1e12, 8.0, 4.0, 2.0, 1.0]), 0.5) is None
    assert hill(torch.tensor([1e12, 101.0, 4.0]), 0.5) == pytest.approx(1 + 1 / math.log(1e12 / 101))


def by_hand(weight: torch.Tensor, tail: float) -> float:
    values = np.sort(np.linalg.svd(weight.double().numpy(), compute_uv=False) ** 2)[::-1]
    k = int(tail * len(values))
    return 1 + k / float(np.log(values[:k] / values[k]).sum())


@pytest.mark.parametrize("kind", FAMILIES)
def test_ranks_follow_the_spectra(kind: str) -> None:
    """Slices of fused layers and GPT-2's transposed ones included."""
    adapted, measured = attached(kind, {"name": "alphalora", "level": "module", "budget": {"ranks": 60}}, TARGETS)
    backbone = models.backbone(kind)
    sites = adapted.adapter.sites(backbone)
    slice_fused(backbone.module, sites)
    weights: dict[str, Any] = {site.name: backbone.module.get_submodule(site.name).weight.detach() for site in sites}
    expected = {name: by_hand(weight, 0.5) ** 2.5 for name, weight in weights.items()}
    assert measured.importance == pytest.approx(expected, rel=1e-3)
    assert sum(adapted.ranks.values()) == 60
    ordered = sorted(expected, key=lambda name: expected[name])
    assert [adapted.ranks[name] for name in ordered] == sorted(adapted.ranks.values())


def test_a_block_has_one_exponent_the_mean_of_its_weights() -> None:
    one, _ = attached("vit", {"name": "alphalora", "level": "block", "beta": 1.0, "budget": {"ranks": 48}}, TARGETS)
    (hook,) = one.hooks
    shared = hook.report()["ranks.json"]["importance"]
    _, each = attached("vit", {"name": "alphalora", "level": "module", "beta": 1.0}, TARGETS)
    for block in range(models.BLOCKS):
        names = [site.name for site in one.sites if site.block == block]
        mean = sum(each.importance[name] for name in names) / len(names)
        assert [shared[name] for name in names] == pytest.approx([mean] * len(names))


def test_what_beta_does() -> None:
    sites = [Site(name=name, role="q", block=i, d_in=32, d_out=32) for i, name in enumerate("ab")]

    def ranks(beta: float) -> dict[str, int]:
        importance = {"a": 2.0**beta, "b": 4.0**beta}
        return AlphaLora(beta=beta).initial(sites, 9, Measured(importance=importance, batches=0, seconds=0.0))

    assert ranks(0.0) == {"a": 9, "b": 9}
    assert ranks(1.0) == {"a": 6, "b": 12}
    assert ranks(-1.0) == {"a": 12, "b": 6}


def test_a_weight_without_a_tail_counts_as_the_mean_of_the_others_and_one_that_is_not_finite_is_refused() -> None:
    rule = create("allocator", {"name": "alphalora", "level": "module", "beta": 1.0})
    backbone = models.backbone("vit")
    sites = create("adapter", TARGETS).sites(backbone)
    weight: Any = backbone.module.get_submodule(sites[3].name).weight
    weight.data.zero_()
    found = rule.measure(probe(backbone, "vit"), sites, 4).importance
    others = [value for name, value in found.items() if name != sites[3].name]
    assert found[sites[3].name] == pytest.approx(sum(others) / len(others))
    weight.data[0, 0] = float("nan")
    with pytest.raises(NonFinite, match="not finite"):
        rule.measure(probe(backbone, "vit"), sites, 4)


def test_it_reads_quantized_weights_as_they_are_stored() -> None:
    backbone, rule = models.backbone("vit"), create("allocator", {"name": "alphalora", "level": "module"})
    sites = create("adapter", TARGETS).sites(backbone)
    before = rule.measure(probe(backbone, "vit"), sites, 4).importance
    create("quantizer", {"name": "groupwise", "group_size": 8}).convert(backbone)
    after = rule.measure(probe(backbone, "vit"), sites, 4).importance
    assert after != before
    assert after == pytest.approx(before, rel=0.3)


def test_the_report_and_the_plan_say_what_decides() -> None:
    adapted, measured = attached("vit", {"name": "alphalora"}, TARGETS)
    (hook,) = adapted.hooks
    content = hook.report()["ranks.json"]
    json.dumps(content, allow_nan=False)
    assert content["ranks"] == adapted.ranks and content["importance"] == measured.importance
    assert content["budget"] == {"unit": "ranks", "amount": 4 * len(adapted.sites), "remainder": 0}
    (line,) = AlphaLora().notes(adapted.sites, 4)
    assert "the spectra of the frozen weights decide" in line


@pytest.mark.parametrize("options", [{"tail": 0.0}, {"tail": 1.0}, {"beta": float("inf")}, {"min_rank": 4, "max_rank": 3}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        create("allocator", {"name": "alphalora", **options})


def test_where_no_weight_has_a_tail_all_count_as_one() -> None:
    rule = create("allocator", {"name": "alphalora", "beta": 2.0})
    backbone = models.backbone("vit")
    sites = create("adapter", TARGETS).sites(backbone)
    for site in sites:
        weight: Any = backbone.module.get_submodule(site.name).weight
        weight.data.zero_()
    found = rule.measure(probe(backbone, "vit"), sites, 4)
    assert found.importance == dict.fromkeys((site.name for site in sites), 1.0) and found.batches == 0
