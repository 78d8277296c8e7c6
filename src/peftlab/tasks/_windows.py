"""From questions and paragraphs to windows of tokens: a long paragraph is seen in pieces that overlap.

Q questions, W windows, B windows in a batch, T tokens in the longest of a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftlab.errors import OptionError
from peftlab.tasks._cache import cached_arrays
from peftlab.tasks._tokens import Tokens, check_vocabulary, load_tokenizer
from peftlab.tasks.contract import TextPreprocessing

LAYOUT = 1  #: raised when what a cache file holds changes
_AT_ONCE = 512
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype=np.uint32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How questions and paragraphs become windows; all in tokens."""

    max_length: int  #: of a window, with question and special tokens
    stride: int  #: that neighbouring windows share
    max_question_length: int  #: what is longer is cut off


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Windows of Q questions, one after the other; ``begin`` and ``end`` are characters of the paragraph."""

    tokens: Tokens  #: of W windows; ``cut`` says whose question was
    first: np.ndarray  #: int64 [Q + 1]: question i has the windows first[i] .. first[i + 1] - 1
    begin: np.ndarray  #: int32 [sum of lengths]: first character of each token; -1 outside the paragraph
    end: np.ndarray  #: int32 [sum of lengths]: character after its last
    widest: np.ndarray  #: bool [sum of lengths]: of all windows that have this token of the paragraph, here it has most around it
    null: np.ndarray  #: int32 [W]: position that stands for no answer, that of [CLS]
    start: np.ndarray  #: int32 [W]: position of the answer's first token, ``null`` where it is not here whole
    stop: np.ndarray  #: int32 [W]: of its last token

    def of(self, questions: np.ndarray) -> np.ndarray:
        """Windows of some questions, in their order, int64 [B]."""
        counts = self.counts[questions]
        behind = np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self.first[questions], counts) + np.arange(counts.sum()) - behind

    @property
    def counts(self) -> np.ndarray:
        """Windows of each question, int64 [Q]."""
        return np.diff(self.first)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longest window of each question, int64 [Q]; that is its first."""
        return self.tokens.lengths[self.first[:-1]]

    def question_of(self, windows: np.ndarray) -> np.ndarray:
        """Question of each window, int64."""
        return np.searchsorted(self.first, windows, side="right") - 1

    def padded(self, windows: np.ndarray, pad_token: int) -> dict[str, torch.Tensor]:
        """Inputs int64 [B, T], ``start_positions``, ``end_positions`` and ``windows`` (their numbers) int64 [B]."""
        targets = {"start_positions": self.start[windows], "end_positions": self.stop[windows], "windows": windows}
        about = {name: torch.from_numpy(values.astype(np.int64)) for name, values in targets.items()}
        return {**self.tokens.padded(windows, pad_token), **about}

    def unreachable(self, answerable: np.ndarray) -> np.ndarray:
        """Answerable questions that have no window with the whole answer, int64."""
        here = np.concatenate([[0], np.cumsum(self.start != self.null)])
        return np.flatnonzero(answerable & (here[self.first[1:]] == here[self.first[:-1]]))


def make_windows(
    questions: Sequence[str], contexts: Sequence[str], gold: np.ndarray, preprocessing: TextPreprocessing, cut: Cut
) -> Windows:
    """Question and paragraph with the special tokens that the tokenizer adds; only paragraphs are split.

    A window holds a training answer where it holds it whole, else it points at [CLS] (Devlin et al. 2019, section 4.3); where a
    tokenizer has no such token, at the first one.

    Args:
        gold: characters of the answer that is trained on, int64 [Q, 2]; (-1, -1): none.

    Raises:
        OptionError: beside the longest question there is no room for windows that overlap by the stride.
        DataError: the tokenizer is not that of the model.
    """
    tokenizer = load_tokenizer(preprocessing.tokenizer)
    parts: list[dict[str, Any]] = []
    count = np.zeros(len(questions), dtype=np.int64)
    for begin in range(0, len(questions), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        short, was_cut, longest = _shortened(tokenizer, questions[part], cut.max_question_length)
        _check_room(tokenizer, longest, cut)
        found = _encoded(tokenizer, short, contexts[part], cut)
        owner = np.asarray(found["overflow_to_sample_mapping"], dtype=np.int64)
        count[part] = np.bincount(owner, minlength=len(short))
        for number in np.unique(owner):
            rows = np.flatnonzero(owner == number)
            place = begin + int(number)
            made = _of_question(tokenizer, found, rows, contexts[place], gold[place], cut.stride)
            parts.append({**made, "cut": np.full(len(rows), was_cut[number])})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    check_vocabulary(joined["ids"], preprocessing)
    offsets = np.concatenate([[0], np.cumsum(joined["length"])]).astype(np.int64)
    types = joined["types"] if len(joined["types"]) else None
    return Windows(
        tokens=Tokens(ids=joined["ids"], types=types, offsets=offsets, cut=joined["cut"]),
        first=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        **{name: joined[name] for name in ("begin", "end", "widest", "null", "start", "stop")},
    )


def cached_windows(key: dict[str, Any], cache: Path, make: Any) -> Windows:
    """What ``make`` gives, kept under ``cache``; ``key``: everything that decides the outcome, JSON-ready."""

    def arrays() -> dict[str, np.ndarray]:
        made: Windows = make()
        tokens = {"ids": made.tokens.ids, "offsets": made.tokens.offsets, "cut": made.tokens.cut}
        types = {} if made.tokens.types is None else {"types": made.tokens.types}
        own = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.name != "tokens"}
        return {**tokens, **types, **own}

    found = cached_arrays(cache / "tokens", ["windows", LAYOUT, key], arrays)
    tokens = Tokens(**{name: found.pop(name, None) for name in ("ids", "types", "offsets", "cut")})  # pyright: ignore
    return Windows(tokens=tokens, **found)


def _shortened(tokenizer: Any, questions: Sequence[str], limit: int) -> tuple[list[str], list[bool], int]:
    """Questions cut to ``limit`` tokens, which ones were, and the tokens of the longest."""
    found = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = found["offset_mapping"]
    was_cut = [len(own) > limit for own in offsets]
    short = [text[: own[limit - 1][1]] if long else text for text, own, long in zip(questions, offsets, was_cut, strict=True)]
    return short, was_cut, min(limit, max(map(len, offsets), default=0))


def _check_room(tokenizer: Any, question: int, cut: Cut) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=True)
    room = cut.max_length - special - question
    if cut.stride < room:
        return
    raise OptionError(
        f"beside a question of {question} tokens and {special} special ones, {cut.max_length} tokens leave {max(room, 0)} for "
        f"the paragraph; the stride of {cut.stride} must be below that",
        where="max_length",
        remedy="a larger max_length, or a smaller " + ("stride" if room > 1 else "max_question_length"),
    )


def _encoded(tokenizer: Any, questions: Sequence[str], contexts: Sequence[str], cut: Cut) -> Any:
    return tokenizer(
        list(questions),
        list(contexts),
        truncation="only_second",
        max_length=cut.max_length,
        stride=cut.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
        verbose=False,
    )


def _of_question(
    tokenizer: Any, found: Any, rows: np.ndarray, context: str, gold: np.ndarray, stride: int
) -> dict[str, np.ndarray]:
    """The windows of one question, as one array each."""
    solid = _solid(context)
    columns: dict[str, list[Any]] = {name: [] for name in ("ids", "types", "begin", "end", "null", "start", "stop", "length")}
    inside: list[np.ndarray] = []
    for row in rows:
        ids = np.asarray(found["input_ids"][row], dtype=np.int32)
        own = np.array([part == 1 for part in found.sequence_ids(int(row))], dtype=bool)
        offsets = np.asarray(found["offset_mapping"][row], dtype=np.int32).reshape(-1, 2)
        begin = np.minimum(solid[offsets[:, 0]], offsets[:, 1])  # some tokenizers count the space before a word to it
        begin, end = np.where(own, begin, -1), np.where(own, offsets[:, 1], -1)
        marks = np.flatnonzero(ids == tokenizer.cls_token_id) if tokenizer.cls_token_id is not None else ids[:0]
        null = int(marks[0]) if len(marks) else 0
        start, stop = _place(begin, end, np.flatnonzero(own), gold, null)
        values = (ids, begin.astype(np.int32), end.astype(np.int32), null, start, stop, len(ids))
        for name, value in zip(("ids", "begin", "end", "null", "start", "stop", "length"), values, strict=True):
            columns[name].append(value)
        if "token_type_ids" in found:
            columns["types"].append(np.asarray(found["token_type_ids"][row], dtype=np.uint8))
        inside.append(own)
    widest = [np.zeros(len(own), dtype=bool) for own in inside]
    for here, own, best in zip(widest, inside, _widest([int(own.sum()) for own in inside], stride), strict=True):
        here[own] = best
    joined = {name: np.concatenate(columns[name]) for name in ("ids", "begin", "end")}
    joined["types"] = np.concatenate(columns["types"]) if columns["types"] else np.empty(0, dtype=np.uint8)
    places = {name: np.asarray(columns[name], dtype=np.int32) for name in ("null", "start", "stop", "length")}
    return {**joined, **places, "widest": np.concatenate(widest)}


def _solid(context: str) -> np.ndarray:
    """For each character, and for the end, the first from there on that is no white space; int32 [characters + 1]."""
    codes = np.frombuffer(context.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    places = np.where(np.isin(codes, _SPACES), len(codes), np.arange(len(codes)))
    return np.minimum.accumulate(np.append(places, len(codes))[::-1])[::-1].astype(np.int32)


def _place(begin: np.ndarray, end: np.ndarray, own: np.ndarray, gold: np.ndarray, null: int) -> tuple[int, int]:
    """Positions of the first and last token of the characters ``gold``; twice ``null`` where they are not all here."""
    if gold[0] < 0 or not len(own) or begin[own[0]] > gold[0] or end[own[-1]] < gold[1]:
        return null, null
    touched = own[(end[own] > gold[0]) & (begin[own] < gold[1])]
    return (int(touched[0]), int(touched[-1])) if len(touched) else (null, null)


def _widest(lengths: Sequence[int], stride: int) -> list[np.ndarray]:
    """For each window of one paragraph, which of its tokens have most around them there: bool [tokens].

    As in Devlin et al.'s run_squad: the smaller of the tokens to the left and to the right, plus 1 % of the window's length; of
    equals the first.
    """
    if len(lengths) == 1:
        return [np.ones(lengths[0], dtype=bool)]
    starts = np.arange(len(lengths)) * (lengths[0] - stride)
    around = np.full((len(lengths), int(starts[-1]) + lengths[-1]), -np.inf)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        place = np.arange(length)
        around[number, start : start + length] = np.minimum(place, length - 1 - place) + 0.01 * length
    best = around.argmax(axis=0)
    return [best[start : start + length] == number for number, (start, length) in enumerate(zip(starts, lengths, strict=True))]
