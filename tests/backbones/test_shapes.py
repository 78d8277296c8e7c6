"""Backbones that plans look at: shapes loaded once, a module of its own for everybody who asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from peftlab.backbones.resolve import source_of
from peftlab.backbones.shapes import stamp
from peftlab.training.assemble import Ingredients
from tests.contracts import tiny

KINDS = [kind for kind in tiny.KINDS if kind in ("timm", "vit")]


def ingredients(folder: Path) -> Ingredients:
    task = {"kind": "image-classification", "data": "digits", "image_size": 32}
    return Ingredients.of(
        backbone=str(folder), task=task, adapter={"name": "lora"}, allocator=None, quantizer={"name": "groupwise"}
    )


def shapes(module: torch.nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_gets_the_shapes_that_are_loaded_and_a_module_of_his_own(kind: str, tmp_path: Path) -> None:
    parts = ingredients(tiny.make(kind, tmp_path))
    first, second = (parts.load_backbone(7, seed, "meta") for seed in (0, 1))
    loaded = source_of(parts.backbone).load(parts.backbone, outputs=7, image_size=32, seed=0, device="meta")
    assert shapes(second.module) == shapes(loaded.module)
    assert second.roles == loaded.roles and second.head == loaded.head
    before = shapes(second.module)
    parts.fuse(parts.attach(first, 0))  # quantizes and adapts it
    assert shapes(first.module) != before
    assert shapes(second.module) == shapes(parts.load_backbone(7, 0, "meta").module) == before
    assert not {id(p) for p in second.module.parameters()} & {
        id(p) for p in parts.load_backbone(7, 0, "meta").module.parameters()
    }
    assert all(p.is_meta for p in second.module.parameters())


def test_another_number_of_outputs_and_a_folder_that_was_written_anew_are_loaded_anew(tmp_path: Path) -> None:
    parts = ingredients(tiny.make("timm", tmp_path))
    blocks = len({site.block for site in parts.load_backbone(7, 0, "meta").roles.sites} - {None})
    assert parts.load_backbone(3, 0, "meta").head_parameters < parts.load_backbone(7, 0, "meta").head_parameters
    before, file = stamp(parts.backbone), tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["model_args"] = {**config.get("model_args", {}), "depth": blocks + 1}
    file.write_text(json.dumps(config))
    assert stamp(parts.backbone) != before
    assert len({site.block for site in parts.load_backbone(7, 0, "meta").roles.sites} - {None}) == blocks + 1


def test_a_name_that_is_no_folder_has_no_stamp() -> None:
    assert stamp("timm/vit_tiny_patch16_224") == ()
