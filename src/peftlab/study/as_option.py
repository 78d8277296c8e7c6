"""Keys of a study that somebody typed as options of the command line."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from peftlab.study.schema import Analysis, Study
from peftlab.study.train import Train


def override_of(option: str, words: Sequence[str]) -> str | None:
    """``--set 'seeds=[7]'`` for ``--seeds 7``, ``--set train.learning_rate=1e-3`` for ``--lr 1e-3``; None where it is no key.

    Args:
        option: as typed, with its dashes.
        words: what stands behind it.
    """
    word = option.lstrip("-")
    found = next(((key, kind) for key, kind in _keys() if _same(word, key)), None)
    if found is None:
        return None
    key, kind = found
    return "--set " + shlex.quote(f"{key}={_value(kind, words)}")


def _keys() -> Iterator[tuple[str, Any]]:
    """(path, type) of every key that holds no keys itself."""
    for path, frame in (("", Study), ("train.", Train), ("analysis.", Analysis)):
        for name, field in frame.model_fields.items():
            kinds = (field.annotation, *get_args(field.annotation))
            holds = any(get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)) for kind in kinds)
            if not holds and path + name != "study":  # whoever types --study means the file
                yield path + name, field.annotation


def _same(word: str, key: str) -> bool:
    """Whether a word is a key's path or its name, which may be in the singular, without underscores, or its initials."""
    parts = key.rpartition(".")[2].split("_")
    name, initials = "".join(parts), "".join(part[0] for part in parts)
    plain = word.lower().replace("-", "").replace("_", "")
    return word == key or plain in (name, name.removesuffix("s")) or (len(parts) > 1 and plain == initials)


def _value(kind: Any, words: Sequence[str]) -> str:
    """The value that was given with it: the word behind it, if that is not the study's file already; of a list all numbers."""
    given = [*itertools.takewhile(lambda word: not word.endswith((".yaml", ".yml")), words)]
    given = given or ["true" if kind is bool else "VALUE"]
    if get_origin(kind) is not list:
        return given[0]
    numbers = [*itertools.takewhile(str.isdecimal, given)] or given[:1]
    return f"[{', '.join(numbers).strip('[]')}]"
