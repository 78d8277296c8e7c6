"""Recognizing Textual Entailment, as GLUE has it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.text._glue import CITATION, Glue


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rte(Glue):
    """RTE: does the second sentence follow from the first? 2,490 pairs to train, 277 to validate."""

    name: ClassVar[str] = "rte"
    citation: ClassVar[str] = (
        """@inproceedings{dagan2006pascal,
  author = {Dagan, Ido and Glickman, Oren and Magnini, Bernardo},
  title = {The {PASCAL} Recognising Textual Entailment Challenge},
  booktitle = {Machine Learning Challenges},
  year = {2006}, pages = {177--190}, publisher = {Springer}
}
"""
        + CITATION
    )
    hub_columns = {"text": ("sentence1", "sentence2"), "label": "label", "label_names": ("entailment", "not_entailment")}
    file_columns = hub_columns
