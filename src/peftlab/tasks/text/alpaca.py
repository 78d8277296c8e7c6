"""The instructions that Stanford Alpaca was trained on."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from peftlab.tasks.text._instructions import Instructions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Alpaca(Instructions):
    """Alpaca: 52,002 instructions, 40 % of them with an input, answered by text-davinci-003. CC BY-NC 4.0."""

    name: ClassVar[str] = "alpaca"
    citation: ClassVar[str] = """@misc{taori2023alpaca,
  author = {Taori, Rohan and Gulrajani, Ishaan and Zhang, Tianyi and Dubois, Yann and Li, Xuechen and Guestrin, Carlos and
            Liang, Percy and Hashimoto, Tatsunori B.},
  title = {Stanford {Alpaca}: An Instruction-following {LLaMA} Model},
  year = {2023}, howpublished = {\\url{https://github.com/tatsu-lab/stanford_alpaca}}
}"""
    hub = "tatsu-lab/alpaca"
    known_columns = {"instruction": "instruction", "input": "input", "response": "output"}
