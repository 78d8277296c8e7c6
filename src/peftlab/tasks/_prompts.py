"""Instructions as prompts, and prompts with their responses as tokens."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from peftlab.errors import OptionError, nearest
from peftlab.tasks._causal import text_ends
from peftlab.tasks._tokens import Tokens, check_vocabulary, load_tokenizer
from peftlab.tasks.contract import TextPreprocessing

#: of Stanford Alpaca (Taori et al. 2023, train.py), for instructions with an input and without
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
_FIELDS = ("instruction", "input")
_PLACE = re.compile(r"\{(\w+)\}")
_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Text with ``{instruction}`` and ``{input}`` in it; everything else stands as it is."""

    with_input: str
    without_input: str

    @classmethod
    def of(cls, template: str | None, template_without_input: str | None) -> Template:
        """``template`` alone serves for both; neither: Alpaca's.

        Raises:
            OptionError: no place for the instruction, or one for what does not exist.
        """
        if template is None:
            found = cls(with_input=WITH_INPUT, without_input=template_without_input or WITHOUT_INPUT)
        else:
            found = cls(with_input=template, without_input=template_without_input or template)
        for where, text in (("template", found.with_input), ("template_without_input", found.without_input)):
            names = _PLACE.findall(text)
            unknown = next((name for name in names if name not in _FIELDS), None)
            if unknown is not None:
                raise OptionError(
                    f"there is nothing to put in place of {{{unknown}}}", where=where, remedy=nearest(unknown, _FIELDS)
                )
            if "instruction" not in names:
                raise OptionError("it has no {instruction}", where=where, remedy="write {instruction} where the instruction goes")
        return found

    @property
    def takes_inputs(self) -> bool:
        return "{input}" in self.with_input

    def prompt(self, instruction: str, input: str = "") -> str:
        """What the model is asked. An input of nothing but white space is none."""
        chosen = self.with_input if input.strip() else self.without_input
        fields = {"instruction": instruction, "input": input}
        return _PLACE.sub(lambda place: fields[place[1]], chosen)


def tokenize_prompts(prompts: Sequence[str], preprocessing: TextPreprocessing) -> list[list[int]]:
    """Each prompt as the model is given it in training and in prediction: what begins a text, then its tokens."""
    start, _ = text_ends(preprocessing.tokenizer)
    return [[*start, *ids] for ids in _ids(prompts, preprocessing)]


def tokenize_answered(
    prompts: Sequence[str], responses: Sequence[str], preprocessing: TextPreprocessing, max_length: int
) -> Tokens:
    """Prompt, response and end of text as ids; ``types`` 1 marks the response with its end.

    The response's tokens are those that follow the prompt's in the text as a whole (as Alpaca has it); where the two would share
    one, the response is tokenized by itself.

    Raises:
        BackboneError: no end-of-text token.
        DataError: an id outside the model's vocabulary.
    """
    start, end = text_ends(preprocessing.tokenizer)
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    cut: list[bool] = []
    for begin in range(0, len(prompts), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        asked = _ids(prompts[part], preprocessing)
        whole = _ids([p + r for p, r in zip(prompts[part], responses[part], strict=True)], preprocessing)
        alone = _ids(responses[part], preprocessing)
        for prompt, both, response in zip(asked, whole, alone, strict=True):
            answer = [*(both[len(prompt) :] if both[: len(prompt)] == prompt else response), end]
            kept, given = fitted(len(start), len(prompt), len(answer), max_length)
            ids.append(np.array([*start, *prompt[len(prompt) - kept :], *answer[:given]], dtype=np.int32))
            types.append(np.repeat(np.array([0, 1], dtype=np.uint8), [len(start) + kept, given]))
            cut.append(kept < len(prompt) or given < len(answer))
    flat = np.concatenate([np.empty(0, dtype=np.int32), *ids])
    check_vocabulary(flat, preprocessing)
    return Tokens(
        ids=flat,
        types=np.concatenate([np.empty(0, dtype=np.uint8), *types]),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in ids], dtype=np.int64)]).astype(np.int64),
        cut=np.array(cut, dtype=bool),
    )


def fitted(start: int, prompt: int, response: int, max_length: int) -> tuple[int, int]:
    """How many tokens are kept of a prompt's end and of a response's beginning.

    The response has the room that the prompt leaves, and at least half of all; then the prompt has what the response leaves.
    """
    given = min(response, max(max_length - start - prompt, max_length // 2))
    return min(prompt, max_length - start - given), given


def _ids(texts: Sequence[str], preprocessing: TextPreprocessing) -> list[list[int]]:
    if not len(texts):
        return []
    tokenizer = load_tokenizer(preprocessing.tokenizer)
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
