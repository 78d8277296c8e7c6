"""Visual prompts: where the tokens stand, how many there are, and the forward pass written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from peftlab.adapters.visual_prompt import VisualPrompt
from peftlab.backbones.timm import TimmBackbone
from tests.adapters import models
from tests.contracts.conftest import perturb

PATCHES = (32 // 8) ** 2
SPECIAL = {"timm": 1, "vit": 1, "deit": 2}
#: family -> dotted name of the list of blocks
LISTS = {"timm": "blocks", "vit": "vit.layers", "deit": "deit.layers"}


@pytest.mark.parametrize("depth", ["shallow", "deep"])
def test_outputs_equal_the_formula_written_out(depth: Any) -> None:
    adapted = VisualPrompt(depth=depth, prompts=3).attach(models.backbone(), seed=0)
    perturb(adapted, size=0.2)
    own = {name: p.detach() for name, p in adapted.module.named_parameters()}
    plain: Any = models.backbone().module
    plain.head.load_state_dict(adapted.module.head.state_dict())  # pyright: ignore

    def before(number: int, x: torch.Tensor) -> torch.Tensor:
        if number == 0:
            prompts = own["blocks.0.adapter.tokens"].expand(len(x), -1, -1)
            return torch.cat((x[:, :1], prompts, x[:, 1:]), dim=1)
        if depth == "deep":
            x = x.clone()
            x[:, 1:4] = own[f"blocks.{number}.adapter.tokens"]
        return x

    wanted = models.by_hand(
        plain,
        lambda i, x: plain.blocks[i].attn(plain.blocks[i].norm1(x)),
        lambda i, x: plain.blocks[i].mlp(plain.blocks[i].norm2(x)),
        before,
    )
    found = models.logits("timm", adapted.module)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (found - models.logits("timm", models.backbone().module)).abs().max() > 0.01


def seen(family: str, module: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What goes into the attention norm of each block, and what leaves each block."""
    into: list[torch.Tensor] = []
    out: list[torch.Tensor] = []
    for block in module.get_submodule(LISTS[family]):
        norm = getattr(block, "norm1", None) or block.layernorm_before
        norm.register_forward_pre_hook(lambda _, args: into.append(args[0]))
        block.register_forward_hook(lambda _, args, output: out.append(output))
    models.logits(family, module)
    return into, out


@pytest.mark.parametrize("family", models.FAMILIES)
@pytest.mark.parametrize("depth", ["shallow", "deep"])
def test_the_sequence_grows_by_p_and_the_special_tokens_stay_in_front(family: str, depth: Any) -> None:
    adapted = VisualPrompt(depth=depth, prompts=5).attach(models.backbone(family), seed=0)
    special = SPECIAL[family]
    into, out = seen(family, adapted.module)
    plain, _ = seen(family, models.backbone(family).module)
    assert [x.shape[1] for x in plain] == [special + PATCHES] * models.BLOCKS
    assert [x.shape[1] for x in into] == [special + 5 + PATCHES] * models.BLOCKS
    assert [x.shape[1] for x in out] == [special + 5 + PATCHES, special + PATCHES]
    assert torch.equal(into[0][:, :special], plain[0][:, :special])
    assert torch.equal(into[0][:, special + 5 :], plain[0][:, special:])
    tokens = [p.detach() for name, p in adapted.trainable().items() if name.endswith("adapter.tokens")]
    assert len(tokens) == (models.BLOCKS if depth == "deep" else 1)
    for block, own in enumerate(tokens):
        assert torch.equal(into[block][:, special : special + 5], own.expand(3, -1, -1))


def test_prompts_start_uniform_with_the_released_codes_limit() -> None:
    """facebookresearch/vpt: sqrt(6 / (3 * patch * patch + d))."""
    adapted = VisualPrompt(prompts=200).attach(models.backbone(), seed=0)
    values = torch.cat([p.detach().flatten() for name, p in adapted.trainable().items() if name.endswith("tokens")])
    limit = math.sqrt(6 / (3 * 8 * 8 + models.WIDTH))
    assert 0.99 * limit < values.abs().max() <= limit
    assert float(values.std()) == pytest.approx(limit / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("options", [{"global_pool": "avg", "class_token": False}, {"reg_tokens": 4, "no_embed_class": True}])
def test_other_token_layouts_of_timm_keep_their_pooling(options: dict[str, Any]) -> None:
    """Mean-pooled and register-token models see no prompt in their pooling, because the prompts are gone by then."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
        module: Any = timm.create_model("vit_tiny_patch16_224", **sizes, **options)
    backbone = TimmBackbone.load("timm/vit_tiny_patch16_224", outputs=5, device="meta")
    backbone.module = module.eval()
    special = module.num_prefix_tokens
    lengths: list[int] = []
    module.blocks[0].attn.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    ends: list[int] = []
    module.norm.register_forward_pre_hook(lambda _, args: ends.append(args[0].shape[1]))
    module.fc_norm.register_forward_pre_hook(lambda _, args: ends.append(args[0].shape[-1]))
    backbone.__post_init__()
    adapted = VisualPrompt(prompts=3).attach(backbone, seed=0)
    with torch.no_grad():
        assert adapted.module(models.images()).shape == (3, 5)
    assert lengths == [special + 3 + PATCHES]
    assert ends[0] == special + PATCHES
