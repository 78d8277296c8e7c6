"""What every source of backbones promises."""

from __future__ import annotations

import pytest
import torch

from peftlab import registry
from peftlab.backbones.contract import BackboneSource
from peftlab.backbones.resolve import source_of
from tests.contracts.conftest import Bench
from tests.contracts.tiny import CLASSES


@pytest.mark.parametrize("name", registry.components("backbone"))
def test_sources_are_told_apart(name: str) -> None:
    source = registry.component("backbone", name)
    assert issubclass(source, BackboneSource)
    assert source.summary()
    others = [c for c in registry.components("backbone").values() if c is not source]
    assert source.priority not in [other.priority for other in others]  # pyright: ignore


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bundled:vit-nano", "bundled"),
        ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "timm"),
        ("facebook/deit-tiny-patch16-224", "transformers"),
        ("facebook/deit-tiny-patch16-224@0123abc", "transformers"),
        ("gpt2", "transformers"),
    ],
)
def test_names_go_to_one_source(name: str, source: str) -> None:
    assert source_of(name).name == source


def test_a_loaded_backbone_is_whole(bench: Bench) -> None:
    backbone = bench.backbone()
    assert backbone.library == ("timm" if bench.kind == "timm" else "transformers")
    assert backbone.parameters == sum(p.numel() for p in backbone.module.parameters())
    assert 0 < backbone.head_parameters < backbone.parameters
    assert backbone.roles.blocks == 2
    assert {"q", "k", "v", "o", "up", "down"} <= {site.role for site in backbone.roles.sites}
    assert bench.outputs(backbone.module).shape == (3, CLASSES)
    assert all(p.dtype is torch.float32 for p in backbone.module.parameters())
    assert not any(site.name == backbone.head for site in backbone.roles.sites)


def test_slices_compute_what_the_whole_does(bench: Bench) -> None:
    from peftlab.nn.surgery import fuse_slices, slice_fused

    backbone = bench.backbone()
    slice_fused(backbone.module, backbone.roles.sites)
    torch.testing.assert_close(bench.outputs(backbone.module), bench.outputs(bench.backbone().module))
    fuse_slices(backbone.module)
    before, after = bench.backbone().module.state_dict(), backbone.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
