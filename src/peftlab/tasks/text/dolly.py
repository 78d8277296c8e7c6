"""Instructions written by employees of Databricks."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.text._instructions import Instructions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dolly(Instructions):
    """Dolly: 15,011 instructions of eight categories with answers, all by people, some about a context. CC BY-SA 3.0."""

    name: ClassVar[str] = "dolly"
    citation: ClassVar[str] = """@misc{conover2023dolly,
  author = {Conover, Mike and Hayes, Matt and Mathur, Ankit and Xie, Jianwei and Wan, Jun and Shah, Sam and Ghodsi, Ali and
            Wendell, Patrick and Zaharia, Matei and Xin, Reynold},
  title = {Free {Dolly}: Introducing the World's First Truly Open Instruction-Tuned {LLM}},
  year = {2023},
  howpublished = {\\url{https://www.databricks.com/blog/2023/04/12/dolly-first-open-commercially-viable-instruction-tuned-llm}}
}"""
    hub = "databricks/databricks-dolly-15k"
    known_columns = {"instruction": "instruction", "input": "context", "response": "response"}
