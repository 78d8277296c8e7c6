"""The ``datasets`` library of Hugging Face: asked once, quietly, and its failures as errors of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as once
from typing import Any

from peftlab.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")


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
