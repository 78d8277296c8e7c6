"""Quantized weights on the accelerator: the codes of a CPU, the products of a CPU to rounding, and bytes that really fall."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.nn.quantized import dense_weight, stored_tensors
from tests.contracts.test_quantizers import gaussian, linear

pytestmark = pytest.mark.gpu
SCHEMES: list[dict[str, Any]] = [
    *({"name": "groupwise", "type": kind, "group_size": 32} for kind in ("int4", "int8", "nf4", "fp4")),
    *({"name": "bnb", "bits": 4, "type": kind, "double": double} for kind in ("nf4", "fp4") for double in (False, True)),
    {"name": "bnb", "bits": 8},
]


def layer_of(scheme: dict[str, Any], device: torch.device) -> nn.Module:
    return registry.create("quantizer", scheme).quantize(linear(gaussian((256, 512))).to(device))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_device_stores_what_a_cpu_stores(device: torch.device, scheme: dict[str, Any]) -> None:
    here, there = layer_of(scheme, torch.device("cpu")), layer_of(scheme, device)
    apart = (dense_weight(here) - dense_weight(there).cpu()).abs()
    # a weight that lies between two codes may go to either, by the rounding of a division
    assert (apart > 1e-6).float().mean() < 1e-3
    assert apart.max() <= dense_weight(here).abs().max() / 3


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_products_and_gradients_are_those_of_the_stored_weight(device: torch.device, scheme: dict[str, Any]) -> None:
    layer = layer_of(scheme, device)
    x = gaussian((16, 512), seed=1).to(device).requires_grad_(True)
    weight = dense_weight(layer).to(device)
    found = layer(x)
    expected = x.detach() @ weight.T
    rounding = 0.02 if scheme.get("bits") == 8 else 1e-4  # LLM.int8() rounds the inputs to 8 bits, too
    assert isinstance(layer.bias, torch.Tensor)
    assert (found - layer.bias - expected).norm() <= rounding * expected.norm()
    found.sum().backward()
    assert x.grad is not None and (x.grad - weight.sum(0)).norm() <= rounding * 5 * weight.sum(0).norm()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_memory_falls_by_what_the_formula_says(device: torch.device, scheme: dict[str, Any]) -> None:
    quantizer = registry.create("quantizer", scheme)
    module = nn.Sequential(layer_of(scheme, device))
    stored = sum(tensor.nbytes for _, tensor in stored_tensors(module))
    assert stored == pytest.approx(quantizer.bits_per_parameter(256, 512) / 8 * 256 * 512, rel=0.02)
