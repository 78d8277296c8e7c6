"""CIFAR-10."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.data._public import PublicImages


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cifar10(PublicImages):
    """CIFAR-10: 32 x 32 colour photographs, 10 classes, 50,000 to train and 10,000 to test; from the hub or a local copy."""

    name: ClassVar[str] = "cifar10"
    hub_id: ClassVar[str] = "uoft-cs/cifar10"
    image_column: ClassVar[str] = "img"
    label_column: ClassVar[str] = "label"
    classes: ClassVar[int] = 10
    citation: ClassVar[str] = """@techreport{krizhevsky2009learning,
  author = {Krizhevsky, Alex},
  title = {Learning Multiple Layers of Features from Tiny Images},
  institution = {University of Toronto},
  year = {2009}
}"""
