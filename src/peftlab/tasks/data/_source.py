"""Where data of any kind come from, and which source a word in a study means."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from peftlab.errors import DataError, absent
from peftlab.registry import Component, components, create


class Source(Component):
    """One place data come from.

    In a study: ``data: NAME``, ``data: ../some/folder`` or ``data: {name: ..., option: value}``.
    """

    priority: ClassVar[int] = 0  #: bare words and paths are offered to the sources in this order

    @classmethod
    def accepts(cls, text: str) -> bool:
        """Whether this source is the one for a bare word or path. Looks at the word and at local files only."""
        return text == cls.name

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The source for a word that it accepts."""
        return cls()

    @abstractmethod
    def fingerprint(self, cache: Path | None = None) -> str:
        """SHA-256 over everything that decides the examples, hexadecimal; the same wherever the data lie.

        ``cache``: folder that keeps the checksum of unchanged files between processes.
        """


def sources(kind: str) -> list[type[Source]]:
    """All sources of a kind, in the order in which words are offered to them."""
    found = [cls for cls in components(kind).values() if issubclass(cls, Source)]
    return sorted(found, key=lambda cls: (cls.priority, cls.name))


def no_such(kind: str, text: str) -> DataError:
    """No source of the kind accepts the word: what is nearest to it, among the sources and beside it on the disk."""
    words = [cls.name for cls in sources(kind)]
    other, held = ("text", "texts") if kind == "data" else ("data", "images")
    if text in (cls.name for cls in sources(other)):
        return DataError(f"holds {held}, which is not what this task is about", where=text, remedy="name another kind of task")
    forms = f"a folder, a file, a hub id (owner/name), or one of {', '.join(words)}"
    return DataError("no such data", where=text, remedy=absent(Path(text).expanduser(), forms, also=words))


def find_source(kind: str, spec: str | Mapping[str, Any], where: str) -> Any:
    """The configured source for a word that one accepts, or for ``{name: ..., option: value}``; None where none accepts the word.

    Raises:
        OptionError: unknown source or option.
        DataError: a path in the home of a user that does not exist.
    """
    path = spec if isinstance(spec, str) else spec.get("path")
    if isinstance(path, str) and path.startswith("~") and os.path.expanduser(path).startswith("~"):  # noqa: PTH111 (raises)
        raise DataError("there is no such user", where=path, remedy="write the path out")
    if not isinstance(spec, str):
        return create(kind, spec, where=where)
    return next((cls.from_text(spec) for cls in sources(kind) if cls.accepts(spec)), None)
