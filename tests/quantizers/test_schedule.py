"""What the hook of a group-wise quantizer notes: when, at which rho, and the balance of update and quantization error."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftlab.adapters.contract import Adapted
from peftlab.adapters.pooled import PooledLora, pooled_layers
from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import dense_weight
from peftlab.nn.surgery import slice_fused
from peftlab.quantizers.groupwise import Groupwise
from tests.adapters.models import backbone
from tests.contracts.conftest import perturb

SIZE = 8


def prepared(**options: Any) -> tuple[Adapted, Any]:
    """A perturbed adapter on quantized weights, and the hook."""
    quantizer = Groupwise(type="int4", group_size=SIZE, **options)
    adapter = PooledLora(rank=2).fitted(quantizer)
    base = backbone("vit")
    slice_fused(base.module, adapter.sites(base))
    quantizer.convert(base)
    adapted = adapter.attach(base, seed=3)
    perturb(adapted)
    return adapted, quantizer.hook(adapted)


def run(adapted: Adapted, hook: Any, total: int) -> None:
    hook.start(total, torch.optim.SGD(adapted.trainable().values()))
    for step in range(total):
        hook.before_step(step)
        hook.after_backward(step)
        hook.after_step(step)


@pytest.mark.parametrize(("total", "steps"), [(6, [*range(6)]), (99, [*range(99)]), (120, [*range(0, 120, 2), 119])])
def test_about_fifty_lines_and_the_last_step_are_noted(total: int, steps: list[int]) -> None:
    adapted, hook = prepared(schedule="linear", start=0.2, end=0.6)
    run(adapted, hook, total)
    noted = hook.report()["quantization_history.json"]["history"]
    assert [line["step"] for line in noted] == steps
    way = [(step / (total - 1) - 0.2) / 0.4 for step in steps]
    assert [line["rho"] for line in noted] == pytest.approx([min(max(x, 0.0), 1.0) for x in way], abs=1e-6)
    assert [line["rho"] for line in hook.usage] == pytest.approx(
        [0.0, min(r for r in map(hook.ramp, range(total)) if r), 1.0, 1.0]
    )


def test_balance_is_the_update_over_the_error_of_its_layer() -> None:
    adapted, hook = prepared()
    run(adapted, hook, 1)
    plain = backbone("vit").module
    expected = {}
    for name, layer in pooled_layers(adapted.module).items():
        assert isinstance(layer.base_layer, PackedLinear)
        error = dense_weight(plain.get_submodule(name)) - layer.base_layer.dequantize()
        expected[name] = float(layer.update().detach().repeat_interleave(SIZE, dim=1).norm() / error.norm())
    assert hook.history[-1]["balance"] == pytest.approx(expected, rel=1e-4) and len(expected) == 4


def test_a_layer_that_quantization_left_as_it_was_has_no_balance() -> None:
    adapted, hook = prepared()
    first, *others = pooled_layers(adapted.module)
    for name, layer in hook.layers.items():
        if name == first:
            weight = layer.dequantize()
            layer.error = type(layer.error).of(weight, weight, SIZE)
    assert list(hook.balance()) == others
