"""paper: sections, numbers, tables, figures and references from the records, and the PDF where LaTeX is installed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from peftlab.api._at_work import at_work
from peftlab.api.answers import Answer, lines
from peftlab.errors import PeftlabError
from peftlab.report.paper.build import Written, build_paper
from peftlab.report.paper.compile import INSTALL, Compiled, can_compile, compile_paper
from peftlab.report.paper.material import Source
from peftlab.report.paper.submission import Submission, make_submission

MOST_CHANGES = 20  #: that are printed; --json has them all


def paper(folder: str | Path, *, submission: bool = False, sources: bool = False) -> Answer:
    """Write ``DIR/paper`` and compile it.

    Args:
        folder: ``results/<study>``.
        submission: also an anonymised archive with checksums, ``DIR/submission.zip``.
        sources: only these; nothing is compiled.

    Raises:
        RecordError: no results, or the folder cannot be written.
        StudyError: several files could be the conference's style.
        LatexError: LaTeX stopped.
    """
    with at_work("writing the paper") as at:
        written = build_paper(folder, describe)
        if able := not sources and can_compile():
            at("compiling the paper")
        made = compile_paper(written.folder) if able else None
        if submission:
            at("making the archive")
        archive = make_submission(written.folder, compiled=able) if submission else None
    data = {"paper": written, "pdf": made, "submission": archive, "latex": can_compile()}
    return Answer(data, lambda: lines(*_told(written, made, archive, not sources)))


def describe(kind: str, name: str) -> Source | None:
    """What a component says of itself; None for one that is not installed here. ``data`` may also be a source of texts."""
    from peftlab.registry import components

    if kind == "backbone":
        from peftlab.backbones.resolve import source_of

        try:
            cls: Any = source_of(name)
        except PeftlabError:  # a folder that this machine does not have
            return None
    else:
        found = [components(k)[name] for k in ((kind, "text") if kind == "data" else (kind,)) if name in components(k)]
        if len(found) != 1:  # nothing, or a name that means one thing for images and another for texts
            return None
        cls = found[0]
    return Source(
        kind=kind, name=cls.name, summary=cls.summary(), description=inspect.getdoc(cls) or "", citation=cls.citation or ""
    )


def _told(written: Written, made: Compiled | None, archive: Submission | None, asked: bool) -> list[str]:
    said = [f"paper: {written.folder} ({len(written.written)} files written)"]
    if not written.first:
        said.append(
            f"{len(written.changes)} numbers differ from those of the last call" if written.changes else "no number changed"
        )
        said += [f"  {c.key}: {c.before or 'absent'} -> {c.now or 'absent'}" for c in written.changes[:MOST_CHANGES]]
        said += [f"  and {len(written.changes) - MOST_CHANGES} more; --json lists them"] * (len(written.changes) > MOST_CHANGES)
    said += [f"set aside before it was overwritten: {line}" for line in written.kept]
    said += [f"warning: {line}" for line in written.warnings]
    if made is not None:
        said.append(f"pdf: {made.pdf}, {made.pages} pages")
        said += [f"warning: {made.overfull_pt:.0f} pt of a line or table stick out of the text"] * (made.overfull_pt > 5)
        said += [f"warning: reference {key!r} leads nowhere" for key in made.undefined]
    elif asked:
        said.append(f"LaTeX is not installed here, so there is no PDF. To compile main.tex: {INSTALL}.")
    if archive is not None:
        said.append(f"submission: {archive.path}, {len(archive.files)} files")
        said += [f"  masked in {name}: {what}" for name, what in archive.masked]
        said += [f"warning: {line}" for line in archive.warnings]
    return said
