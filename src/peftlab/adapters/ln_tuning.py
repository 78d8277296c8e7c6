"""LayerNorm tuning."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.adapters._norms import norm_parameters
from peftlab.adapters._plain import InPlace
from peftlab.backbones.contract import Backbone


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LnTuning(InPlace):
    """Only the scales and biases of the normalisation layers (and the head) train (Basu et al. 2024, LN-Tune).

    y = g * (x - mean) / std + b with g, b [d] trained. Trainable parameters: 2 d per LayerNorm, the final one included (a
    pre-norm transformer of L blocks: 2 d (2 L + 1)); d per RMSNorm.
    """

    name: ClassVar[str] = "ln-tuning"
    citation: ClassVar[str] = """@inproceedings{basu2024lntune,
  title = {Strong Baselines for Parameter-Efficient Few-Shot Fine-Tuning},
  author = {Basu, Samyadeep and Hu, Shell and Massiceti, Daniela and Feizi, Soheil},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence}, year = {2024},
  volume = {38}, pages = {11024--11031}, doi = {10.1609/aaai.v38i10.28978}
}"""

    def trains(self, parameter_name: str, backbone: Backbone) -> bool:
        return parameter_name in norm_parameters(backbone)
