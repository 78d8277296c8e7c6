"""What the cases share: finished results, what was exported from them, and small backbones, all real, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from tests.api.conftest import SIZE, study_of, train
from tests.bad_input.changes import Change
from tests.tasks.texts import make_bert, make_gpt2, write_sst2


def make_world(root: Path, cache: Path) -> Path:
    """``vit``, ``bert``, ``gpt2``: backbones; ``tiny``: results on ``vit``; ``adapter``, ``merged``: exported from them."""
    from transformers import ViTConfig, ViTForImageClassification

    from peftlab import api

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = ViTConfig(**shape, image_size=SIZE, patch_size=8, num_labels=3)  # pyright: ignore[reportCallIssue]
        ViTForImageClassification(config).save_pretrained(root / "vit")
    make_bert(root / "bert")
    make_gpt2(root / "gpt2")
    write_sst2(root / "texts", train=40, dev=20)
    arms = {
        "probe": {"adapter": "linear-probe"},
        "lora": {"adapter": {"name": "lora", "rank": [2, 4]}},
        "fact": {"adapter": {"name": "fact", "rank": 4}},
    }
    study = study_of(root / "vit", arms, [0, 1])
    study["train"]["epochs"] = 0.25
    train(study, root / "tiny", cache)
    api.export(root / "tiny", "lora[rank=4]", root / "adapter")
    api.export(root / "tiny", "lora[rank=4]", root / "merged", merged=True)
    return root


def copy(world_name: str, *changes: Change) -> Callable[[Path], None]:
    """A copy of a folder of the world, changed."""

    def write(path: Path) -> None:
        shutil.copytree(path.parent / "world" / world_name, path)
        for change in changes:
            change(path)

    write.of_world = True  # pyright: ignore[reportFunctionMemberAccess]
    return write
