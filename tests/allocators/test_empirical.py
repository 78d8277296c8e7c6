"""Empirical ranks: every metric measured at the base as a loop would, ranks proportional to it, and what is refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from peftlab import registry
from peftlab.allocators._probe import Measured
from peftlab.errors import NonFinite, OptionError
from peftlab.nn.roles import Site
from peftlab.nn.surgery import slice_fused
from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients
from tests.adapters import models
from tests.allocators.probing import FAMILIES, attached, batch, loss, probe
from tests.training.conftest import Lab, cache, lab, tiny_backbone  # noqa: F401  # pyright: ignore[reportUnusedImport]

BATCHES = 3
AT_BASE = [n for n, cls in registry.components("importance").items() if not cls.of_update]  # pyright: ignore


def naive(name: str, weight: torch.Tensor, gradients: list[torch.Tensor]) -> float:
    """A metric of one weight from its gradient of each batch."""
    if name == "fisher":
        return float(torch.stack(gradients).square().mean())
    if name == "gradient_norm":
        return float(torch.stack([g.norm() for g in gradients]).mean())
    if name == "weight_gradient":
        return float((weight * torch.stack(gradients).mean(dim=0)).abs().mean().detach())
    if name != "sensitivity":  # a metric with a test of its own says it there
        return importlib.import_module(f"tests.allocators.importance.test_{name}").at_base(weight, gradients)
    smooth, unsure = torch.zeros_like(weight), torch.zeros_like(weight)
    for gradient in gradients:
        smooth = 0.85 * smooth + 0.15 * (weight * gradient).abs()
        unsure = 0.85 * unsure + 0.15 * ((weight * gradient).abs() - smooth).abs()
    return float((smooth * unsure).mean().detach())


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("name", AT_BASE)
def test_importance_at_the_base_and_ranks_proportional_to_it(name: str, kind: str) -> None:
    """Sliced layers and GPT-2's transposed ones included."""
    adapted, measured = attached(kind, {"name": "empirical", "importance": name, "batches": BATCHES, "budget": {"ranks": 60}})
    sites = adapted.adapter.sites(adapted.backbone)
    backbone = models.backbone(kind)
    slice_fused(backbone.module, sites)
    weights = [backbone.module.get_submodule(s.name).weight for s in sites]
    by_batch = [torch.autograd.grad(loss(backbone, backbone.module, batch(kind, i)), weights) for i in range(BATCHES)]  # pyright: ignore
    expected = {s.name: naive(name, w, [b[i] for b in by_batch]) for i, (s, w) in enumerate(zip(sites, weights, strict=True))}  # pyright: ignore
    assert measured.importance == pytest.approx(expected, rel=1e-3)
    assert sum(adapted.ranks.values()) == 60 and len(set(adapted.ranks.values())) > 2
    free = [s for s in sites if 1 < adapted.ranks[s.name] < 32]  # neither at the minimum nor at the maximum
    shares = {s.name: adapted.ranks[s.name] / expected[s.name] for s in free}
    low = max((adapted.ranks[s.name] - 1) / expected[s.name] for s in free)
    high = min((adapted.ranks[s.name] + 1) / expected[s.name] for s in free)
    assert low < high, f"no factor gives these ranks: {shares}"


def test_every_registered_metric_is_one_of_the_two_kinds() -> None:
    assert {"fisher", "gradient_norm", "sensitivity", "weight_gradient"} <= set(AT_BASE)
    assert not {"magnitude", "spectral"} & set(AT_BASE)
    for name in registry.components("importance"):
        rule = registry.create("allocator", {"name": "empirical", "importance": name})
        assert rule.needs_probe is rule.needs_gradients is (name in AT_BASE)
        assert rule.needs_resizing is (name not in AT_BASE)


def test_the_backbone_is_left_as_it_was_and_a_second_look_sees_the_same() -> None:
    backbone = models.backbone("gpt2")
    rule = registry.create("allocator", {"name": "empirical", "batches": 2})
    sites = registry.create("adapter", {"name": "lora", "targets": "all-linear"}).sites(backbone)
    slice_fused(backbone.module, sites)
    backbone.module.train()
    asked = {n: p.requires_grad for n, p in backbone.module.named_parameters()}
    values = {n: t.clone() for n, t in backbone.module.state_dict().items()}
    first, second = (rule.measure(probe(backbone, "gpt2"), sites, 4) for _ in range(2))
    assert first.importance == second.importance
    assert all(p.grad is None for p in backbone.module.parameters())
    assert asked == {n: p.requires_grad for n, p in backbone.module.named_parameters()}
    assert all(torch.equal(values[n], t) for n, t in backbone.module.state_dict().items())
    assert all(part.training for part in backbone.module.modules())


def sites(count: int) -> list[Site]:
    return [Site(name=f"m{i}", role="q", block=i, d_in=32, d_out=32) for i in range(count)]


def test_nothing_matters_means_equal_ranks_and_is_recorded() -> None:
    silent = Measured(importance={f"m{i}": 0.0 for i in range(4)}, batches=1, seconds=0.0)
    assert set(registry.create("allocator", "empirical").initial(sites(4), 6, silent).values()) == {6}
    adapted, _ = attached("vit", {"name": "empirical", "batches": 1})
    rule = registry.create("allocator", "empirical")
    adapted.hooks.clear()
    rule.initialise(adapted, Measured(importance=dict.fromkeys(adapted.ranks, 0.0), batches=1, seconds=0.0))
    assert adapted.hooks[0].report()["ranks.json"]["equal_because_nothing_mattered"] is True


def test_the_report_says_what_was_measured() -> None:
    adapted, measured = attached("vit", {"name": "empirical", "batches": 2, "budget": {"parameters": 3000}})
    (hook,) = adapted.hooks
    content = hook.report()["ranks.json"]
    json.dumps(content, allow_nan=False)
    assert content["ranks"] == adapted.ranks
    assert content["spent"]["parameters"] <= 3000 and content["budget"]["remainder"] == 3000 - content["spent"]["parameters"]
    assert content["importance"] == measured.importance and content["equal_because_nothing_mattered"] is False
    assert content["probe"]["batches"] == 2
    held = 4 * sum(s.d_in * s.d_out for s in adapted.sites)
    assert content["probe"]["gradient_mb"] == round(held / 1e6, 3)
    assert content["history"] == [{"step": 0, "ranks": adapted.ranks, "importance": measured.importance}]


def test_the_plan_says_that_a_probe_decides_and_what_it_holds() -> None:
    (line,) = registry.create("allocator", {"name": "empirical", "batches": 5}).notes(sites(1000), 4)
    assert line.startswith("empirical: planned with equal ranks; a probe of 5 batches decides")
    assert line.endswith("which takes 4.1 MB for gradients before training starts")
    assert registry.create("allocator", {"name": "empirical", "importance": "spectral"}).notes(sites(4), 4) == ()


@pytest.mark.parametrize("importance", ["magnitude", "spectral"])
def test_a_metric_of_the_update_moves_ranks_once_after_warm_up_steps(lab: Lab, tmp_path: Path, importance: str) -> None:  # noqa: F811
    allocator = {"name": "empirical", "importance": importance, "batches": 5, "budget": {"ranks": 40}}
    trainer = lab.trainer(
        tmp_path, {"name": "lora", "rank": 4, "targets": "all-linear"}, train={"learning_rate": 1e-2}, allocator=allocator
    )
    trainer.fit()
    content = trainer.chain.report()["ranks.json"]
    assert content["allocator"] == trainer.adapted.hooks[0].allocator.owner.spec()  # pyright: ignore
    first, second = content["history"]
    assert (first["step"], second["step"], second["changed"]) == (0, 5, True)
    assert set(first["ranks"].values()) == {3, 4} and sum(first["ranks"].values()) == sum(second["ranks"].values()) == 40
    values, ranks = second["importance"], second["ranks"]
    assert all(ranks[a] >= ranks[b] for a in ranks for b in ranks if values[a] > values[b])
    assert ranks == content["ranks"] == {n: layer.rank for n, layer in trainer.adapted.adapter.low_rank(trainer.adapted).items()}


def test_what_is_saved_loads_in_plain_peft(tmp_path: Path) -> None:
    adapted, _ = attached("gpt2", {"name": "empirical", "batches": 2, "min_rank": 0, "budget": {"ranks": 12}})
    assert 0 in adapted.ranks.values()
    with torch.no_grad():
        for layer in adapted.adapter.low_rank(adapted).values():
            layer.B.normal_(generator=torch.Generator().manual_seed(layer.rank))
    adapted.adapter.save(adapted, tmp_path)
    loaded = peft.PeftModel.from_pretrained(models.backbone("gpt2").module, str(tmp_path))  # pyright: ignore
    data = {key: value for key, value in batch("gpt2", 0).items() if key != "labels"}
    with torch.no_grad():
        ours = adapted.backbone.outputs(adapted.module.eval(), data)
        torch.testing.assert_close(adapted.backbone.outputs(loaded.eval(), data), ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": "fischer"}, "unknown importance 'fischer'"),
        ({"importance": {"name": "sensitivity", "beta": 0.5}}, "no option 'beta'"),
        ({"batches": 0}, "batches must be at least 1"),
        ({"importance": "magnitude", "batches": 1}, "watched for 2 steps at least"),
        ({"importance": "magnitude", "min_rank": 0}, "min_rank must be at least 1"),
        ({"min_rank": 4, "max_rank": 3}, "max_rank 3 is below min_rank 4"),
        ({"min_rank": 3, "budget": {"ranks": 11}}, "below the least that min_rank 3 needs over 4 modules, 12"),
        ({"min_rank": 33}, "above the largest rank m0 can have"),
        ({"importance": "magnitude", "batches": 20}, "ranks would move after step 20, and the run has 20"),
    ],
)
def test_bad_options_are_errors_when_planned(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        rule = registry.create("allocator", {"name": "empirical", **options})
        rule.check(sites(4), rule.initial(sites(4), 4), 20, Train())


@pytest.mark.parametrize(
    ("importance", "adapter", "quantizer", "message"),
    [
        ("fisher", {"name": "lora"}, {"name": "bnb", "bits": 4}, "quantized ones have none"),
        ("magnitude", {"name": "svd"}, {"name": "none"}, "changes ranks during training"),
        ("fisher", {"name": "bitfit"}, {"name": "none"}, "no rank to allocate"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(importance, adapter, quantizer, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Ingredients.of(
            backbone=str(models.folder("vit")),
            task={"kind": "image-classification", "data": "digits"},
            adapter=adapter,
            allocator={"name": "empirical", "importance": importance},
            quantizer=quantizer,
        )


def test_a_weight_that_is_quantized_by_somebody_else_is_refused_too() -> None:
    pytest.importorskip("bitsandbytes")
    backbone = models.backbone("vit")
    registry.create("quantizer", {"name": "bnb", "bits": 8}).convert(backbone)
    modules = registry.create("adapter", "lora").sites(backbone)
    with pytest.raises(OptionError, match="is quantized: its weight has no gradient"):
        registry.create("allocator", "empirical").measure(probe(backbone, "vit"), modules, 4)


def test_an_importance_that_is_not_finite_is_an_error() -> None:
    backbone = models.backbone("vit")
    modules = registry.create("adapter", "lora").sites(backbone)
    with torch.no_grad():
        backbone.module.get_submodule(modules[0].name).weight.fill_(float("inf"))  # pyright: ignore
    with pytest.raises(NonFinite):
        registry.create("allocator", "empirical").measure(probe(backbone, "vit"), modules, 4)
