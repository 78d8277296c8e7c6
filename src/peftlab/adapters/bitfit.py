"""BitFit."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.adapters._plain import InPlace
from peftlab.backbones.contract import Backbone


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BitFit(InPlace):
    """Only bias vectors (and the head) train (Ben Zaken et al. 2022, section 3).

    Normalisation layers' biases are included, their scales are not. A key bias shifts every attention score of a query alike,
    which the softmax ignores: it is trained like the others but its gradient is zero up to rounding.
    """

    name: ClassVar[str] = "bitfit"
    citation: ClassVar[str] = """@inproceedings{benzaken2022bitfit,
  title = {{BitFit}: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models},
  author = {Ben Zaken, Elad and Goldberg, Yoav and Ravfogel, Shauli},
  booktitle = {Proceedings of ACL 2022 (Short Papers)}, year = {2022}, pages = {1--9}, doi = {10.18653/v1/2022.acl-short.1}
}"""

    def trains(self, parameter_name: str, backbone: Backbone) -> bool:
        return parameter_name.endswith("bias")
