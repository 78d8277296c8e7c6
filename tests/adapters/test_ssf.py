"""SSF: every layer scaled and shifted, and the merge against wrappers written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peftlab.adapters.ssf import Ssf
from tests.adapters import models
from tests.contracts.conftest import perturb


class Wrapped(nn.Module):
    """gamma * layer(x) + beta, channels last or (after a convolution) second."""

    def __init__(self, layer: nn.Module, gamma: torch.Tensor, beta: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.gamma, self.beta = layer, gamma, beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        if isinstance(self.layer, nn.Conv2d):
            return torch.einsum("bchw,c->bchw", y, self.gamma) + self.beta[None, :, None, None]
        return torch.einsum("...c,c->...c", y, self.gamma) + self.beta

    @property
    def weight(self) -> Any:  # transformers asks the patch projection for its dtype
        return self.layer.weight


@pytest.mark.parametrize("family", models.FAMILIES)
def test_outputs_and_merge_equal_layers_wrapped_by_hand(family: str) -> None:
    adapted = Ssf().attach(models.backbone(family), seed=0)
    perturb(adapted, size=0.2)
    own = {name: p.detach() for name, p in adapted.module.named_parameters()}
    plain = models.backbone(family).module
    wrapped = models.backbone(family).module
    for module in (plain, wrapped):
        for name, parameter in module.named_parameters():
            parameter.data.copy_(own[name])
    layers = [name.removesuffix(".adapter.scale") for name in own if name.endswith(".adapter.scale")]
    for name in layers:
        gamma, beta = own[f"{name}.adapter.scale"], own[f"{name}.adapter.shift"]
        wrapped.set_submodule(name, Wrapped(wrapped.get_submodule(name), gamma, beta))
    wanted = models.logits(family, wrapped)
    torch.testing.assert_close(models.logits(family, adapted.module), wanted, rtol=1e-4, atol=1e-5)
    merged = Ssf().merge(adapted)
    torch.testing.assert_close(models.logits(family, merged), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted - models.logits(family, plain)).abs().max() > 0.01
    for name in layers:
        layer: Any = plain.get_submodule(name)
        gamma, beta = own[f"{name}.adapter.scale"], own[f"{name}.adapter.shift"]
        folded: Any = merged.get_submodule(name)
        torch.testing.assert_close(
            folded.weight.flatten(1) if layer.weight.dim() > 1 else folded.weight,
            torch.diag(gamma) @ (layer.weight.flatten(1) if layer.weight.dim() > 1 else layer.weight),
        )
        torch.testing.assert_close(folded.bias, gamma * layer.bias + beta)


def test_every_operation_of_a_vit_has_a_scale_and_a_shift() -> None:
    adapted = Ssf().attach(models.backbone(), seed=0)
    found = sorted(name.removesuffix(".adapter.scale") for name in adapted.trainable() if name.endswith("scale"))
    block = ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2", "norm1", "norm2")
    assert found == sorted(["norm", "patch_embed.proj", *(f"blocks.{i}.{part}" for i in range(2) for part in block)])
    assert len([name for name in adapted.trainable() if name.endswith("shift")]) == len(found)


def test_a_layer_without_a_bias_gets_no_shift_and_still_merges() -> None:
    backbone = models.backbone()
    backbone.module.get_submodule("blocks.0.attn.qkv").bias = None  # pyright: ignore
    adapted = Ssf().attach(backbone, seed=0)
    assert "blocks.0.attn.qkv.adapter.shift" not in adapted.trainable()
    assert "blocks.0.attn.qkv.adapter.scale" in adapted.trainable()
    perturb(adapted)
    merged = Ssf().merge(adapted)
    torch.testing.assert_close(models.logits("timm", merged), models.logits("timm", adapted.module), rtol=1e-4, atol=1e-5)


def test_the_released_codes_start_is_random_and_acts_at_once() -> None:
    adapter = Ssf(init="normal")
    adapted = adapter.attach(models.backbone(), seed=0)
    scales, shifts = (
        torch.cat([p.detach() for name, p in adapted.trainable().items() if name.endswith(end)]) for end in ("scale", "shift")
    )
    assert float(scales.mean()) == pytest.approx(1, abs=0.005)
    assert float(shifts.mean()) == pytest.approx(0, abs=0.005)
    assert [float(x.std()) for x in (scales, shifts)] == pytest.approx([0.02, 0.02], rel=0.1)
    assert not adapter.zero_at_start
    assert Ssf().zero_at_start
