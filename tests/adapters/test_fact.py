"""FacT: the merged weights against the paper's tensor, built whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftlab.adapters.fact import FacT
from peftlab.backbones.timm import TimmBackbone
from peftlab.errors import OptionError
from tests.adapters import models
from tests.contracts.conftest import perturb

D = models.WIDTH


def tensor_of(adapted: Any, form: str, order: list[str]) -> torch.Tensor:
    """The update of all slices, [slices, d, d] for x -> x dW, built whole as the paper writes it."""
    own = {name: p.detach() for name, p in adapted.module.named_parameters()}
    u, v = own["fact.u"], own["fact.v"]
    rows = torch.cat([own[name] for name in order])
    if form == "tt":  # W = Sigma x_2 U x_3 V
        return adapted.adapter.scale * torch.stack([u @ sigma @ v.T for sigma in rows])
    tensordot: Any = torch.tensordot
    whole = tensordot(rows, own["fact.core"], dims=([1], [0]))  # C x_1 P
    whole = tensordot(whole, u, dims=([1], [1]))  # x_2 U: [slices, r3, d]
    return adapted.adapter.scale * tensordot(whole, v, dims=([1], [1]))  # x_3 V: [slices, d, d]


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_merged_weights_are_the_papers_tensor_cut_into_layers(form: Any) -> None:
    adapter = FacT(form=form, rank=4, scale=3.0)
    adapted = adapter.attach(models.backbone(), seed=0)
    perturb(adapted, size=0.2)
    merged: Any = adapter.merge(adapted)
    plain: Any = models.backbone().module
    parts = ["attn.qkv.adapter.slots.q", "attn.qkv.adapter.slots.k", "attn.qkv.adapter.slots.v"]
    parts += ["attn.proj.adapter.slots.o", "mlp.fc1.adapter.slots.up", "mlp.fc2.adapter.slots.down"]
    order = [f"blocks.{block}.{part}.own" for block in range(2) for part in parts]
    update = tensor_of(adapted, form, order)
    assert update.shape == (12 * models.BLOCKS, D, D)  # q, k, v, o and four each for up and down, as in ViT
    assert update.abs().max() > 0.01
    for number, slices in enumerate(update.split(12)):
        before, after = plain.blocks[number], merged.blocks[number]
        q, k, v, o = slices[:4]
        up, down = torch.cat(list(slices[4:8]), dim=1), torch.cat(list(slices[8:]), dim=0)  # [d, 4d], [4d, d]
        changes = {"attn.qkv": torch.cat([q, k, v], dim=1), "attn.proj": o, "mlp.fc1": up, "mlp.fc2": down}
        for name, change in changes.items():
            expected = before.get_submodule(name).weight + change.T
            torch.testing.assert_close(after.get_submodule(name).weight, expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(after.get_submodule(name).bias, before.get_submodule(name).bias)


@pytest.mark.parametrize("family", [*models.FAMILIES])
@pytest.mark.parametrize("form", ["tt", "tk"])
def test_unmerged_and_merged_outputs_agree(form: Any, family: str) -> None:
    adapter = FacT(form=form, rank=4)
    adapted = adapter.attach(models.backbone(family), seed=0)
    perturb(adapted, size=0.2)
    found = models.logits(family, adapter.merge(adapted))
    torch.testing.assert_close(found, models.logits(family, adapted.module), rtol=1e-4, atol=1e-4)
    assert (found - models.logits(family, models.backbone(family).module)).abs().max() > 0.01


def test_fused_and_separate_projections_have_the_same_parameters() -> None:
    """timm's tiny model has a feed-forward layer of 4 d, transformers' of 2 d: 12 and 8 slices a block."""
    for family, slices in (("timm", 24), ("vit", 16)):
        backbone = models.backbone(family)
        adapter = FacT(rank=4)
        assert adapter.count(backbone, adapter.sites(backbone)) == 2 * D * 4 + slices * 4**2


def test_the_shared_factors_are_counted_and_saved_once() -> None:
    adapted = FacT(form="tk", rank=4).attach(models.backbone(), seed=0)
    shared = [name for name in adapted.trainable() if name.split(".")[-1] in ("u", "v", "core")]
    assert shared == ["fact.u", "fact.v", "fact.core"]


def test_layer_widths_that_do_not_split_are_refused() -> None:
    import timm

    with torch.device("meta"):
        sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
        module = timm.create_model("vit_tiny_patch16_224", mlp_ratio=2.5, **sizes)
    backbone = TimmBackbone.load("timm/vit_tiny_patch16_224", outputs=5, device="meta")
    backbone.module = module
    backbone.__post_init__()
    with pytest.raises(OptionError, match="does not split into slices of 32 x 32"):
        FacT(rank=4).attach(backbone, seed=0)
