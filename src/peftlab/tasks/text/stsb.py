"""The Semantic Textual Similarity Benchmark, as GLUE has it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.text._glue import CITATION, Glue


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stsb(Glue):
    """STS-B: how similar are two sentences, from 0 to 5? 5,749 pairs to train, 1,500 to validate; for ``text-regression``."""

    name: ClassVar[str] = "stsb"
    citation: ClassVar[str] = (
        """@inproceedings{cer2017semeval,
  author = {Cer, Daniel and Diab, Mona and Agirre, Eneko and Lopez-Gazpio, I{\\~n}igo and Specia, Lucia},
  title = {{SemEval}-2017 Task 1: Semantic Textual Similarity Multilingual and Crosslingual Focused Evaluation},
  booktitle = {Proceedings of the 11th International Workshop on Semantic Evaluation},
  year = {2017}, pages = {1--14}
}
"""
        + CITATION
    )
    hub_columns = {"text": ("sentence1", "sentence2"), "label": "label"}
    file_columns = {"text": ("sentence1", "sentence2"), "label": "score"}
