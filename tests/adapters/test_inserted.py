"""What all adapters with modules of their own (and SSF, FacT, LayerNorm tuning) share, on every vision family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTConfig

from peftlab import registry
from peftlab.adapters._inserted import inserted
from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.contract import Backbone
from peftlab.backbones.hub import TransformersBackbone
from peftlab.backbones.timm import TimmBackbone
from peftlab.errors import BackboneError, OptionError, RecordError
from peftlab.planning.estimate import trace
from peftlab.study.schema import Train
from peftlab.training.proof import Movement, assert_frozen, frozen_hash
from peftlab.training.recompute import enable_checkpointing
from tests.adapters import models
from tests.contracts.conftest import perturb

SPECS: dict[str, dict[str, Any]] = {
    "houlsby": {"name": "bottleneck", "width": 4},
    "pfeiffer": {"name": "bottleneck", "width": 4, "placement": "pfeiffer"},
    "adaptformer": {"name": "adaptformer", "width": 4},
    "vpt-shallow": {"name": "vpt", "depth": "shallow", "prompts": 3},
    "vpt-deep": {"name": "vpt", "prompts": 3},
    "ssf": {"name": "ssf"},
    "fact-tt": {"name": "fact", "rank": 4},
    "fact-tk": {"name": "fact", "rank": 4, "form": "tk"},
    "ln-tuning": {"name": "ln-tuning"},
}


@pytest.fixture(params=SPECS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return registry.create("adapter", SPECS[request.param])


@pytest.fixture(params=models.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def backward(adapted: Adapted) -> float:
    adapted.module.train()
    found = adapted.backbone.outputs(adapted.module, {"pixel_values": models.images()})
    loss = torch.nn.functional.cross_entropy(found, torch.arange(3) % models.CLASSES)
    loss.backward()
    return loss.item()


def gradients(adapted: Adapted) -> dict[str, torch.Tensor]:
    backward(adapted)
    return {name: p.grad.clone() for name, p in adapted.trainable().items() if p.grad is not None}


def test_every_tensor_gets_a_gradient_and_moves_within_two_updates(adapter: Adapter, family: str) -> None:
    adapted = adapter.attach(models.backbone(family), seed=0)
    frozen = frozen_hash(adapted.module)
    movement = Movement(adapted.trainable(), adapted.backbone.roles.sites)
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-3)
    for _ in range(2):
        backward(adapted)
        optimizer.step()
        movement.observe()
        optimizer.zero_grad()
        movement.verify()
    assert movement.proved
    assert_frozen(adapted.module, frozen)


def test_gradient_checkpointing_changes_no_gradient(adapter: Adapter, family: str) -> None:
    plain, sparing = (adapter.attach(models.backbone(family), seed=0) for _ in range(2))
    for adapted in (plain, sparing):
        perturb(adapted)
    enable_checkpointing(sparing)
    wanted, found = gradients(plain), gradients(sparing)
    assert wanted.keys() == found.keys() == plain.trainable().keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["timm", "vit"])
def test_it_attaches_on_the_meta_device_and_the_planner_follows_it(adapter: Adapter, family: str) -> None:
    real, meta = adapter.attach(models.backbone(family), seed=0), adapter.attach(models.on_meta(family), seed=0)
    assert all(p.is_meta for p in meta.module.parameters())
    shapes = {name: p.shape for name, p in meta.trainable().items()}
    assert shapes == {name: p.shape for name, p in real.trainable().items()}
    objective = registry.create("task", {"kind": "image-classification", "data": "digits"}, key="kind")
    batch = {"pixel_values": ((3, 3, 32, 32), torch.float32), "labels": ((3,), torch.int64)}
    sizes = []
    for checkpointing in (False, True):
        build = lambda: adapter.attach(models.on_meta(family), seed=0)  # noqa: E731
        train = Train(epochs=1, batch_size=3, gradient_checkpointing=checkpointing)
        sizes.append(trace(build, batch, objective, train, torch.device("cpu")))
    exact = sum(-(-4 * p.numel() // 64) * 64 for p in real.trainable().values())  # float32, rounded up to 64 bytes
    assert [found.gradients for found in sizes] == [exact, exact]
    assert sizes[1].saved < sizes[0].saved


def test_it_runs_under_bfloat16_autocast(adapter: Adapter, family: str) -> None:
    adapted = adapter.attach(models.backbone(family), seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(adapted.backbone.outputs(adapted.module, {"pixel_values": models.images()})).all()


def test_saved_tensors_fit_no_other_backbone(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(adapter.attach(models.backbone("vit"), seed=0), tmp_path)
    with pytest.raises(RecordError, match="not those of this adapter"):
        adapter.load(models.backbone("timm"), tmp_path)
    (tmp_path / "adapter_weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(RecordError, match="no readable adapter"):
        adapter.load(models.backbone("vit"), tmp_path)


def test_merging_leaves_a_model_without_inserts_or_says_why_not(adapter: Adapter, family: str) -> None:
    adapted = adapter.attach(models.backbone(family), seed=0)
    perturb(adapted)
    if not adapter.mergeable:
        with pytest.raises(OptionError, match="cannot be merged"):
            adapter.merge(adapted)
        return
    merged = adapter.merge(adapted)
    assert not list(inserted(merged))
    assert not any(module._forward_hooks for module in merged.modules())
    assert merged.state_dict().keys() == models.backbone(family).module.state_dict().keys()
    torch.testing.assert_close(models.logits(family, merged), models.logits(family, adapted.module), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "bottleneck", "width": 0},
        {"name": "bottleneck", "width": 33},
        {"name": "bottleneck", "placement": "middle"},
        {"name": "bottleneck", "dropout": 1.0},
        {"name": "adaptformer", "width": 33},
        {"name": "adaptformer", "scale": 0.0},
        {"name": "fact", "rank": 0},
        {"name": "fact", "rank": 33},
        {"name": "fact", "scale": -1.0},
        {"name": "vpt", "prompts": 0},
        {"name": "vpt", "depth": "middle"},
        {"name": "ssf", "init": "zero"},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_with_their_name(spec: dict[str, Any]) -> None:
    option = list(spec)[-1]
    with pytest.raises(OptionError) as caught:
        registry.create("adapter", spec).attach(models.backbone(), seed=0)
    assert option in caught.value.where
    assert caught.value.remedy


def test_a_language_model_has_no_place_for_visual_prompts() -> None:
    with pytest.raises(BackboneError, match="visual prompts cannot be put into a gpt2 model") as caught:
        registry.create("adapter", "vpt").attach(models.backbone("gpt2"), seed=0)
    assert "deit" in caught.value.remedy


def convolutional() -> Backbone:
    return TimmBackbone.load("timm/resnet18", outputs=5, device="meta")


@pytest.mark.parametrize("name", ["bottleneck", "adaptformer", "vpt", "ssf", "fact"])
def test_a_backbone_without_transformer_blocks_is_refused(name: str) -> None:
    with pytest.raises((OptionError, BackboneError)) as caught:
        registry.create("adapter", name).attach(convolutional(), seed=0)
    assert caught.value.remedy


#: ViT-B/16 (d = 768, L = 12), parameters outside the head
PUBLISHED = [
    # Chen et al. 2022: 12 (2 * 768 * 64 + 64 + 768); their 1.26 M on CIFAR-100 adds the head's 76,900
    ({"name": "adaptformer", "width": 64}, 1_189_632),
    # Jia et al. 2022: p d and L p d
    ({"name": "vpt", "depth": "shallow", "prompts": 50}, 50 * 768),
    ({"name": "vpt", "depth": "deep", "prompts": 50}, 12 * 50 * 768),
    # Lian et al. 2022 ("about 0.3M"): 2 (12 * 11 d + 2 d); their 0.28 M on CIFAR-100 adds the head's 76,900
    ({"name": "ssf"}, 205_824),
    # Jie & Deng 2023: 2 d r + 12 L r^2, "only 8K" for r = 4; 2 d r + 12 L r + r^3. Their 0.037 M and 0.069 M are means over
    # 19 tasks with a rank chosen for each, so that no single rank gives them.
    ({"name": "fact", "rank": 4}, 8_448),
    ({"name": "fact", "rank": 16}, 2 * 768 * 16 + 144 * 16**2),
    ({"name": "fact", "form": "tk", "rank": 32}, 2 * 768 * 32 + 144 * 32 + 32**3),
    # Houlsby et al. 2019: 2 m d + d + m per adapter, two a block, and the norms' 2 d each; Pfeiffer et al. 2021: one a block
    ({"name": "bottleneck", "width": 64, "norms": False}, 24 * (2 * 64 * 768 + 768 + 64)),
    ({"name": "bottleneck", "width": 64}, 24 * (2 * 64 * 768 + 768 + 64) + 25 * 2 * 768),
    ({"name": "bottleneck", "width": 8, "placement": "pfeiffer"}, 12 * (2 * 8 * 768 + 768 + 8)),
    # two vectors of d in each of 2 L + 1 norms
    ({"name": "ln-tuning"}, 38_400),
]


@pytest.mark.parametrize(("spec", "expected"), PUBLISHED, ids=str)
def test_parameter_counts_are_the_papers_on_vit_b(spec: dict[str, Any], expected: int, tmp_path: Path) -> None:
    ViTConfig().save_pretrained(str(tmp_path))
    for loaded in (
        TimmBackbone.load("timm/vit_base_patch16_224", outputs=100, device="meta"),
        TransformersBackbone.load(str(tmp_path), outputs=100, device="meta"),
    ):
        adapter: Adapter = registry.create("adapter", spec)
        full = loaded.parameters
        assert adapter.count(loaded, adapter.sites(loaded)) == expected
        added = adapter.added(loaded, adapter.sites(loaded))
        adapted = adapter.attach(loaded, seed=0)
        assert sum(p.numel() for name, p in adapted.trainable().items() if not adapted.is_head(name)) == expected
        assert sum(p.numel() for p in adapted.module.parameters()) == full + added
