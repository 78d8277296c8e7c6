"""AdaptFormer against a forward pass written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftlab.adapters.adaptformer import AdaptFormer
from peftlab.backbones.hub import TransformersBackbone
from peftlab.errors import BackboneError
from tests.adapters import models
from tests.contracts.conftest import perturb


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_outputs_equal_the_formula_written_out(scale: float) -> None:
    adapted = AdaptFormer(width=4, scale=scale).attach(models.backbone(), seed=0)
    perturb(adapted, size=0.2)
    own = {name: p.detach() for name, p in adapted.module.named_parameters()}
    plain: Any = models.backbone().module
    plain.head.load_state_dict(adapted.module.head.state_dict())  # pyright: ignore

    def attention(number: int, x: torch.Tensor) -> torch.Tensor:
        return plain.blocks[number].attn(plain.blocks[number].norm1(x))

    def feed_forward(number: int, x: torch.Tensor) -> torch.Tensor:
        block, prefix = plain.blocks[number], f"blocks.{number}.mlp.adapter.bottleneck."
        z = block.norm2(x)
        inner = torch.relu(z @ own[prefix + "down.weight"].T + own[prefix + "down.bias"])
        return block.mlp(z) + scale * (inner @ own[prefix + "up.weight"].T + own[prefix + "up.bias"])

    wanted = models.by_hand(plain, attention, feed_forward)
    found = models.logits("timm", adapted.module)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (found - models.logits("timm", models.backbone().module)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("family", "places"),
    [
        ("timm", ["blocks.0.mlp", "blocks.1.mlp"]),
        ("vit", ["vit.layers.0.mlp", "vit.layers.1.mlp"]),
        ("gpt2", ["transformer.h.0.mlp", "transformer.h.1.mlp"]),
    ],
)
def test_it_sits_beside_the_mlp_of_every_block(family: str, places: list[str]) -> None:
    adapted = AdaptFormer(width=4).attach(models.backbone(family), seed=0)
    assert sorted({name.split(".adapter.")[0] for name in adapted.trainable() if not adapted.is_head(name)}) == places


def test_blocks_without_an_mlp_module_are_refused(tmp_path: Any) -> None:
    from transformers import BertConfig

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 50,
    }
    BertConfig(**sizes).save_pretrained(str(tmp_path))
    bert = TransformersBackbone.load(str(tmp_path), outputs=2, head="sequence-classification", device="meta")
    with pytest.raises(BackboneError, match="no MLP module of its own"):
        AdaptFormer(width=4).attach(bert, seed=0)
