"""GoRA against its algorithm written out, the properties its paper claims, and what it refuses."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab import registry
from peftlab.allocators._probe import Measured
from peftlab.errors import NonFinite, OptionError
from peftlab.nn.quantized import is_conv1d
from peftlab.nn.roles import Site
from peftlab.nn.surgery import slice_fused
from peftlab.training.assemble import Ingredients
from peftlab.training.proof import frozen_hash
from tests.adapters import models
from tests.allocators.probing import FAMILIES, attached, batch, loss, probe

BATCHES, GAMMA = 3, 0.05


def mean_gradients(kind: str, names: list[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(W, G), both [d_out, d_in], by torch.autograd.grad of the mean loss over all batches."""
    backbone = models.backbone(kind)
    slice_fused(backbone.module, [s for s in backbone.roles.sites if s.name in names])
    layers = [backbone.module.get_submodule(name) for name in names]
    whole = torch.stack([loss(backbone, backbone.module, batch(kind, i)) for i in range(BATCHES)]).mean()
    gradients = torch.autograd.grad(whole, [layer.weight for layer in layers])  # pyright: ignore
    turn = [is_conv1d(layer) for layer in layers]
    return {
        name: (layer.weight.detach().T, g.T) if t else (layer.weight.detach(), g)  # pyright: ignore
        for name, layer, g, t in zip(names, layers, gradients, turn, strict=True)
    }


@pytest.mark.parametrize("kind", FAMILIES)
def test_ranks_and_start_equal_the_algorithm_written_out(kind: str) -> None:
    adapted, measured = attached(kind, {"name": "gora", "batches": BATCHES, "gamma": GAMMA})
    sites = adapted.adapter.sites(adapted.backbone)
    found = mean_gradients(kind, [s.name for s in sites])
    importance = {n: float((w * g).abs().sum()) / w.numel() for n, (w, g) in found.items()}
    assert measured.importance == pytest.approx(importance, rel=1e-4)
    whole = sum(4 * math.sqrt(s.d_in + s.d_out) for s in sites)
    for site in sites:
        share = whole * importance[site.name] / sum(importance.values())
        assert adapted.ranks[site.name] == min(max(round(share) // math.sqrt(site.d_in + site.d_out), 2), 16)
    assert len(set(adapted.ranks.values())) > 2
    for name, layer in adapted.adapter.low_rank(adapted).items():
        gradient = found[name][1]
        solved = torch.linalg.lstsq(layer.A.detach().T.double(), gradient.T.double()).solution.T  # min_B ||B A - G||
        expected = -GAMMA * math.sqrt(layer.A.shape[1] / layer.rank) * solved @ layer.A.detach().double()
        update = layer.scale * layer.B.detach().double() @ layer.A.detach().double()
        torch.testing.assert_close(update, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_no_other_b_comes_nearer_to_the_step() -> None:
    adapted, measured = attached("timm", {"name": "gora", "batches": BATCHES})
    random = torch.Generator().manual_seed(0)
    for name, layer in adapted.adapter.low_rank(adapted).items():
        step = -GAMMA * math.sqrt(layer.A.shape[1] / layer.rank) * measured.gradients[name]

        def distance(b: torch.Tensor, layer=layer, step=step) -> float:
            return float(torch.linalg.norm(layer.scale * b @ layer.A.detach() - step))

        best = distance(layer.B.detach())
        for size in (1e-3, 1e-2, 1.0):
            noise = size * layer.B.detach().norm() * torch.randn(layer.B.shape, generator=random)
            assert distance(layer.B.detach() + noise) > best


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_loss_falls_without_any_update(kind: str) -> None:
    adapted, _ = attached(kind, {"name": "gora", "batches": BATCHES, "gamma": 0.01})
    plain = models.backbone(kind)
    with torch.no_grad():
        before = sum(float(loss(plain, plain.module, batch(kind, i))) for i in range(BATCHES))
        after = sum(float(loss(adapted.backbone, adapted.module, batch(kind, i))) for i in range(BATCHES))
    assert after < before


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_backbone_is_left_as_it_was(kind: str) -> None:
    backbone = models.backbone(kind)
    rule = registry.create("allocator", {"name": "gora", "batches": 2})
    sites = registry.create("adapter", {"name": "lora", "targets": "all-linear"}).sites(backbone)
    slice_fused(backbone.module, sites)
    backbone.module.train()
    odd = next(backbone.module.parameters()).requires_grad_(False)
    asked = {n: p.requires_grad for n, p in backbone.module.named_parameters()}
    values = {n: t.clone() for n, t in backbone.module.state_dict().items()}
    first, second = (rule.measure(probe(backbone, kind), sites, 4) for _ in range(2))
    assert first.importance == second.importance
    assert all(p.grad is None for p in backbone.module.parameters()) and not odd.requires_grad
    assert asked == {n: p.requires_grad for n, p in backbone.module.named_parameters()}
    assert all(torch.equal(values[n], t) for n, t in backbone.module.state_dict().items())
    assert backbone.module.training


def sites(count: int) -> list[Site]:
    return [Site(name=f"m{i}", role="q", block=i, d_in=32, d_out=32) for i in range(count)]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.integers(1, 8), st.integers(0, 40))
def test_more_importance_never_means_less_rank_and_budgets_are_met(values: list[float], rank: int, more: int) -> None:
    modules = sites(len(values))
    measured = Measured(importance=dict(zip((s.name for s in modules), values, strict=True)), batches=1, seconds=0.0)
    low, high = max(1, rank // 2), min(4 * rank, 32)
    budget = min(low * len(values) + more, high * len(values))
    free = registry.create("allocator", "gora").initial(modules, rank, measured)
    bound = registry.create("allocator", {"name": "gora", "budget": {"ranks": budget}}).initial(modules, rank, measured)
    assert sum(bound.values()) == budget
    assert sum(free.values()) <= len(values) * (rank + low)  # down to whole ranks, then up to min_rank
    for ranks in (free, bound):
        assert all(low <= r <= high for r in ranks.values())
        order = sorted(range(len(values)), key=lambda i: values[i])
        assert all(ranks[f"m{i}"] <= ranks[f"m{j}"] for i, j in itertools.pairwise(order) if values[i] < values[j] * (1 - 1e-9))


def test_nothing_matters_means_equal_ranks_and_is_recorded() -> None:
    adapted, measured = attached("vit", {"name": "gora", "batches": 1})
    silent = Measured(importance=dict.fromkeys(measured.importance, 0.0), batches=1, seconds=0.0)
    rule = registry.create("allocator", "gora")
    assert set(rule.initial(adapted.adapter.sites(adapted.backbone), 4, silent).values()) == {4}
    assert silent.silent and not measured.silent


def test_the_report_says_what_was_measured() -> None:
    adapted, measured = attached("vit", {"name": "gora", "batches": 2, "budget": {"ranks": 50}})
    (hook,) = adapted.hooks
    content = hook.report()["ranks.json"]
    json.dumps(content, allow_nan=False)
    assert content["ranks"] == adapted.ranks and content["budget"] == {"unit": "ranks", "amount": 50, "remainder": 0}
    assert content["importance"] == measured.importance and content["probe"]["batches"] == 2
    assert content["history"] == [{"step": 0, "ranks": adapted.ranks, "importance": measured.importance}]


def test_what_is_saved_loads_in_plain_peft(tmp_path: Path) -> None:
    adapted, _ = attached("timm", {"name": "gora", "batches": 2, "gamma": 1.0})
    adapted.adapter.save(adapted, tmp_path)
    loaded = peft.PeftModel.from_pretrained(models.backbone("timm").module, str(tmp_path))  # pyright: ignore
    torch.testing.assert_close(models.logits("timm", loaded), models.logits("timm", adapted.module), rtol=1e-4, atol=1e-5)
    assert (models.logits("timm", loaded) - models.logits("timm", models.backbone("timm").module)).abs().max() > 1e-3
    assert peft.PeftConfig.from_pretrained(str(tmp_path)).rank_pattern  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_rank": 8, "max_rank": 4}, "max_rank 4 is below min_rank 8"),
        ({"min_rank": 0}, "min_rank must be at least 1"),
        ({"batches": 0}, "batches must be at least 1"),
        ({"gamma": 0.0}, "gamma must be positive"),
        ({"min_rank": 5}, "rank 4 does not lie between min_rank 5"),
        ({"max_rank": 3}, "rank 4 does not lie between"),
        ({"budget": {"ranks": 5}}, "below the least that min_rank 2 needs over 4 modules, 8"),
        ({"budget": {"ranks": 500}}, "above the most"),
    ],
)
def test_bad_options_are_errors_when_planned(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        registry.create("allocator", {"name": "gora", **options}).initial(sites(4), 4)


@pytest.mark.parametrize(
    ("adapter", "quantizer", "message"),
    [
        ({"name": "lora", "init": "pissa"}, {"name": "none"}, "takes none"),
        ({"name": "lora", "dora": True}, {"name": "none"}, "takes none"),
        ({"name": "svd"}, {"name": "none"}, "takes none"),
        ({"name": "lora"}, {"name": "bnb", "bits": 4}, "quantized ones have none"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(adapter, quantizer, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Ingredients.of(
            backbone=str(models.folder("vit")),
            task={"kind": "image-classification", "data": "digits"},
            adapter=adapter,
            allocator={"name": "gora"},
            quantizer=quantizer,
        )


def test_a_loss_that_is_not_finite_stops_the_probe() -> None:
    backbone = models.backbone("vit")
    sites = registry.create("adapter", "lora").sites(backbone)
    with torch.no_grad():
        backbone.module.get_submodule(sites[0].name).weight.fill_(float("nan"))  # pyright: ignore
    before = frozen_hash(backbone.module)
    with pytest.raises(NonFinite, match="probe batch 1"):
        registry.create("allocator", "gora").measure(probe(backbone, "vit"), sites, 4)
    assert frozen_hash(backbone.module) == before
