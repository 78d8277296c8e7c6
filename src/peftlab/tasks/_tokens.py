"""From texts to token ids: once per tokenizer and data, kept in the cache, cut and padded in one place.

N texts, B in a batch, T tokens in the longest of a batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftlab.errors import BackboneError, DataError, OptionError
from peftlab.tasks._cache import cached_arrays
from peftlab.tasks.contract import TextPreprocessing

LAYOUT = 1  #: raised when what a cache file holds changes
TOKENIZER = "tokenizer.json"  #: what a fast tokenizer is kept in
_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Texts as ids, one after the other."""

    ids: np.ndarray  #: int32 [sum of lengths]
    types: np.ndarray | None  #: uint8 [sum of lengths]: 0 first text, 1 second; None where the model has no such input
    offsets: np.ndarray  #: int64 [N + 1]: text i is ids[offsets[i] : offsets[i + 1]]
    cut: np.ndarray  #: bool [N]: it was longer

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def padded(self, rows: np.ndarray, pad_token: int) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` (and ``token_type_ids``), int64 [B, T]; shorter texts filled up at their end."""
        lengths = self.lengths[rows]
        here = np.arange(lengths.max(initial=1))[None, :] < lengths[:, None]
        starts = self.offsets[rows][:, None] + np.arange(here.shape[1])[None, :]
        source = starts[here]
        found: dict[str, torch.Tensor] = {}
        for name, values, fill in (("input_ids", self.ids, pad_token), ("token_type_ids", self.types, 0)):
            if values is not None:
                array = np.full(here.shape, fill, dtype=np.int64)
                array[here] = values[source]
                found[name] = torch.from_numpy(array)
        found["attention_mask"] = torch.from_numpy(here.astype(np.int64))
        return found


@once
def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of a folder or hub id (``id@revision``); no code of it is run.

    Raises:
        BackboneError: there is none, or none that is fast.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    folder = Path(name).expanduser()
    repo, _, revision = name.partition("@")
    where: dict[str, Any] = {"revision": revision or None} if not folder.is_dir() else {}
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        found = AutoTokenizer.from_pretrained(folder if folder.is_dir() else repo, trust_remote_code=False, **where)
    except Exception as error:  # whatever a broken folder or connection brings
        first = str(error).strip().split("\n")[0][:200]
        raise BackboneError(
            f"its tokenizer cannot be loaded: {first}", where=name, remedy="put tokenizer.json beside the weights"
        ) from error
    finally:
        logging.set_verbosity(level)
    if set(found.get_vocab().values()) <= set(found.all_special_ids):  # transformers makes an empty one where files are missing
        raise BackboneError("it has no tokenizer", where=name, remedy="put tokenizer.json beside the weights")
    if not found.is_fast:
        raise BackboneError(
            "its tokenizer is not a fast one", where=name, remedy="convert it to tokenizer.json with transformers"
        )
    return found


def encoder(name: str) -> Any:
    """What stands behind :func:`load_tokenizer`, which neither cuts nor fills up, whatever it was asked for before."""
    found = load_tokenizer(name).backend_tokenizer
    found.no_truncation()
    found.no_padding()
    return found


def save_tokenizer(name: str, folder: Path) -> None:
    """Write its files; in them it neither cuts nor fills up, whatever it was asked for before."""
    encoder(name)
    load_tokenizer(name).save_pretrained(folder)


def tokenizer_fingerprint(name: str) -> str:
    """SHA-256 over what the tokenizer does: its own serialised form."""
    return hashlib.sha256(encoder(name).to_str().encode()).hexdigest()


def longest_text(asked: int | None, preprocessing: TextPreprocessing, most: int | None = None) -> int:
    """Tokens that a text may have: ``asked``, or as many as the model takes, ``most`` at most.

    Raises:
        OptionError: more than the model takes.
    """
    if asked is not None and asked > preprocessing.max_length:
        raise OptionError(
            f"{asked} tokens, but the model has {preprocessing.max_length} positions",
            where="max_length",
            remedy=f"at most {preprocessing.max_length}",
        )
    return asked or min(most or preprocessing.max_length, preprocessing.max_length)


def tokenize(texts: Sequence[str], pairs: Sequence[str] | None, preprocessing: TextPreprocessing, max_length: int) -> Tokens:
    """Each text (or pair) with the special tokens that the tokenizer adds; the longest of a pair is cut first.

    Raises:
        DataError: an id outside the model's vocabulary: the tokenizer is not that of the model.
    """
    tokenizer = load_tokenizer(preprocessing.tokenizer)
    with_types = "token_type_ids" in tokenizer.model_input_names
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    lengths: list[int] = []
    cut: list[bool] = []
    for start in range(0, len(texts), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found = tokenizer(
            list(texts[part]),
            list(pairs[part]) if pairs is not None else None,
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=with_types,
        )
        ids += [np.asarray(row, dtype=np.int32) for row in found["input_ids"]]
        if with_types:
            types += [np.asarray(row, dtype=np.uint8) for row in found["token_type_ids"]]
        lengths += [len(row) for row in found["input_ids"]]
        cut += [len(encoding.overflowing) > 0 for encoding in found.encodings]
    flat = np.concatenate(ids) if ids else np.empty(0, dtype=np.int32)
    check_vocabulary(flat, preprocessing)
    return Tokens(
        ids=flat,
        types=np.concatenate(types) if types else None,
        offsets=np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64),
        cut=np.asarray(cut, dtype=bool),
    )


def cached(key: Mapping[str, Any], cache: Path, make: Callable[[], Tokens]) -> Tokens:
    """What ``make`` gives, kept under ``cache``.

    Args:
        key: everything that decides the outcome, JSON-ready.

    Raises:
        DataError: the cache cannot be written.
    """

    def arrays() -> dict[str, np.ndarray]:
        made = make()
        types = np.empty(0, dtype=np.uint8) if made.types is None else made.types
        return {"ids": made.ids, "types": types, "offsets": made.offsets, "cut": made.cut}

    found = cached_arrays(cache / "tokens", [LAYOUT, key], arrays)
    return Tokens(
        ids=found["ids"], types=found["types"] if len(found["types"]) else None, offsets=found["offsets"], cut=found["cut"]
    )


def check_vocabulary(ids: np.ndarray, preprocessing: TextPreprocessing) -> None:
    """Raises DataError for an id outside the model's vocabulary: the tokenizer is not that of the model."""
    if len(ids) and ids.max() >= preprocessing.vocabulary:
        raise DataError(
            f"token id {int(ids.max())} is outside the model's vocabulary of {preprocessing.vocabulary}",
            where=preprocessing.tokenizer,
            remedy="tokenizer and weights must belong together",
        )
