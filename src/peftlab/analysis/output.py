"""Where an analysis is written: ``analysis/`` of a results folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from peftlab.records.commit import disk_errors
from peftlab.records.regular import refuse_links


@contextlib.contextmanager
def analysis_folder(results: Path) -> Iterator[Path]:
    """``results/analysis``, made where it is not there.

    Raises:
        RecordError: it is a link, or what is done in the context meets a full or unwritable disk.
    """
    target = results / "analysis"
    refuse_links(target)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        yield target
