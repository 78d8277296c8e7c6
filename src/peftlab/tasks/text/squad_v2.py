"""The Stanford Question Answering Dataset, version 2.0."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.text._squad import Squad


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Squad20(Squad):
    """SQuAD 2.0: as 1.1, and a third of the questions have no answer. 130,319 questions to train, 11,873 to validate."""

    name: ClassVar[str] = "squad_v2"
    citation: ClassVar[str] = """@inproceedings{rajpurkar2018know,
  author = {Rajpurkar, Pranav and Jia, Robin and Liang, Percy},
  title = {Know What You Don't Know: Unanswerable Questions for {SQuAD}},
  booktitle = {Proceedings of ACL 2018 (Short Papers)},
  year = {2018}, pages = {784--789}, doi = {10.18653/v1/P18-2124}
}"""
    hub: ClassVar[str] = "rajpurkar/squad_v2"
