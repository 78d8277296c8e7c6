"""What the hook of a group-wise quantizer notes: when, at which rho, and the balance of update and quantization error."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.adapters.pooled import PooledLora, pooled_layers
from peftlab.nn.groups import BITS
from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import dense_weight
from peftlab.nn.surgery import slice_fused
from peftlab.quantizers._schedule import code_counts, entropy_bits
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
        hook.after_update(step)
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
        expected[name] = float(layer.update().repeat_interleave(SIZE, dim=1).norm() / error.norm())
    assert hook.history[-1]["balance"] == pytest.approx(expected, rel=1e-4) and len(expected) == 4


def test_a_layer_that_quantization_left_as_it_was_has_no_balance() -> None:
    adapted, hook = prepared()
    first, *others = pooled_layers(adapted.module)
    for name, layer in hook.layers.items():
        if name == first:
            weight = layer.dequantize()
            layer.error = type(layer.error).of(weight, weight, SIZE)
    assert list(hook.balance()) == others


@pytest.mark.parametrize(
    ("options", "total", "full"),
    [
        ({}, 5, 0),
        ({"schedule": "linear", "start": 0.0, "end": 0.5}, 9, 4),
        ({"schedule": "cosine", "start": 0.25, "end": 0.75}, 9, 6),
        ({"schedule": "linear"}, 1, 0),
        ({"schedule": "linear"}, 0, 0),
    ],
)
def test_float_weights_are_resident_until_the_first_step_at_one(options: dict[str, Any], total: int, full: int) -> None:
    adapted, hook = prepared(**options)
    floats = sum(4 * layer.in_features * layer.out_features for layer in hook.layers.values()) if options else 0
    assert hook.name == "quantization", "under which its state is kept"
    assert hook.resident == floats and hook.changes_base == bool(options)
    run(adapted, hook, total)
    assert all(layer.full is None and layer.share == 1.0 for layer in hook.layers.values())
    noted = hook.report()["quantization_history.json"]["float_weights"]
    assert (noted["resident_until_step"], noted["bytes"]) == (full, floats)
    assert noted["note"] == ("no memory was saved while they were resident" if options else "never resident")


def test_weights_are_float_to_the_last_step_before_rho_is_one() -> None:
    adapted, hook = prepared(schedule="linear", start=0.0, end=0.5)
    hook.start(9, torch.optim.SGD(adapted.trainable().values()))
    held = []
    for step in range(9):
        hook.before_step(step)
        held.append(all(layer.full is not None for layer in hook.layers.values()))
    assert held == [True] * 4 + [False] * 5


@pytest.mark.parametrize("kind", BITS)
def test_every_code_is_counted_those_that_never_occur_as_well(kind: Any) -> None:
    layer = PackedLinear.of(nn.Linear(16, 8), 4, kind)
    counts = code_counts(layer)
    assert len(counts) == 2 ** BITS[layer.kind] and int(counts.sum()) == 16 * 8
    assert counts.tolist() == [int((layer.codes() == code).sum()) for code in range(2 ** BITS[layer.kind])]
    flat = nn.Linear(16, 8)
    nn.init.ones_(flat.weight)
    one = code_counts(PackedLinear.of(flat, 4, kind))
    assert len(one) == len(counts) and int((one > 0).sum()) == 1 and entropy_bits(one) == 0.0


def test_of_a_rank_above_those_that_are_kept_the_record_has_no_bound() -> None:
    """The bound of rank 64 is none of rank 80; of groups there are 24, and a rank beyond reaches what they do."""
    adapted, hook = prepared()
    name = adapted.sites[0].name
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(192, 192, generator=random)
    layer = nn.Linear(192, 192)
    layer.weight.data = weight
    packed = PackedLinear.of(layer, SIZE, "int4")
    assert packed.error is not None
    for rank, known in ((2, True), (64, True), (80, False)):
        adapted.ranks = {name: rank}
        found = json.loads(json.dumps(hook._describe(name, packed, True)["cancellable"]))
        kept, groups = packed.error.unrestricted, packed.error.pooled
        assert found == {
            "rank": rank,
            "unrestricted": kept[rank - 1] if known else None,
            "pooled": groups[min(rank, 24) - 1],
        }


def test_entropy_is_in_bits() -> None:
    assert entropy_bits(torch.tensor([4, 4, 4, 4])) == pytest.approx(2.0)
    assert entropy_bits(torch.tensor([0, 3, 1, 0])) == pytest.approx(0.811278)


def test_codes_in_use_are_noted_as_a_share() -> None:
    adapted, hook = prepared()
    run(adapted, hook, 2)
    first, last = hook.usage
    assert (first["step"], last["step"], first["rho"]) == (0, 1, 1.0)
    for name, layer in hook.layers.items():
        assert last["used"][name] == len(layer.codes().unique()) / 16
        assert last["entropy_bits"][name] == pytest.approx(entropy_bits(code_counts(layer)))
