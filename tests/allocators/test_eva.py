"""EVA against PEFT's own, end to end, and against the singular vectors of the inputs themselves."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.allocators import eva
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.roles import Site
from peftlab.nn.surgery import slice_fused
from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients
from tests.adapters import models
from tests.allocators.probing import FAMILIES, attached, batch, inputs, probe

BATCHES = 4


def test_equals_pefts_own() -> None:
    """On a model without fused layers, PEFT alone finds the same ranks, directions and outputs."""
    adapted, _ = attached("vit", {"name": "eva", "batches": BATCHES, "rho": 2.0})
    backbone = models.backbone("vit")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=[s.name for s in adapted.adapter.sites(backbone)],
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=2.0),
    )
    theirs: Any = peft.get_peft_model(backbone.module, config)  # pyright: ignore
    data = [inputs(batch("vit", i)) for i in range(BATCHES)]
    peft.initialize_lora_eva_weights(
        theirs,
        data,
        forward_fn=lambda model, inputs: model(**inputs),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        show_progress_bar=False,
    )
    layers = {n.removeprefix("base_model.model."): m for n, m in theirs.named_modules() if hasattr(m, "lora_A")}
    found = adapted.adapter.low_rank(adapted)
    assert {n: r for n, r in adapted.ranks.items() if r} == {n: m.r["default"] for n, m in layers.items()}
    assert found.keys() == layers.keys() and len({layer.rank for layer in found.values()}) > 2
    for name, layer in found.items():
        one, two = layer.A.detach(), layers[name].lora_A["default"].weight.detach()
        signs = (one * two).sum(dim=1, keepdim=True).sign()
        torch.testing.assert_close(one, signs * two, rtol=1e-4, atol=1e-5)
        assert layer.scale == pytest.approx(layers[name].scaling["default"])
        assert not layer.B.any()


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_directions_explain_as_much_as_singular_vectors_do(kind: str) -> None:
    """Sliced layers and GPT-2's transposed ones included."""
    adapted, measured = attached(kind, {"name": "eva", "batches": BATCHES})
    backbone = models.backbone(kind)
    slice_fused(backbone.module, adapted.adapter.sites(adapted.backbone))
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in measured.directions}
    for name, rows in seen.items():
        backbone.module.get_submodule(name).register_forward_hook(lambda _, x, __, rows=rows: rows.append(x[0].flatten(0, -2)))
    with torch.no_grad():
        for i in range(BATCHES):
            backbone.outputs(backbone.module.eval(), inputs(batch(kind, i)))
    assert sum(adapted.ranks.values()) == 4 * len(measured.directions)
    for name, directions in measured.directions.items():
        if not len(directions):
            continue
        x = torch.cat(seen[name])
        x = x - x.mean(dim=0)
        best = torch.linalg.svdvals(x)[: len(directions)].square().sum()
        torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions)), rtol=0, atol=1e-4)
        assert 0.97 * best <= (x @ directions.T).square().sum() <= 1.0001 * best


def test_padding_is_left_out() -> None:
    backbone = models.backbone("gpt2")
    sites = registry.create("adapter", {"name": "lora", "targets": "all-linear"}).sites(backbone)
    slice_fused(backbone.module, sites)
    base, seen = probe(backbone, "gpt2"), []
    real = base.batches

    def padded(number: int, filler: int = 1) -> Any:
        for one in real(number):
            mask = torch.ones_like(one["input_ids"])
            mask[:, 6:] = 0
            yield {**one, "input_ids": torch.where(mask.bool(), one["input_ids"], filler), "attention_mask": mask}

    for filler in (1, 2):
        other = dataclasses.replace(base, batches=lambda number, filler=filler: padded(number, filler))
        seen.append(registry.create("allocator", {"name": "eva", "batches": 2}).measure(other, sites, 2))
    for name, directions in seen[0].directions.items():
        torch.testing.assert_close(directions, seen[1].directions[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3])
def test_rho_1_keeps_ranks_equal(rank: int) -> None:
    adapted, _ = attached(
        "timm", {"name": "eva", "batches": 2, "rho": 1.0}, {"name": "lora", "rank": rank, "targets": "all-linear"}
    )
    assert set(adapted.ranks.values()) == {rank}


@pytest.mark.parametrize("budget", [13, 30, 50])
def test_a_budget_of_ranks_is_met_exactly(budget: int) -> None:
    adapted, _ = attached("vit", {"name": "eva", "batches": 2, "budget": {"ranks": budget}})
    assert sum(adapted.ranks.values()) == budget
    (hook,) = adapted.hooks
    content = hook.report()["ranks.json"]
    assert content["budget"] == {"unit": "ranks", "amount": budget, "remainder": 0}
    assert content["history"] == [{"step": 0, "ranks": adapted.ranks, "importance": {}}]


def test_a_budget_of_parameters_needs_modules_of_one_price() -> None:
    rule = registry.create("allocator", {"name": "eva", "budget": {"parameters": 64 * 9}})
    assert sum(rule.initial(sites(3), 8).values()) == 9
    with pytest.raises(OptionError, match="cost from 64 to 96 parameters"):
        rule.initial([*sites(3), Site(name="up", role="up", block=0, d_in=32, d_out=64)], 8)


def test_the_backbone_is_left_as_it_was_also_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = models.backbone("vit")
    modules = registry.create("adapter", "lora").sites(backbone)
    backbone.module.train()
    rule = registry.create("allocator", {"name": "eva", "batches": 2})
    values = {n: t.clone() for n, t in backbone.module.state_dict().items()}
    one, two = (rule.measure(probe(backbone, "vit"), modules, 4) for _ in range(2))
    assert all(torch.equal(one.directions[n], two.directions[n]) for n in one.directions)
    monkeypatch.setattr(eva, "_PATIENCE", 1)
    with pytest.raises(DidNothing, match="still turn after 1 batches"):
        rule.measure(probe(backbone, "vit"), modules, 4)
    assert all(torch.equal(values[n], t) for n, t in backbone.module.state_dict().items())
    assert all(not part._forward_hooks and part.training for part in backbone.module.modules())


def test_works_on_quantized_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    parts = Ingredients.of(
        backbone=str(models.folder("vit")),
        task={"kind": "image-classification", "data": "digits"},
        adapter={"name": "lora", "rank": 2},
        allocator={"name": "eva", "batches": 2},
        quantizer={"name": "bnb", "bits": 8},
    )
    adapted = parts.attach(parts.load_backbone(models.CLASSES, 0), 0, lambda backbone: probe(backbone, "vit"))
    assert sum(adapted.ranks.values()) == 2 * len(adapted.ranks)
    assert all(isinstance(layer.A, nn.Parameter) and layer.A.any() for layer in adapted.adapter.low_rank(adapted).values())


def test_what_is_saved_loads_in_plain_peft(tmp_path: Path) -> None:
    adapted, _ = attached("timm", {"name": "eva", "batches": 2, "whiten": True})
    with torch.no_grad():
        for layer in adapted.adapter.low_rank(adapted).values():
            layer.B.normal_(generator=torch.Generator().manual_seed(layer.rank))
    adapted.adapter.save(adapted, tmp_path)
    loaded = peft.PeftModel.from_pretrained(models.backbone("timm").module, str(tmp_path))  # pyright: ignore
    torch.testing.assert_close(models.logits("timm", loaded), models.logits("timm", adapted.module), rtol=1e-4, atol=1e-5)


def sites(count: int) -> list[Site]:
    return [Site(name=f"m{i}", role="q", block=i, d_in=32, d_out=32) for i in range(count)]


@pytest.mark.parametrize(
    ("options", "rank", "message"),
    [
        ({"rho": 0.5}, 4, "rho must be at least 1"),
        ({"tau": 1.0}, 4, "tau must be between"),
        ({"batches": 0}, 4, "batches must be at least 1"),
        ({"budget": {"ranks": 3}}, 4, "below the least"),
        ({}, 9, "18 directions of m0 are asked for (rank times rho), and 32 inputs allow 16"),
        ({"rho": 4.5}, 4, "and 32 inputs allow 16"),
    ],
)
def test_bad_options_are_errors_when_planned(options: dict[str, Any], rank: int, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        rule = registry.create("allocator", {"name": "eva", **options})
        rule.check(sites(4), rule.initial(sites(4), rank), 100, Train())


def test_batches_too_small_are_an_error_not_an_endless_loop() -> None:
    backbone = models.backbone("gpt2")
    modules = registry.create("adapter", {"name": "lora", "targets": "feed-forward"}).sites(backbone)
    base = probe(backbone, "gpt2")
    small = dataclasses.replace(base, batches=lambda number: (batch("gpt2", i, size=1) for i in range(number)))
    with pytest.raises(OptionError, match="9 tokens of a batch allow 4"):
        registry.create("allocator", "eva").measure(small, modules, 4)
