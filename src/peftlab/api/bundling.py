"""bundle: one archive with a study, its records, findings and report, and the commands that redo it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from peftlab.api.answers import Answer, lines, megabytes
from peftlab.errors import RecordError


def bundle(folder: str | Path, *, output: str | Path | None = None, adapters: bool = False, checkpoints: bool = False) -> Answer:
    """Write the reproducibility bundle of a results folder. The same folder gives the same bytes.

    Args:
        folder: ``results/<study>``.
        output: the archive; default ``results/<study>.bundle.zip``.
        adapters: with the trained adapters of every run.
        checkpoints: with what interrupted runs need to go on.

    Raises:
        RecordError: no results folder, a link in it, a run that is being executed, or the disk.
    """
    from peftlab.report.archive import pack
    from peftlab.report.build import build_report
    from peftlab.report.paper.build import stale

    folder = Path(folder)
    target = Path(output) if output is not None else folder.with_name(f"{folder.resolve().name}.bundle.zip")
    if target.resolve().is_relative_to(folder.resolve()):
        raise RecordError("a bundle cannot lie in the folder that it holds", where=str(target), remedy="choose another --output")
    if target.is_dir():
        raise RecordError("is a folder", where=str(target), remedy="name the archive: --output study.zip")
    if target.exists() and not zipfile.is_zipfile(target):  # an older bundle of the study is replaced, nothing else
        raise RecordError("is a file, and no bundle; nothing is overwritten", where=str(target), remedy="name another --output")
    if stale(folder):
        build_report(folder)
    made = pack(folder, target, adapters=adapters, checkpoints=checkpoints)

    def shown():
        left = ", ".join(f"{count} ({why})" for why, count in made.left_out.items())
        return lines(
            f"bundle: {made.path}, {megabytes(made.bytes)}, {made.files} files of {made.runs} finished runs",
            f"SHA-256: {made.sha256}",
            f"left out: {left}" if left else "",
            *(f"a secret was masked in {name}" for name in made.masked),
            f"to redo it elsewhere: peftlab reproduce {made.path}",
        )

    return Answer({"bundle": made}, shown)
