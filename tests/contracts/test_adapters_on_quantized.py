"""What every adapter promises on a quantized base: it starts as that base, trains beside it, merges into its rounded weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peftlab import registry
from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.contract import Backbone
from peftlab.nn.quantized import make_dense, restore_conv1d, stored_tensors
from peftlab.nn.surgery import fuse_slices, slice_fused
from peftlab.quantizers.contract import Quantizer
from tests.contracts.conftest import Bench, Sample, perturb, samples, update
from tests.contracts.test_adapters import close

#: the schemes that differ in how a layer computes
QUANTIZERS = [{"name": "groupwise"}, {"name": "bnb", "bits": 4, "double": True}, {"name": "bnb", "bits": 8}]


@pytest.fixture(
    params=[*QUANTIZERS[:2], pytest.param(QUANTIZERS[2], marks=pytest.mark.slow)],
    ids=lambda spec: "-".join(map(str, spec.values())),
)
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    return registry.create("quantizer", request.param)


@pytest.fixture(params=samples("adapter"), ids=str)
def adapter(request: pytest.FixtureRequest, bench: Bench) -> Adapter:
    sample: Sample = request.param
    if bench.kind in sample.not_on:
        pytest.skip(sample.not_on[bench.kind])
    found: Adapter = registry.create("adapter", sample.spec)
    if found.needs_float:
        pytest.skip(found.needs_float)
    return found


def quantized(bench: Bench, adapter: Adapter, quantizer: Quantizer) -> Backbone:
    backbone = bench.backbone()
    if adapter.takes_slices:
        slice_fused(backbone.module, adapter.sites(backbone))
    quantizer.convert(backbone)
    return backbone


@pytest.fixture
def adapted(bench: Bench, adapter: Adapter, quantizer: Quantizer) -> Adapted:
    return adapter.attach(quantized(bench, adapter, quantizer), seed=3)


def test_on_a_quantized_base(bench: Bench, adapter: Adapter, quantizer: Quantizer, tmp_path: Path) -> None:
    """One test of many promises, because attaching takes longest."""
    base = bench.outputs(quantized(bench, adapter, quantizer).module)
    adapted = adapter.attach(quantized(bench, adapter, quantizer), seed=3)
    stored = {name: tensor.clone() for name, tensor in stored_tensors(adapted.module)}
    assert stored, "attaching made the base float"
    if adapter.zero_at_start:
        assert close(bench.outputs(adapted.module), base)
    everything_trains(adapted, bench)
    perturb(adapted)
    outputs, tolerance = bench.outputs(adapted.module), max(adapter.merge_tolerance, quantizer.merge_tolerance)
    assert not close(outputs, base, tolerance)
    if adapter.mergeable:
        merged, plain = adapter.merge(adapted), bench.backbone().module
        assert close(bench.outputs(merged), outputs, tolerance)
        assert {n: t.shape for n, t in merged.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}
        assert [type(m) for m in merged.modules()] == [type(m) for m in plain.modules()]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in stored_tensors(adapted.module)), "a code changed"
    adapter.save(adapted, tmp_path)
    again = adapter.load(quantized(bench, adapter, quantizer), tmp_path)
    assert close(bench.outputs(again), outputs)
    rounded = quantized(bench, adapter, quantizer)
    fuse_slices(restore_conv1d(make_dense(rounded.module)))
    assert close(bench.outputs(adapter.load(rounded, tmp_path)), outputs, tolerance)


def everything_trains(adapted: Adapted, bench: Bench) -> None:
    """After an evaluation too: bitsandbytes' own layers repack their weights in it on some processors."""
    start = {name: p.detach().clone() for name, p in adapted.trainable().items()}
    update(adapted, bench, steps=2)
    key_biases = {s.name + ".bias" for s in adapted.backbone.roles.sites if s.role == "k"}
    assert not [n for n, p in adapted.trainable().items() if torch.equal(p, start[n]) and n not in key_biases]
