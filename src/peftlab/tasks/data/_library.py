"""The ``datasets`` library of Hugging Face: asked once, quietly, and its failures as errors of ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache as once
from pathlib import Path
from typing import Any, ClassVar, Self

from peftlab.errors import DataError, OptionError, nearest
from peftlab.tasks.data._source import Source
from peftlab.tasks.data.contract import ROLES, Role

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SAVED = ("dataset_dict.json", "state.json")  #: what ``save_to_disk`` leaves
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LibraryData(Source):
    """A hub id (``owner/name``), or a local folder that the library reads.

    No code of a data set is ever run. A hub data set is identified by the commit that was read.
    """

    priority: ClassVar[int] = 15

    id: str | None = None  #: on the hub
    path: str | None = None  #: folder, relative to the current directory
    config: str | None = None  #: configuration (subset) of a hub data set
    revision: str | None = None  #: commit, tag or branch of a hub data set
    train: str | None = None  #: what the data call these splits; default: any usual name
    validation: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        if (self.id is None) == (self.path is None):
            raise OptionError("give exactly one of id, path", where="id", remedy="{name: datasets, id: owner/name}")
        if self.path is not None and (self.config or self.revision):
            raise OptionError("a folder has no config or revision", where="path", remedy="remove them")

    @classmethod
    def accepts(cls, text: str) -> bool:
        path = Path(text).expanduser()
        if path.is_dir():
            return cls.accepts_folder(path)
        return bool(_HUB_ID.fullmatch(text)) and not path.exists() and not path.parent.is_dir()

    @classmethod
    def accepts_folder(cls, folder: Path) -> bool:
        return any((folder / name).is_file() for name in _SAVED)

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(path=text) if Path(text).expanduser().exists() else cls(id=text)

    @property
    def where(self) -> str:
        return " ".join(filter(None, (self.id or self.path, self.config)))

    def folder(self) -> Path:
        """Raises DataError where it is not there."""
        root = Path(self.path or "").expanduser()
        if not root.is_dir():
            beside = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
            raise DataError("no such data", where=self.where, remedy=nearest(root.name, beside))
        return root

    def builder(self) -> Any:
        """What reads this data set of the hub; its ``hash`` is the commit."""
        return hub_builder(self.id or "", self.config, self.revision)

    def tables(self) -> dict[str, Any]:
        """Usual split name -> table: the splits named here, then those that the data call by a usual name.

        Raises:
            DataError: cannot be read; no split of a name that was given; none to train on.
        """
        import datasets

        with quiet(), typed(self.where):
            if self.path is None:
                builder = self.builder()
                builder.download_and_prepare()
                found = builder.as_dataset()
            else:
                root = self.folder()
                saved = any((root / name).is_file() for name in _SAVED)
                found = datasets.load_from_disk(str(root)) if saved else datasets.load_dataset(str(root))
        tables = {str(split): table for split, table in found.items()} if isinstance(found, Mapping) else {"train": found}
        roles: tuple[Role, ...] = ("train", "validation", "test")
        named = {role: split for role in roles if (split := getattr(self, role)) is not None}
        for role, split in named.items():
            if split not in tables:
                raise DataError(f"no split {split!r}", where=f"{self.where} {role}", remedy=nearest(split, tables))
        usual = {s: t for s, t in tables.items() if ROLES.get(s) not in (None, *named) and s not in named.values()}
        chosen = {role: tables[split] for role, split in named.items()} | usual
        if not any(ROLES[split] == "train" for split in chosen):
            raise DataError("no train split", where=self.where, remedy=f"set train: to one of {', '.join(tables)}")
        return chosen


def hub_builder(name: str, config: str | None, revision: str | None) -> Any:
    """What reads a data set of the hub; its ``hash`` is the commit.

    Raises:
        DataError: no such data set, no connection, or another commit than the one asked for.
    """
    builder = _hub_builder(name, config, revision)
    if revision and _COMMIT.fullmatch(revision) and builder.hash != revision:
        # Without a connection the library falls back to whatever commit was read last.
        raise DataError(f"commit {builder.hash} is what is there", where=f"{name}@{revision}", remedy="connect to the hub once")
    return builder


@once
def _hub_builder(name: str, config: str | None, revision: str | None) -> Any:
    """Asks the hub for the commit: once a process."""
    import datasets

    with quiet(), typed(name):
        return datasets.load_dataset_builder(name, config, revision=revision)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's own progress bars; the setting is given back."""
    import datasets

    disabled = datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.utils.enable_progress_bars()


@contextmanager
def typed(where: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the library passes on whatever its readers, pyarrow and the network raise
        lines = str(error).strip().splitlines() or [""]
        raise DataError(
            f"cannot be read: {type(error).__name__}: {lines[0]}",
            where=where,
            remedy="check the name and the connection, or give a local copy: data: {name: ..., path: folder} or data: folder",
        ) from error
