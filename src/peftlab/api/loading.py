"""Exported models back in Python."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from peftlab.api._model_folder import Exported, packed_module
from peftlab.errors import RecordError


def load_packed(folder: str | Path) -> nn.Module:
    """The model that ``export(..., packed=True)`` wrote, for inference: its library's own, with packed layers.

    It is called as that library calls it, and gives the exported model's outputs to the bit.

    Raises:
        RecordError: no packed model, or a changed or damaged one.
        BackboneError: its library cannot make a model of this architecture.
    """
    folder = Path(folder)
    exported = Exported.read(folder)
    if exported.kind != "packed":
        remedy = "export it with --packed, or use `peftlab predict`, which takes every form"
        raise RecordError(f"holds no packed model but kind {exported.kind!r}", where=str(folder), remedy=remedy)
    return packed_module(folder, exported)
