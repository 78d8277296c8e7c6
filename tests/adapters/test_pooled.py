"""QA-LoRA: against a weight-by-weight version of the paper, and its merge in every type on every kind of backbone."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.adapters.contract import Adapted
from peftlab.adapters.pooled import PooledLora, pooled_layers
from peftlab.errors import OptionError
from peftlab.nn.groups import BITS, BOOKS
from peftlab.nn.packed import PackedLinear
from peftlab.nn.pooled import PooledLinear, PooledTriplets
from peftlab.nn.quantized import dense_weight, make_dense, quantized_layers
from peftlab.nn.roles import Site
from peftlab.nn.surgery import slice_fused
from peftlab.quantizers.groupwise import Groupwise
from tests.adapters.models import backbone, images, tokens
from tests.contracts.conftest import perturb
from tests.contracts.tiny import KINDS, TEXT

TYPES = tuple(BITS)
SIZE = 8


def inputs(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    if kind in TEXT:
        return {"input_ids": tokens(seed=seed)}
    return {"pixel_values": images(seed=seed)}


def outputs(kind: str, module: nn.Module, seed: int = 0) -> torch.Tensor:
    with torch.no_grad():
        return backbone(kind).outputs(module.eval(), inputs(kind, seed))


def on_packed(kind: str, stored: str, **options: Any) -> Adapted:
    """A perturbed pooled adapter on a group-wise quantized backbone, put together as training/assemble.py does."""
    quantizer = Groupwise(type=stored, group_size=SIZE)  # pyright: ignore
    adapter = PooledLora(**{"rank": 2, **options}).fitted(quantizer)
    base = backbone(kind)
    slice_fused(base.module, adapter.sites(base))
    quantizer.convert(base)
    adapted = adapter.attach(base, seed=3)
    perturb(adapted)
    return adapted


def naive(layer: PooledLinear, packed: PackedLinear, x: list[float]) -> list[float]:
    """y_o = sum_j W~_oj x_j + bias_o + s g sum_r B_or sum_l A_rl mean_l(x), one weight at a time (paper, section 3.3)."""
    g, d_in = layer.group_size, len(x)
    a, b, codes, scale = (t.tolist() for t in (layer.A, layer.B, packed.codes(), packed.scale))
    shift = packed.shift.tolist() if packed.shift is not None else None
    y = []
    for o in range(len(b)):
        total = float(packed.bias[o]) if packed.bias is not None else 0.0
        for j in range(d_in):
            q, group = codes[o][j], j // g
            if packed.kind in BOOKS:
                weight = BOOKS[packed.kind][q] * scale[o][group]
            else:
                assert shift is not None
                weight = scale[o][group] * (q - shift[o][group])
            total += weight * x[j]
        for r in range(len(a)):
            inner = sum(a[r][m] * sum(x[m * g : (m + 1) * g]) / g for m in range(d_in // g))
            total += layer.scale * g * b[o][r] * inner
        y.append(total)
    return y


@pytest.mark.parametrize("stored", TYPES)
def test_forward_is_the_papers_weight_by_weight(stored: str) -> None:
    adapted = on_packed("vit", stored, targets="up")
    layer = next(iter(pooled_layers(adapted.module).values()))
    assert isinstance(layer, PooledLinear) and isinstance(layer.base_layer, PackedLinear)
    x = torch.randn(32, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor(naive(layer, layer.base_layer, x.tolist()))
    assert torch.allclose(layer.eval()(x), wanted, atol=1e-5)


@pytest.mark.parametrize("stored", ["int4", "int8"])
def test_merged_zero_points_are_the_papers(stored: str) -> None:
    """b' = b - s (B A)^T / a, entry by entry."""
    adapted = on_packed("vit", stored, targets="q")
    merged = adapted.adapter.merge(adapted)
    for name, layer in pooled_layers(adapted.module).items():
        old, new = layer.base_layer, merged.get_submodule(name)
        assert isinstance(layer, PooledLinear) and isinstance(old, PackedLinear) and isinstance(new, PackedLinear)
        assert old.shift is not None and new.shift is not None
        for o in range(old.out_features):
            for m in range(old.in_features // SIZE):
                product = sum((layer.B[o, r] * layer.A[r, m]).item() for r in range(2))
                wanted = float(old.shift[o, m]) - layer.scale * product / float(old.scale[o, m])
                assert float(new.shift[o, m]) == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("kind", sorted({*KINDS, *TEXT}))
@pytest.mark.parametrize("form", ["lora", "svd"])
def test_merging_changes_zero_points_or_offsets_and_nothing_else(kind: str, stored: str, form: str) -> None:
    adapted = on_packed(kind, stored, form=form, targets="all-linear")
    before = copy.deepcopy(adapted.module.state_dict())
    merged = adapted.adapter.merge(adapted)
    for seed in range(3):
        ours, theirs = outputs(kind, merged, seed), outputs(kind, adapted.module, seed)
        assert float((ours - theirs).abs().max()) <= 2e-5 * float(theirs.abs().max())
    assert all(torch.equal(value, before[name]) for name, value in adapted.module.state_dict().items())
    plain = backbone(kind)
    Groupwise(type=stored, group_size=SIZE).convert(plain)  # pyright: ignore
    old, new = quantized_layers(plain.module), quantized_layers(merged)
    assert old.keys() == new.keys()
    for name, layer in new.items():
        other = old[name]
        assert isinstance(layer, PackedLinear) and isinstance(other, PackedLinear)
        assert torch.equal(layer.packed, other.packed) and torch.equal(layer.scale, other.scale)
        assert layer.transposed == other.transposed
        assert layer.shift is not None and (other.shift is None or not torch.equal(layer.shift, other.shift))


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("kind", ["timm", *TEXT])
def test_a_merged_model_made_dense_is_the_plain_library_model(kind: str, stored: str) -> None:
    """Only q and v are adapted: k is stacked with them, and code books get offsets of zero there."""
    adapted = on_packed(kind, stored)
    wanted = outputs(kind, adapted.module)
    dense = registry.create("adapter", "linear-probe").merge(
        Adapted(module=adapted.adapter.merge(adapted), backbone=adapted.backbone, adapter=adapted.adapter)
    )
    plain = backbone(kind).module
    assert [type(m) for m in dense.modules()] == [type(m) for m in plain.modules()]
    assert {n: t.shape for n, t in dense.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}
    assert float((outputs(kind, dense) - wanted).abs().max()) <= 2e-5 * float(wanted.abs().max())


def test_on_float_weights_the_update_goes_into_them() -> None:
    adapter = PooledLora(rank=2, group_size=SIZE, targets="down")
    adapted = adapter.attach(backbone("gpt2"), seed=0)
    perturb(adapted)
    merged, plain = adapter.merge(adapted), backbone("gpt2").module
    for name, layer in pooled_layers(adapted.module).items():
        change = dense_weight(merged.get_submodule(name)) - dense_weight(plain.get_submodule(name))
        repeated = layer.update().repeat_interleave(SIZE, dim=1)
        assert torch.allclose(change, repeated, atol=1e-6)
        assert adapter.update_norms(adapted)[name] == pytest.approx(float(repeated.norm()), rel=1e-5)


@pytest.mark.parametrize("spec", [{"name": "pooled", "group_size": SIZE}, {"name": "svd"}, {"name": "lora"}], ids=str)
def test_a_rank_above_what_a_layer_can_have_is_refused(spec: dict[str, Any]) -> None:
    adapter = registry.create("adapter", {**spec, "rank": 2})
    ranks = {site.name: min(site.d_in, site.d_out) for site in adapter.sites(backbone("timm"))}
    adapter.attach(backbone("timm"), seed=0, ranks=ranks)
    name = next(iter(ranks))
    with pytest.raises(OptionError, match=rf"rank {ranks[name] + 1} is above min\(d_in, d_out\) = {ranks[name]} of {name}"):
        adapter.attach(backbone("timm"), seed=0, ranks={**ranks, name: ranks[name] + 1})


@pytest.mark.parametrize("form", ["lora", "svd"])
def test_ranks_of_an_allocator_survive_saving(form: str, tmp_path: Path) -> None:
    adapter = PooledLora(rank=2, group_size=SIZE, form=form)  # pyright: ignore
    sites = adapter.sites(backbone("timm"))
    ranks = {site.name: i % 4 for i, site in enumerate(sites)}
    adapted = adapter.attach(backbone("timm"), seed=0, ranks=ranks)
    perturb(adapted)
    counted = sum(p.numel() for n, p in adapted.trainable().items() if not adapted.is_head(n))
    assert counted == adapter.count(backbone("timm"), sites, ranks)
    adapter.save(adapted, tmp_path)
    assert torch.equal(outputs("timm", adapter.load(backbone("timm"), tmp_path)), outputs("timm", adapted.module))


def test_sites_are_maps_from_group_means() -> None:
    adapter = PooledLora(rank=4, group_size=SIZE)
    assert {(s.d_in, s.d_out) for s in adapter.sites(backbone("timm"))} == {(4, 32)}
    with pytest.raises(OptionError, match=f"above min(.|\n)*lower the rank or group_size: d_in counts groups of {SIZE} inputs"):
        PooledLora(rank=5, group_size=SIZE).sites(backbone("timm"))
    with pytest.raises(OptionError, match=r"blocks\.0\..*does not divide the 32 inputs\n.*divisor, e\.g\. 2, 4, 8, 16"):
        PooledLora(group_size=5).sites(backbone("timm"))
    with pytest.raises(OptionError, match="no group size"):
        PooledLora().sites(backbone("timm"))


def test_the_group_size_is_the_quantizers() -> None:
    groupwise, none = Groupwise(group_size=16), registry.create("quantizer", "none")
    assert PooledLora().fitted(groupwise) == PooledLora(group_size=16)
    assert PooledLora(group_size=16).fitted(groupwise) == PooledLora(group_size=16)
    assert PooledLora(group_size=5).fitted(none) == PooledLora(group_size=5)
    with pytest.raises(OptionError, match="do not merge into groups of 16") as caught:
        PooledLora(group_size=8).fitted(groupwise, where="arms.qa.adapter")
    assert caught.value.where == "arms.qa.adapter.group_size"
    with pytest.raises(OptionError, match="has no groups"):
        PooledLora().fitted(none)


def test_initial_values() -> None:
    first = {i: PooledLora(rank=2, group_size=SIZE, init=i).attach(backbone("vit"), seed=0) for i in ("lora", "xavier")}  # pyright: ignore
    for init, bound in (("lora", 32**-0.5), ("xavier", (6 / (4 + 2)) ** 0.5)):
        drawn = torch.cat([p.flatten() for n, p in first[init].trainable().items() if n.endswith(".A")])
        assert 0.8 * bound < drawn.abs().max().item() <= bound


@pytest.mark.parametrize(("init", "bound"), [("lora", 1 / math.sqrt(8 * 500)), ("xavier", math.sqrt(6 / (500 + 20)))])
def test_a_is_uniform_within_its_bound(init: Any, bound: float) -> None:
    """Of 10,000 numbers the largest is near the end."""
    site, random = Site(name="up", role="up", block=0, d_in=500, d_out=24), torch.Generator().manual_seed(0)
    layer: Any = PooledLora(rank=20, group_size=SIZE, init=init).layer(nn.Linear(4000, 24), site, 20, random)
    assert layer.A.shape == (20, 500) and 0.99 * bound < layer.A.detach().abs().max().item() <= bound
    assert layer.A.detach().abs().mean().item() == pytest.approx(bound / 2, rel=0.05) and not layer.B.any()


def test_triplets_start_small() -> None:
    site, random = Site(name="up", role="up", block=0, d_in=500, d_out=240), torch.Generator().manual_seed(0)
    layer: Any = PooledLora(rank=20, group_size=SIZE, form="svd").layer(nn.Linear(4000, 240), site, 20, random)
    assert layer.Q.shape == (20, 500) and not layer.singular_values.any()
    for drawn in (layer.P.detach(), layer.Q.detach()):
        assert drawn.std().item() == pytest.approx(0.02, rel=0.05) and abs(drawn.mean().item()) < 1e-3


def test_the_rank_without_options_is_four() -> None:
    """Studies that leave it out were run with it."""
    assert PooledLora().rank == 4


def test_a_dense_copy_of_the_base_gives_the_same_outputs() -> None:
    adapted = on_packed("vit", "int4")
    dense = make_dense(copy.deepcopy(adapted.module))
    assert torch.allclose(outputs("vit", dense), outputs("vit", adapted.module), atol=1e-5)


def test_triplets_that_are_switched_off_count_for_nothing_but_their_place() -> None:
    """What is analysed has the rank of what survives; what is trained keeps all triplets, for one can come back."""
    adapter = PooledLora(rank=3, group_size=SIZE, form="svd")
    adapted = adapter.attach(backbone("timm"), seed=0)
    perturb(adapted)
    layers = pooled_layers(adapted.module)
    name, layer = next(iter(layers.items()))
    assert isinstance(layer, PooledTriplets)
    with torch.no_grad():
        layer.singular_values[1] = 0.0
    found = {site: (rank, update) for site, rank, update in adapter.updates(adapted)}
    assert {site: rank for site, (rank, _) in found.items()} == {**dict.fromkeys(layers, 3), name: 2}
    assert layer.rank == 3 and layer.surviving().tolist() == [0, 2]
    by_hand = layer.scale * (layer.P * layer.singular_values.T) @ layer.Q
    torch.testing.assert_close(found[name][1], by_hand.detach().repeat_interleave(SIZE, dim=1))
    assert not found[name][1].requires_grad
