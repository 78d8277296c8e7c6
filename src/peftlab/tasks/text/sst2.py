"""The Stanford Sentiment Treebank with two classes, as GLUE has it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.text._glue import CITATION, Glue


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sst2(Glue):
    """SST-2: is a sentence of a film review positive? 67,349 training sentences and phrases, 872 to validate."""

    name: ClassVar[str] = "sst2"
    citation: ClassVar[str] = (
        """@inproceedings{socher2013recursive,
  author = {Socher, Richard and Perelygin, Alex and Wu, Jean and Chuang, Jason and Manning, Christopher D. and Ng, Andrew Y. and
            Potts, Christopher},
  title = {Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank},
  booktitle = {Proceedings of EMNLP 2013},
  year = {2013}, pages = {1631--1642}
}
"""
        + CITATION
    )
    hub_columns = {"text": "sentence", "label": "label", "label_names": ("negative", "positive")}
    file_columns = {**hub_columns, "label_values": ("0", "1")}
