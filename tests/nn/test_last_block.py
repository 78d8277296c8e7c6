"""The last block for the row that is read: same outputs and gradients, less work, and only where that is known to hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from peftlab.nn.last_block import LastBlock, last_block
from peftlab.nn.roles import find_roles

WIDTH, HIDDEN, BATCH = 32, 64, 4
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": HIDDEN,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "num_labels": 5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
IMAGE: dict[str, Any] = {key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_labels")}
IMAGE |= {"intermediate_size": HIDDEN, "image_size": 32, "patch_size": 8}
TIMM: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 2, "num_classes": 5}


def timm_model(name: str = "vit_tiny_patch16_224", **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, **{**TIMM, **options})


def family(name: str) -> nn.Module:
    import transformers

    if name.startswith("timm"):
        return timm_model(mlp_ratio=HIDDEN / WIDTH, **({"init_values": 0.1, "qk_norm": True} if name == "timm-scaled" else {}))
    options, task = (IMAGE, "Image") if name in ("ViT", "DeiT") else (TEXT, "Sequence")
    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}For{task}Classification")(config)


FAMILIES = ("timm", "timm-scaled", "ViT", "DeiT", "Bert", "Roberta", "XLMRoberta", "Electra")


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    if name.startswith(("timm", "ViT", "DeiT")):
        return {"pixel_values": torch.randn(BATCH, 3, 32, 32, generator=random).double()}
    mask = torch.ones(BATCH, 9, dtype=torch.int64)
    mask[0, 6:] = 0
    return {"input_ids": torch.randint(2, 64, (BATCH, 9), generator=random), "attention_mask": mask}


def call(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    if type(model).__module__.startswith("timm"):
        return model(inputs["pixel_values"])
    return model(**inputs).logits


def found(model: nn.Module) -> LastBlock | str:
    roles = find_roles(model)
    return last_block(model, roles.names, {site.parent or site.name for site in roles.sites})


def results(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    logits = call(model, inputs)
    (logits * torch.linspace(-1, 1, logits.numel()).double().view_as(logits)).sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return [logits.detach(), *gradients]


@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_and_every_gradient_are_those_of_the_whole_block(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = family(name).double().train(), inputs_of(name)
    last = found(model)
    assert isinstance(last, LastBlock), last
    whole = results(model, inputs)
    with last.only_read(model):
        read = results(model, inputs)
    assert any(gradient.abs().max() > 0 for gradient in whole[1:])
    for one, other in zip(whole, read, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_saves_output_projection_and_feed_forward_of_the_other_rows(name: str) -> None:
    """2 B (T - 4) (d^2 + 2 d d_ff) operations of a forward pass."""
    model, inputs = family(name).double().eval(), inputs_of(name)
    last = found(model)
    assert isinstance(last, LastBlock)
    tokens = 17 if "pixel_values" in inputs else 9
    if name == "DeiT":
        tokens += 1  # of its distillation
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        call(model, inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as read, last.only_read(model):
        call(model, inputs)
    assert whole.get_total_flops() - read.get_total_flops() == 2 * BATCH * (tokens - 4) * (WIDTH**2 + 2 * WIDTH * HIDDEN)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_is_as_before_afterwards_whatever_happens_inside(name: str) -> None:
    model, inputs = family(name).double().eval(), inputs_of(name)
    last = found(model)
    assert isinstance(last, LastBlock)
    before = {path: (type(part), dict(part.__dict__)) for path, part in model.named_modules()}
    with pytest.raises(ValueError, match="inside"), last.only_read(model):
        call(model, inputs)
        raise ValueError("inside")
    for path, part in model.named_modules():
        kind, attributes = before[path]
        assert type(part) is kind
        assert part.__dict__.keys() == attributes.keys()
        assert not part._forward_pre_hooks


@pytest.mark.parametrize("batch", [1, 3, 9])
def test_four_rows_of_an_example_go_on_whatever_the_batch(batch: int) -> None:
    model = timm_model().eval()
    last, seen = found(model), []
    assert isinstance(last, LastBlock)
    model.blocks[-1].mlp.register_forward_hook(lambda _, __, output: seen.append(output))  # pyright: ignore
    with torch.no_grad(), last.only_read(model):
        model(torch.randn(batch, 3, 32, 32))
    assert seen[0].shape == (batch, 4, WIDTH)


@pytest.mark.parametrize("width", [32, 192])
def test_an_example_has_the_same_bits_whoever_is_computed_with_it(width: int) -> None:
    """On one thread; what runs that are stacked, or share a batch with other processes, rest on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        model = timm_model(embed_dim=width).eval()
        last = found(model)
        assert isinstance(last, LastBlock)
        images = torch.randn(9, 3, 32, 32)
        with torch.no_grad(), last.only_read(model):
            whole = model(images)
            for batch in (1, 2, 3, 4, 5, 8):
                assert torch.equal(model.forward_features(images[:batch])[:, 0], model.forward_features(images)[:batch, 0])
        assert whole.shape == (9, 5)
    finally:
        torch.set_num_threads(before)


class Everywhere(nn.Module):
    """Mixes rows, as an inserted layer may."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean(dim=1, keepdim=True)


def mixed() -> nn.Module:
    model = timm_model()
    model.blocks[-1].norm2 = nn.Sequential(model.blocks[-1].norm2, Everywhere())  # pyright: ignore
    return model


def hooked() -> nn.Module:
    model = timm_model()
    model.blocks[-1].mlp.register_forward_hook(lambda *_: None)  # pyright: ignore
    return model


def quantized() -> nn.Module:
    import bitsandbytes

    model = timm_model()
    model.blocks[-1].mlp.fc1 = bitsandbytes.nn.Linear8bitLt(WIDTH, 4 * WIDTH, has_fp16_weights=False)  # pyright: ignore
    return model


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: timm_model(global_pool="avg"), "reads every row"),
        (lambda: timm_model("deit_tiny_distilled_patch16_224"), "VisionTransformerDistilled"),
        (mixed, "Everywhere"),
        (hooked, "something acts on blocks.1.mlp"),
        (quantized, "Linear8bitLt"),
        (lambda: nn.ModuleDict({"only": nn.Linear(3, 3)}), "no blocks"),
    ],
    ids=["mean", "two-tokens", "rows-mixed", "hook", "outliers", "no-blocks"],
)
def test_what_may_look_at_every_row_is_left_as_it_is(make: Any, why: str) -> None:
    reason = found(make())
    assert isinstance(reason, str)
    assert why in reason


def test_another_model_of_other_structure_is_left_as_it_is() -> None:
    model = timm_model().double().eval()
    last = found(model)
    assert isinstance(last, LastBlock)
    other = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    with last.only_read(other):
        assert not any(part._forward_pre_hooks or "forward" in part.__dict__ for part in other.modules())
