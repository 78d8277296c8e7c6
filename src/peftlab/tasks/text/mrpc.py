"""The Microsoft Research Paraphrase Corpus, as GLUE has it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.text._glue import CITATION, Glue


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mrpc(Glue):
    """MRPC: do two sentences say the same? 3,668 pairs to train, 408 to validate."""

    name: ClassVar[str] = "mrpc"
    citation: ClassVar[str] = (
        """@inproceedings{dolan2005automatically,
  author = {Dolan, William B. and Brockett, Chris},
  title = {Automatically Constructing a Corpus of Sentential Paraphrases},
  booktitle = {Proceedings of the Third International Workshop on Paraphrasing},
  year = {2005}
}
"""
        + CITATION
    )
    hub_columns = {"text": ("sentence1", "sentence2"), "label": "label", "label_names": ("not_equivalent", "equivalent")}
    file_columns = {
        "text": ("#1 String", "#2 String"),
        "label": "Quality",
        "label_names": ("not_equivalent", "equivalent"),
        "label_values": ("0", "1"),
    }
