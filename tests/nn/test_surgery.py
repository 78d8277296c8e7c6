"""Fused projections taken apart and put together again."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftlab.nn.roles import Site
from peftlab.nn.surgery import SlicedLinear, fuse_slices, slice_fused


class Holder(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": layer})


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(8, 24), nn.Linear(8, 24, bias=False), Conv1D(24, 8)]


@pytest.mark.parametrize("fused", layers(), ids=["linear", "no-bias", "conv1d"])
def test_slices_compute_what_the_fused_layer_does(fused: nn.Module) -> None:
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(SlicedLinear(fused)(x), fused(x))


@pytest.mark.parametrize("fused", layers(), ids=["linear", "no-bias", "conv1d"])
def test_there_and_back_is_bit_equal_and_draws_no_random_number(fused: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in fused.state_dict().items()}
    holder = Holder(fused)
    state = torch.random.get_rng_state()
    slice_fused(holder, [Site(name="attn.qkv.q", role="q", block=0, d_in=8, d_out=8, parent="attn.qkv")])
    assert isinstance(holder.get_submodule("attn.qkv"), SlicedLinear)
    assert holder.get_submodule("attn.qkv.v").weight.shape == (8, 8)
    fuse_slices(holder)
    assert torch.equal(torch.random.get_rng_state(), state)
    back = holder.get_submodule("attn.qkv")
    assert type(back) is type(fused)
    sizes = ("in_features", "out_features", "nf", "nx")
    assert [getattr(back, size, None) for size in sizes] == [getattr(fused, size, None) for size in sizes]
    assert back.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in back.state_dict().items())


def test_slices_share_no_memory_with_the_fused_layer() -> None:
    fused = nn.Linear(4, 12)
    sliced = SlicedLinear(fused)
    with torch.no_grad():
        sliced.get_submodule("q").weight.zero_()  # pyright: ignore
    assert fused.weight[:4].abs().sum() > 0


def test_frozen_stays_frozen() -> None:
    fused = nn.Linear(4, 12)
    fused.weight.requires_grad_(False)
    sliced = SlicedLinear(fused)
    assert {name: p.requires_grad for name, p in sliced.named_parameters() if name.startswith("k")} == {
        "k.weight": False,
        "k.bias": True,
    }
