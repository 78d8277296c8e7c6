"""Instruction tuning: a causal model learns to answer; only the response is predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from peftlab.errors import DataError, OptionError
from peftlab.tasks._causal import CausalTask, Documents, PreparedCausal, causal_info
from peftlab.tasks._copies import overlap
from peftlab.tasks._prompts import Template, tokenize_answered
from peftlab.tasks._splits import Splitter
from peftlab.tasks._tokens import Tokens, cached, longest_text, tokenizer_fingerprint
from peftlab.tasks.contract import Splits, TaskInfo, TextPreprocessing
from peftlab.tasks.text.contract import Rows, TextSource
from peftlab.tasks.text.resolve import source_of

#: columns that are looked for where neither the study nor the source names any
INSTRUCTIONS = ("instruction", "prompt", "question")
INPUTS = ("input", "context")
RESPONSES = ("response", "output", "answer", "completion")
_LAYOUT = 1  #: raised when examples become other tokens
_PLANNED = 64  #: of the longest examples, those that are tokenized to plan with


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstructionTuning(CausalTask):
    """The likelihood of responses to instructions, of which some come with an input.

    Each example is a prompt, the response and the end of text; the loss is that of the response and the end alone. An example
    that is longer than ``max_length`` loses the end of its response, down to half of ``max_length``, and then the beginning of
    its prompt. Empty responses are left out.
    """

    name: ClassVar[str] = "instruction-tuning"
    citation: ClassVar[str] = """@inproceedings{wei2022finetuned,
  author = {Wei, Jason and Bosma, Maarten and Zhao, Vincent Y. and Guu, Kelvin and Yu, Adams Wei and Lester, Brian and Du, Nan
            and Dai, Andrew M. and Le, Quoc V.},
  title = {Finetuned Language Models Are Zero-Shot Learners},
  booktitle = {International Conference on Learning Representations}, year = {2022}
}"""

    instruction: str | None = None  #: column; default: the source's, else one with a usual name
    input: str | None = None  #: column; default: the source's, else one with a usual name, else there are no inputs
    response: str | None = None  #: column; default: the source's, else one with a usual name
    template: str | None = None  #: prompt with {instruction} and {input} in it; default: Alpaca's
    template_without_input: str | None = None  #: prompt of an instruction without input; default: template, else Alpaca's
    max_length: int | None = None  #: tokens of prompt and response together; default: as many as the model takes

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 8:
            raise OptionError(f"{self.max_length} tokens", where="max_length", remedy="8 or more")
        self._template()
        CausalTask.__post_init__(self)

    def source(self) -> TextSource:
        """The configured source of texts."""
        return source_of(self.data)

    def columns(self) -> list[str]:
        """The columns that a prompt is made of: the instruction's, and the input's where there is one."""
        return self._read().columns

    def prompt(self, texts: Sequence[str]) -> str:
        """Of an instruction, or of an instruction and its input."""
        return self._template().prompt(*texts)

    def info(self) -> TaskInfo:
        examples = self._read()
        return self._described(examples, self._splitter(examples))

    def _template(self) -> Template:
        return Template.of(self.template, self.template_without_input)

    def _read(self) -> _Examples:
        rows = self.source().read()
        return _examples(rows, self._template(), instruction=self.instruction, input=self.input, response=self.response)

    def _splitter(self, examples: _Examples) -> Splitter:
        return Splitter(
            labels=np.zeros(len(examples.prompts), dtype=np.int64),
            label_names=("example",),
            roles={role: indices[examples.usable[indices]] for role, indices in examples.rows.roles.items()},
            options=self.split_options(),
        )

    def _described(self, examples: _Examples, splitter: Splitter) -> TaskInfo:
        tried = splitter.tried()
        splits = tried[0][1]
        sizes = {split: len(splits[split]) for split in ("train", "validation", "test")}
        return causal_info(sizes, folds=len(tried), notes=examples.notes)

    def prepare(self, preprocessing: TextPreprocessing, cache: Path) -> PreparedInstructions:
        """As the contract says.

        Raises:
            OptionError: ``max_length`` above what the model takes; sizes or shares that do not work out.
            DataError: bad data; a tokenizer of another model.
            BackboneError: no tokenizer, or one without an end of text.
        """
        longest = longest_text(self.max_length, preprocessing)
        examples = self._read()
        splitter = self._splitter(examples)
        used = splitter.used()
        key = {
            "task": [self.name, _LAYOUT],
            "data": self.source().fingerprint(cache),
            "columns": [*examples.columns, examples.response],
            "template": dataclasses.asdict(self._template()),
            "tokenizer": tokenizer_fingerprint(preprocessing.tokenizer),
            "longest": longest,
            "used": [int(i) for i in used],
        }
        tokens = cached(key, cache, lambda: examples.tokens(used, preprocessing, longest))
        info = self._described(examples, splitter)
        contents = list(zip(examples.prompts, examples.responses, strict=True))
        said = (_cut_note(tokens, longest), overlap(splitter, contents, what="examples"))
        info = dataclasses.replace(info, warnings=(*info.warnings, *(warning for warning in said if warning)))
        documents = Documents.of(tokens)
        return PreparedInstructions(
            task=self, info=info, documents=documents, used=used, preprocessing=preprocessing, splitter=splitter
        )

    def batch_shapes(
        self, batch: int, preprocessing: TextPreprocessing, info: TaskInfo
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """As long as the longest example, which the longest in characters decide well enough."""
        examples = self._read()
        found = self._longest(examples, preprocessing)
        return self.shapes(batch, int(found.lengths.max(initial=1)), int(found.predicted.max(initial=1)), preprocessing)

    def fill(self, batch: int, preprocessing: TextPreprocessing) -> float:
        """By examples from all over the data."""
        examples = self._read()
        used = self._splitter(examples).used()
        sample = np.random.default_rng(0).permutation(used[:: max(1, len(used) // _PLANNED)])
        lengths = examples.tokens(sample, preprocessing, longest_text(self.max_length, preprocessing)).lengths
        return self.filled(lengths, int(self._longest(examples, preprocessing).lengths.max(initial=1)), batch, preprocessing)

    def _longest(self, examples: _Examples, preprocessing: TextPreprocessing) -> Documents:
        """The longest of the examples used, by characters."""
        used = self._splitter(examples).used()
        size = np.array([len(examples.prompts[i]) + len(examples.responses[i]) for i in used])
        rows = used[np.argsort(-size, kind="stable")[:_PLANNED]]
        return Documents.of(examples.tokens(rows, preprocessing, longest_text(self.max_length, preprocessing)))


class PreparedInstructions(PreparedCausal):
    """Prompts and responses as tokens."""

    def __init__(
        self,
        *,
        task: InstructionTuning,
        info: TaskInfo,
        documents: Documents,
        used: np.ndarray,
        preprocessing: TextPreprocessing,
        splitter: Splitter,
    ) -> None:
        super().__init__(task=task, info=info, documents=documents, used=used, preprocessing=preprocessing)
        self._splitter = splitter

    def splits(self, seed: int, fold: int = 0) -> Splits:
        return self._splitter.splits(seed, fold)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Examples:
    rows: Rows
    columns: list[str]  #: instruction, and input where there is one
    response: str  #: column
    prompts: list[str]
    responses: list[str]
    usable: np.ndarray  #: bool: the response says something
    notes: tuple[str, ...]

    def tokens(self, chosen: np.ndarray, preprocessing: TextPreprocessing, longest: int) -> Tokens:
        prompts, responses = ([texts[i] for i in chosen] for texts in (self.prompts, self.responses))
        return tokenize_answered(prompts, responses, preprocessing, longest)


def _examples(rows: Rows, template: Template, *, instruction: str | None, input: str | None, response: str | None) -> _Examples:
    """Columns found, texts checked, prompts made.

    Raises:
        DataError: no such column, a value that is no text, nothing but empty responses.
        OptionError: inputs that the template has no place for.
    """
    there = rows.names()

    def column(option: str, given: str | None, usual: tuple[str, ...]) -> str | None:
        return given or str(rows.columns.get(option, "")) or next((name for name in usual if name in there), None)

    asked, answered = column("instruction", instruction, INSTRUCTIONS), column("response", response, RESPONSES)
    about = column("input", input, INPUTS)
    for option, found in (("instruction", asked), ("response", answered)):
        if found is None:
            listed = ", ".join(map(repr, there))
            raise DataError(
                f"which column is the {option}? There are {listed}", where=f"task.{option}", remedy=f"set {option}: to it"
            )
    assert asked is not None and answered is not None
    instructions, responses = rows.texts(asked), rows.texts(answered, empty=True)
    inputs = rows.texts(about, empty=True) if about is not None else [""] * len(instructions)
    usable = np.array([bool(text.strip()) for text in responses])
    if not usable.any():
        where = f"{rows.source} {answered}"
        raise DataError(f"all {len(rows):,} responses are empty", where=where, remedy="set response: to another column")
    with_input = sum(bool(text.strip()) for text in inputs)
    if with_input and not template.takes_inputs:
        raise OptionError(f"it has no {{input}}, and {with_input:,} examples have one", where="template", remedy="add {input}")
    columns = [name for name in (asked, about) if name is not None]
    empty = sum(not text.strip() for text in instructions)
    notes = [
        *rows.notes_beside(*columns, answered),
        *([f"{int((~usable).sum()):,} responses are empty and were left out"] if not usable.all() else []),
        *([f"{empty:,} instructions are empty"] if empty else []),
    ]
    prompts = [template.prompt(*texts) for texts in zip(instructions, inputs, strict=True)]
    return _Examples(
        rows=rows, columns=columns, response=answered, prompts=prompts, responses=responses, usable=usable, notes=tuple(notes)
    )


def _cut_note(tokens: Tokens, longest: int) -> str | None:
    count = int(tokens.cut.sum())
    if not count:
        return None
    return (
        f"{count:,} of {len(tokens.cut):,} examples are longer than {longest} tokens and were cut: their responses at the end, "
        f"prompts of more than {longest - longest // 2} tokens at the beginning"
    )
