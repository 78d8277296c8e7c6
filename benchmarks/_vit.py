"""The ViT-Tiny that the benchmarks measure on."""

from __future__ import annotations

import json
from pathlib import Path

ARCHITECTURE = "vit_tiny_patch16_224"


def vit_tiny(weights: Path | None, folder: Path, architecture: str = ARCHITECTURE) -> tuple[str, str]:
    """(name of the backbone, what its weights are): the folder with real weights, or one with random weights below ``folder``.

    Time, memory and bytes do not depend on the values.
    """
    if weights is not None:
        return str(weights), f"of {weights.name}"
    import timm
    from safetensors.torch import save_file

    path = folder / architecture
    path.mkdir()
    save_file(timm.create_model(architecture).state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"architecture": architecture, "num_classes": 1000}))
    return str(path), f"random, in the shape of {architecture}"
