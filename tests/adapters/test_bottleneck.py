"""Bottleneck adapters against a forward pass written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peftlab.adapters.bottleneck import BottleneckAdapter
from tests.adapters import models
from tests.contracts.conftest import perturb

ACTIVATIONS = {"gelu": nn.functional.gelu, "relu": torch.relu}


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_outputs_equal_the_formula_written_out(placement: Any, activation: Any) -> None:
    adapter = BottleneckAdapter(width=4, placement=placement, activation=activation, norms=False)
    adapted = adapter.attach(models.backbone(), seed=0)
    perturb(adapted, size=0.2)
    own = {name: p.detach() for name, p in adapted.module.named_parameters()}
    plain: Any = models.backbone().module
    plain.head.load_state_dict(adapted.module.head.state_dict())  # pyright: ignore

    def bottleneck(layer: str, h: torch.Tensor) -> torch.Tensor:
        w = {key: own[f"{layer}.adapter.bottleneck.{key}"] for key in ("down.weight", "down.bias", "up.weight", "up.bias")}
        inner = ACTIVATIONS[activation](h @ w["down.weight"].T + w["down.bias"])
        return h + inner @ w["up.weight"].T + w["up.bias"]

    def attention(number: int, x: torch.Tensor) -> torch.Tensor:
        block = plain.blocks[number]
        h = block.attn(block.norm1(x))
        return bottleneck(f"blocks.{number}.attn.proj", h) if placement == "houlsby" else h

    def feed_forward(number: int, x: torch.Tensor) -> torch.Tensor:
        block = plain.blocks[number]
        return bottleneck(f"blocks.{number}.mlp.fc2", block.mlp(block.norm2(x)))

    wanted = models.by_hand(plain, attention, feed_forward)
    found = models.logits("timm", adapted.module)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (found - models.logits("timm", models.backbone().module)).abs().max() > 0.01


@pytest.mark.parametrize(("options", "trained"), [({}, True), ({"placement": "pfeiffer"}, False), ({"norms": False}, False)])
def test_norms_train_as_published_unless_told_otherwise(options: Any, trained: bool) -> None:
    adapted = BottleneckAdapter(width=4, **options).attach(models.backbone("vit"), seed=0)
    names = {name for name in adapted.trainable() if "layernorm" in name}
    assert bool(names) is trained
    assert names == adapted.own_parameters
    assert len(names) == (2 * (2 * models.BLOCKS + 1) if trained else 0)


def test_the_first_matrix_starts_as_a_cut_normal_of_deviation_one_hundredth() -> None:
    """Houlsby et al. 2019, section 3.1: N(0, 0.01^2), truncated at two standard deviations (which leaves 0.0088)."""
    adapted = BottleneckAdapter(width=32).attach(models.backbone(), seed=0)
    values = torch.cat([p.detach().flatten() for name, p in adapted.trainable().items() if name.endswith("down.weight")])
    assert values.abs().max() <= 0.02
    assert float(values.std()) == pytest.approx(0.0088, rel=0.05)
