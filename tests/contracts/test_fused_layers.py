"""Fused layers (nn/fused_layers.py) of every adapter: the same outputs, gradients, merged weights and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.adapters.contract import Adapted, Adapter
from peftlab.nn.surgery import slice_fused
from peftlab.training.proof import assert_frozen, frozen_hash
from peftlab.training.recompute import enable_checkpointing
from tests.contracts.conftest import Bench, Sample, perturb, samples, update

QUANTIZERS: list[dict[str, Any]] = [{"name": "none"}, {"name": "groupwise"}, {"name": "bnb", "bits": 4}]
#: of float32 gradients against the largest entry of a tensor; bitsandbytes' 4-bit products are the coarsest
TOLERANCE = 2e-4


def fuses(name: str) -> bool:
    return registry.component("adapter", name).fuse is not Adapter.fuse  # pyright: ignore


@pytest.fixture(params=[sample for sample in samples("adapter") if fuses(sample.name)], ids=str)
def adapter(request: pytest.FixtureRequest, bench: Bench) -> Adapter:
    sample: Sample = request.param
    if bench.kind in sample.not_on:
        pytest.skip(sample.not_on[bench.kind])
    return registry.create("adapter", sample.spec)


def attached(adapter: Adapter, bench: Bench, quantizer: dict[str, Any], *, fused: bool) -> Adapted:
    backbone = bench.backbone()
    if quantizer["name"] != "none":
        if adapter.takes_slices:
            slice_fused(backbone.module, adapter.sites(backbone))
        registry.create("quantizer", quantizer).convert(backbone)
    adapted = adapter.attach(backbone, seed=3)
    perturb(adapted)
    if fused:
        adapted.fused = adapter.fuse(adapted)
    return adapted


def both(adapter: Adapter, bench: Bench, quantizer: dict[str, Any]) -> tuple[Adapted, Adapted]:
    """The same adapted model plain and fused."""
    if quantizer["name"] != "none" and adapter.needs_float:
        pytest.skip(adapter.needs_float)
    plain, fused = (attached(adapter, bench, quantizer, fused=how) for how in (False, True))
    if not fused.fused.layers:
        assert fused.fused.why or fused.fused.left, "layers are left without a reason"
        pytest.skip(fused.fused.why or next(iter(fused.fused.left.values())))
    return plain, fused


def gradients(adapted: Adapted, bench: Bench) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients, without dropout."""
    adapted.module.eval()
    logits = adapted.backbone.outputs(adapted.module, bench.inputs())
    logits.square().sum().backward()
    found = {name: p.grad.clone() for name, p in adapted.trainable().items() if p.grad is not None}
    adapted.module.zero_grad()
    return logits.detach(), found


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE * float(theirs.abs().max()) + 1e-7)


def test_the_adapters_that_should_fuse_do_and_others_say_why(bench: Bench) -> None:
    assert {name for name in registry.components("adapter") if fuses(name)} >= {"lora", "svd", "pooled"}
    plain = registry.create("adapter", {"name": "linear-probe"}).attach(bench.backbone(), seed=0)
    assert plain.adapter.fuse(plain).record() == {"fused": 0, "left": {}, "why": "adapter 'linear-probe' has no fused layers"}


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda spec: spec["name"])
def test_outputs_and_gradients_are_those_of_plain_layers(adapter: Adapter, bench: Bench, quantizer: dict[str, Any]) -> None:
    plain, fused = both(adapter, bench, quantizer)
    assert set(dict(fused.module.named_parameters())) == set(dict(plain.module.named_parameters()))
    (y, theirs), (z, ours) = gradients(plain, bench), gradients(fused, bench)
    assert_close(z, y)
    assert list(ours) == list(theirs)
    for name, gradient in theirs.items():
        assert_close(ours[name], gradient)


def test_after_training_it_merges_saves_and_has_left_the_base_alone(adapter: Adapter, bench: Bench, tmp_path: Path) -> None:
    _, fused = both(adapter, bench, QUANTIZERS[0])
    before = frozen_hash(fused.module)
    update(fused, bench, steps=2)
    assert_frozen(fused.module, before)
    assert all(not layer.went_plain for layer in fused.fused.layers.values())
    outputs = bench.outputs(fused.module)
    assert_close(bench.outputs(adapter.merge(fused)), outputs)
    adapter.save(fused, tmp_path)
    assert_close(bench.outputs(adapter.load(bench.backbone(), tmp_path)), outputs)


def test_with_gradient_checkpointing(adapter: Adapter, bench: Bench) -> None:
    _, fused = both(adapter, bench, QUANTIZERS[0])
    wanted = gradients(fused, bench)[1]
    enable_checkpointing(fused)
    fused.module.train()
    for module in fused.module.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fused.backbone.outputs(fused.module, bench.inputs()).square().sum().backward()
    for name, parameter in fused.trainable().items():
        if name in wanted and parameter.grad is not None:
            assert_close(parameter.grad, wanted[name])


def test_under_bfloat16_autocast_types_and_values_are_those_of_plain_layers(adapter: Adapter, bench: Bench) -> None:
    plain, fused = both(adapter, bench, QUANTIZERS[0])
    found = []
    for adapted in (plain, fused):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(adapted, bench))
    (y, theirs), (z, ours) = found
    assert y.dtype == z.dtype
    assert float((y - z).float().norm() / y.float().norm()) < 0.05
    for name, gradient in theirs.items():
        assert ours[name].dtype == gradient.dtype
        assert float((ours[name] - gradient).norm()) <= 0.15 * float(gradient.norm()) + 1e-3
