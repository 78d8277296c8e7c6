"""Backbones that come inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from peftlab.backbones._files import hash_folder
from peftlab.backbones.contract import Backbone, BackboneSource
from peftlab.backbones.hub import TransformersBackbone
from peftlab.errors import BackboneError, nearest
from peftlab.tasks.contract import Head, Preprocessing

_WEIGHTS = Path(__file__).parent / "weights"
_PREFIX = "bundled:"


def bundled_folder(name: str) -> Path:
    """The folder of ``bundled:NAME`` (plain transformers format)."""
    wanted = name.removeprefix(_PREFIX)
    known = [path.name for path in _WEIGHTS.iterdir() if path.is_dir()] if _WEIGHTS.is_dir() else []
    if wanted not in known:
        raise BackboneError("no such bundled backbone", where=name, remedy=nearest(wanted, known))
    return _WEIGHTS / wanted


class BundledBackbone(BackboneSource):
    """``bundled:vit-nano``: a small ViT whose weights ship with peftlab (docs/bundled-backbone.md says how they were made)."""

    name: ClassVar[str] = "bundled"
    priority: ClassVar[int] = 10

    @classmethod
    def accepts(cls, name: str) -> bool:
        return name.startswith(_PREFIX)

    @classmethod
    def fingerprint(cls, name: str) -> str:
        return hash_folder(bundled_folder(name))

    @classmethod
    def preprocessing(cls, name: str, image_size: int | None = None) -> Preprocessing:
        return TransformersBackbone.preprocessing(str(bundled_folder(name)), image_size)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        outputs: int,
        head: Head = "image-classification",
        image_size: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> Backbone:
        folder = str(bundled_folder(name))
        options: dict[str, Any] = {"outputs": outputs, "head": head, "image_size": image_size, "seed": seed, "device": device}
        try:
            backbone = TransformersBackbone.load(folder, **options)
        except BackboneError as error:
            error.where = error.where.replace(folder, name)  # as the study names it
            raise
        backbone.name = name
        return backbone
