"""The Stanford Question Answering Dataset, version 1.1."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.text._squad import Squad


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Squad11(Squad):
    """SQuAD 1.1: which words of a paragraph answer the question? 87,599 questions to train, 10,570 to validate."""

    name: ClassVar[str] = "squad"
    citation: ClassVar[str] = """@inproceedings{rajpurkar2016squad,
  author = {Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
  title = {{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
  booktitle = {Proceedings of EMNLP 2016},
  year = {2016}, pages = {2383--2392}, doi = {10.18653/v1/D16-1264}
}"""
    hub: ClassVar[str] = "rajpurkar/squad"
