"""Tiny ImageNet."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.data._public import PublicImages


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TinyImagenet(PublicImages):
    """Tiny ImageNet: 64 x 64 photographs, 200 classes, 100,000 to train, 10,000 (its val) to test; hub or local copy."""

    name: ClassVar[str] = "tiny-imagenet"
    hub_id: ClassVar[str] = "zh-plus/tiny-imagenet"
    image_column: ClassVar[str] = "image"
    label_column: ClassVar[str] = "label"
    classes: ClassVar[int] = 200
    citation: ClassVar[str] = """@techreport{le2015tiny,
  author = {Le, Ya and Yang, Xuan},
  title = {Tiny {ImageNet} Visual Recognition Challenge},
  institution = {Stanford University, CS 231N},
  year = {2015}
}"""
