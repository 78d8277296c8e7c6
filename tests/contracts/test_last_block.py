"""Rows of the last block that nobody reads (nn/last_block.py), left out under every adapter: the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftlab import registry
from peftlab.adapters.contract import Adapted, Adapter
from peftlab.nn.last_block import LastBlock
from peftlab.training.assemble import Ingredients
from peftlab.training.recompute import enable_checkpointing
from peftlab.training.unread_rows import try_last_block
from tests.contracts.conftest import Bench, Sample, perturb, samples

#: of float32 gradients against the largest entry of a tensor
TOLERANCE = 1e-4


@pytest.fixture(params=samples("adapter"), ids=str)
def adapter(request: pytest.FixtureRequest, bench: Bench) -> Adapter:
    sample: Sample = request.param
    if bench.kind in sample.not_on:
        pytest.skip(sample.not_on[bench.kind])
    return registry.create("adapter", sample.spec)


def attached(adapter: Adapter, bench: Bench) -> Adapted:
    adapted = adapter.attach(bench.backbone(), seed=3)
    perturb(adapted)
    none: Any = None  # nothing of them is asked
    quantizer = registry.create("quantizer", {"name": "none"})
    return Ingredients(backbone="", source=none, task=none, adapter=adapter, allocator=None, quantizer=quantizer).fuse(adapted)


def gradients(adapted: Adapted, bench: Bench) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    adapted.module.eval()
    with adapted.reading():
        logits = adapted.backbone.outputs(adapted.module, bench.inputs())
    logits.square().sum().backward()
    found = {name: p.grad.clone() for name, p in adapted.trainable().items() if p.grad is not None}
    adapted.module.zero_grad()
    return logits.detach(), found


def test_outputs_and_gradients_are_those_of_the_whole_block(adapter: Adapter, bench: Bench) -> None:
    """Trained tensors are perturbed, so an adapter that looks at all rows would be seen; it is left alone, with a reason."""
    adapted = attached(adapter, bench)
    if bench.kind == "gpt2":
        assert isinstance(adapted.last, str), "it reads the last token"
    if not isinstance(adapted.last, LastBlock):
        assert adapted.last
        return
    read, of_read = gradients(adapted, bench)
    adapted.last = "to compare"
    whole, of_whole = gradients(adapted, bench)
    torch.testing.assert_close(read, whole, rtol=0, atol=TOLERANCE * float(whole.abs().max()))
    assert of_read.keys() == of_whole.keys()
    for name, theirs in of_whole.items():
        torch.testing.assert_close(of_read[name], theirs, rtol=0, atol=TOLERANCE * float(theirs.abs().max()) + 1e-7)


def test_lora_and_full_leave_rows_out_on_every_backbone_of_images(bench: Bench) -> None:
    for name in ("lora", "svd", "full", "linear-probe", "bitfit"):
        adapted = attached(registry.create("adapter", {"name": name}), bench)
        assert isinstance(adapted.last, LastBlock) == (bench.kind != "gpt2"), adapted.last


def test_it_is_tried_and_given_up_where_outputs_differ(bench: Bench) -> None:
    """The head is made to read all rows behind the back of what looked at the structure."""
    if bench.kind == "gpt2":
        pytest.skip("rows are not left out")
    adapted = attached(registry.create("adapter", {"name": "lora"}), bench)
    try_last_block(adapted, bench.inputs())
    assert isinstance(adapted.last, LastBlock)
    norm = adapted.backbone.module.get_submodule("norm" if bench.kind == "timm" else "vit.layernorm")
    norm.register_forward_hook(lambda _, __, rows: rows + rows.mean(dim=1, keepdim=True))
    adapted.module.train()
    try_last_block(adapted, bench.inputs())
    assert isinstance(adapted.last, str)
    assert "outputs are others" in adapted.last
    assert adapted.module.training


def test_it_is_given_up_where_only_an_update_that_starts_at_zero_reads_other_rows(bench: Bench) -> None:
    if bench.kind == "gpt2":
        pytest.skip("rows are not left out")
    adapted = attached(registry.create("adapter", {"name": "lora"}), bench)
    site = [site for site in adapted.sites if site.block == bench.loaded.roles.blocks - 1][-1]
    up = adapted.backbone.module.get_submodule(site.name).lora_B["default"]  # pyright: ignore
    torch.nn.init.zeros_(up.weight)
    head = adapted.backbone.module.get_submodule("norm" if bench.kind == "timm" else "vit.layernorm")
    head.register_forward_hook(lambda _, __, rows: rows + up.weight.sum() * rows.mean(dim=1, keepdim=True))
    try_last_block(adapted, bench.inputs())
    assert isinstance(adapted.last, str) and not up.weight.any()


def test_with_gradient_checkpointing_the_block_is_whole(bench: Bench) -> None:
    adapted = attached(registry.create("adapter", {"name": "lora"}), bench)
    enable_checkpointing(adapted)
    assert isinstance(adapted.last, str)
