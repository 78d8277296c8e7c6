"""What every quantizer promises, checked on every registered one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.backbones.contract import Backbone
from peftlab.nn.quantized import dense_weight, make_dense, quantized_layers, restore_conv1d, stored_tensors
from peftlab.nn.surgery import fuse_slices, slice_fused
from peftlab.quantizers.contract import Conversion, Quantizer
from tests.contracts.conftest import Bench, samples

SHAPES = [(96, 64), (64, 128), (32, 32)]


@pytest.fixture(params=samples("quantizer"), ids=str)
def quantizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Quantizer:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)  # what is only slow elsewhere is tested everywhere
    found: Quantizer = registry.create("quantizer", request.param.spec)
    reason = found.refuse("cpu")
    if reason:
        pytest.skip(reason)
    return found


@pytest.fixture
def working(quantizer: Quantizer) -> Quantizer:
    if not quantizer.quantizes:
        pytest.skip("quantizes nothing")
    return quantizer


def linear(weight: torch.Tensor, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias).requires_grad_(False)
    layer.weight.copy_(weight)
    return layer


def gaussian(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_what_it_names_it_converted_and_the_rest_it_left(quantizer: Quantizer, bench: Bench) -> None:
    backbone = bench.backbone()
    before = {n: (p.dtype, p.detach().clone()) for n, p in backbone.module.named_parameters()}
    converted = quantizer.convert(backbone)
    layers = quantized_layers(backbone.module)
    assert converted.layers.keys() == layers.keys()
    for name, parameter in backbone.module.named_parameters():
        if name not in {f"{layer}.weight" for layer in layers}:
            dtype, value = before[name]
            assert parameter.dtype == dtype
            assert torch.equal(parameter, value)
    assert not any(backbone.in_head(name + ".") for name in layers), "heads stay in float"
    if quantizer.quantizes:
        blocks = {s.name for s in backbone.roles.sites if s.block is not None and s.parent is None}
        assert set(layers) == blocks
        assert {name for name, why in converted.left.items() if why == "head"} == {backbone.head}


def test_slices_are_layers_of_their_own(working: Quantizer, bench: Bench) -> None:
    backbone = bench.backbone()
    slices = [s for s in backbone.roles.sites if s.parent]
    if not slices:
        pytest.skip("no fused layer")
    slice_fused(backbone.module, slices)
    converted = working.convert(backbone)
    assert {s.name for s in slices} <= converted.layers.keys()
    assert not {s.parent for s in slices} & converted.layers.keys()


def test_outputs_stay_finite_and_deterministic(quantizer: Quantizer, bench: Bench) -> None:
    backbone, again = bench.backbone(), bench.backbone()
    assert quantizer.convert(backbone) == quantizer.convert(again)
    first = bench.outputs(backbone.module)
    assert torch.isfinite(first).all()
    assert torch.equal(first, bench.outputs(again.module))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_weight_is_further_off_than_the_bound(working: Quantizer, shape: tuple[int, int]) -> None:
    weight = gaussian(shape)
    bound = working.error_bound(weight)
    error = (working.quantize(linear(weight)).dequantize() - weight).abs()
    assert bool((error <= bound * (1 + 1e-5) + 1e-7).all())
    assert float(bound.mean()) < float(weight.abs().mean()), "a bound that says nothing"


@pytest.mark.parametrize("shape", SHAPES)
def test_stored_bytes_are_the_formula(working: Quantizer, shape: tuple[int, int]) -> None:
    layer = working.quantize(linear(gaussian(shape)))
    assert layer.stored_bytes() == working.stored_bytes(*shape)
    assert [(tuple(t.shape), t.dtype) for t in layer.stored()] == [(tuple(s), d) for s, d in working.tensors(*shape)]
    assert math.isclose(working.bits_per_parameter(*shape), 8 * layer.stored_bytes() / (shape[0] * shape[1]))
    assert not any(t.numel() == shape[0] * shape[1] and t.is_floating_point() for t in layer.stored()), "a float copy is kept"


@pytest.mark.parametrize("shape", SHAPES)
def test_quantizing_again_gives_the_same_codes(working: Quantizer, shape: tuple[int, int]) -> None:
    once = working.quantize(linear(gaussian(shape)))
    twice = working.quantize(linear(once.dequantize()))
    assert once.codes().shape == shape
    assert float((once.codes() != twice.codes()).float().mean()) <= working.requantized_share


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_constant_and_zero_groups_survive(working: Quantizer, value: float) -> None:
    weight = torch.full((64, 64), value)
    weight[32:] = gaussian((32, 64))
    restored = working.quantize(linear(weight)).dequantize()
    assert torch.isfinite(restored).all()
    assert float((restored[:32] - value).abs().max()) <= 0.03 * abs(value)


def test_the_input_gets_the_right_gradient_and_the_base_none(working: Quantizer) -> None:
    layer = working.quantize(linear(gaussian((96, 64))))
    layer.train()
    x = gaussian((5, 64), seed=1).requires_grad_()
    wanted = gaussian((5, 96), seed=2)
    y = layer(x)
    (y * wanted).sum().backward()
    weight = layer.dequantize()
    exact = wanted @ weight
    torch.testing.assert_close(x.grad, exact, rtol=1e-4, atol=working.gradient_tolerance * float(exact.abs().max()))
    assert all(p.grad is None for p in layer.parameters() if not p.requires_grad)
    assert not any(t.requires_grad for t in layer.stored())
    relative = (y - nn.functional.linear(x, weight, layer.bias)).abs().max() / y.abs().max()
    assert relative.item() <= working.merge_tolerance


def test_it_is_the_float_model_of_its_rounded_weights(working: Quantizer, bench: Bench) -> None:
    backbone, plain = bench.backbone(), bench.backbone()
    working.convert(backbone)
    quantized = bench.outputs(backbone.module)
    stored = {name: tensor.clone() for name, tensor in stored_tensors(backbone.module)}
    restore_conv1d(make_dense(backbone.module))
    assert [type(m) for m in backbone.module.modules()] == [type(m) for m in plain.module.modules()]
    assert list(backbone.module.state_dict()) == list(plain.module.state_dict())
    dense = bench.outputs(backbone.module)
    assert float((dense - quantized).abs().max() / dense.abs().max()) <= working.merge_tolerance
    assert stored, "nothing was stored"


def test_slices_become_the_fused_layer_again(working: Quantizer, bench: Bench) -> None:
    backbone = bench.backbone()
    slice_fused(backbone.module, backbone.roles.sites)
    working.convert(backbone)
    make_dense(backbone.module)
    before = bench.outputs(backbone.module)
    fuse_slices(backbone.module)
    assert list(backbone.module.state_dict()) == list(bench.backbone().module.state_dict())
    torch.testing.assert_close(bench.outputs(backbone.module), before)


def test_a_plan_sees_the_same_layers_and_bytes(working: Quantizer, bench: Bench) -> None:
    from peftlab.backbones.resolve import source_of
    from tests.contracts.tiny import CLASSES

    head = "sequence-classification" if bench.kind == "gpt2" else "image-classification"
    meta: Backbone = source_of(str(bench.folder)).load(str(bench.folder), outputs=CLASSES, head=head, device="meta")
    planned, real = working.convert(meta), working.convert(bench.backbone())
    assert {n: (c.scheme, c.shape, c.stored_bytes) for n, c in planned.layers.items()} == {
        n: (c.scheme, c.shape, c.stored_bytes) for n, c in real.layers.items()
    }
    assert all(layer.stored()[0].is_meta for layer in quantized_layers(meta.module).values())


def test_errors_per_layer_are_the_relative_frobenius_norm(working: Quantizer, bench: Bench) -> None:
    backbone, plain = bench.backbone(), bench.backbone()
    for name, converted in working.convert(backbone).layers.items():
        weight = dense_weight(plain.module.get_submodule(name))
        error = (weight - dense_weight(backbone.module.get_submodule(name))).norm() / weight.norm()
        assert converted.error is not None
        assert math.isclose(converted.error, float(error), rel_tol=1e-4)
        assert 0 < converted.error < float(working.error_bound(weight).norm() / weight.norm())


def test_options_survive_the_way_to_a_study_file_and_back(quantizer: Quantizer) -> None:
    assert registry.create("quantizer", quantizer.spec()) == quantizer
    assert quantizer.summary()


def test_none_changes_nothing(bench: Bench) -> None:
    none = registry.create("quantizer", "none")
    backbone = bench.backbone()
    assert none.convert(backbone) == Conversion()
    assert torch.equal(bench.outputs(backbone.module), bench.outputs(bench.backbone().module))
    assert [none.refuse(device) for device in ("cpu", "cuda", "mps")] == [None, None, None]
