"""CIFAR-100."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.data._public import PublicImages


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cifar100(PublicImages):
    """CIFAR-100: 32 x 32 colour photographs, 100 classes, 50,000 to train and 10,000 to test; from the hub or a local copy."""

    name: ClassVar[str] = "cifar100"
    hub_id: ClassVar[str] = "uoft-cs/cifar100"
    image_column: ClassVar[str] = "img"
    label_column: ClassVar[str] = "fine_label"
    classes: ClassVar[int] = 100
    citation: ClassVar[str] = """@techreport{krizhevsky2009learning,
  author = {Krizhevsky, Alex},
  title = {Learning Multiple Layers of Features from Tiny Images},
  institution = {University of Toronto},
  year = {2009}
}"""
