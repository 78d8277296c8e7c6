"""Linear probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from peftlab.adapters._plain import InPlace
from peftlab.backbones.contract import Backbone


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbe(InPlace):
    """Only the classification head trains, on frozen features: what the backbone knows already (Alain & Bengio 2016)."""

    name: ClassVar[str] = "linear-probe"
    methods: ClassVar[Mapping[str, str]] = {
        "probe": "adapter: linear-probe",
        "head": "adapter: linear-probe",
    }
    citation: ClassVar[str] = """@misc{alain2016probes,
  title = {Understanding intermediate layers using linear classifier probes},
  author = {Alain, Guillaume and Bengio, Yoshua}, year = {2016},
  eprint = {1610.01644}, archivePrefix = {arXiv}
}"""

    def trains(self, parameter_name: str, backbone: Backbone) -> bool:
        return False
