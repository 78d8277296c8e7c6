"""The anonymised archive: sources, PDF, study and findings, with checksums, and nothing that says whose they are."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

import yaml

from peftlab.analysis.reading import read_json
from peftlab.errors import RecordError
from peftlab.records.commit import disk_errors, write_atomic
from peftlab.report.paper.anonymise import (
    commits,
    has_comments,
    hub_names,
    identities,
    mask,
    owned,
    repositories,
    traces,
    unmasked,
    without_authors,
    without_comments,
)
from peftlab.report.paper.compile import compile_paper

NAME = "submission.zip"
CHECKSUMS = "SHA256SUMS"
_TEXT = {".tex", ".bib", ".sty", ".cls", ".bst", ".tikz", ".csv", ".json", ".yaml"}
_BINARY = {".pdf", ".png", ".jpg", ".jpeg", ".eps"}
#: results folder -> archive
_DATA = {
    "study.yaml": "data/study.yaml",
    "analysis/findings.json": "data/findings.json",
    "analysis/results.csv": "data/results.csv",
}
_EMPTIED = {"sections/acknowledgements.tex"}
_LEFT_OUT = {"generated.json", "main.pdf"}
_README = """Anonymised. `sha256sum -c SHA256SUMS` checks the files.
paper/main.tex      the paper; compile with: latexmk -pdf main.tex
data/study.yaml     the study as it was declared; `peftlab run study.yaml` repeats it
data/findings.json  every statement of the paper, with its numbers
data/results.csv    every run
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What was packed."""

    path: Path
    files: list[str]
    masked: list[tuple[str, str]]  #: (file, kinds of what was masked in it)
    warnings: list[str]  #: what was not masked and may say whose it is


def make_submission(paper: Path, *, compiled: bool) -> Submission:
    """``DIR/submission.zip`` from ``DIR/paper``.

    Args:
        paper: the paper's folder.
        compiled: whether the PDF is made anew from the anonymised sources and put in.

    Raises:
        RecordError: a file that is no text (a figure of your own) names somebody; the archive is not written.
        LatexError: the anonymised sources do not compile.
    """
    folder = paper.parent
    names, hub = identities(folder), _hub(folder)
    own = owned(hub, names)
    names = [*own, *names, *commits(folder)]
    files: dict[str, bytes] = {"README.txt": _README.encode()}
    masked: list[tuple[str, str]] = []
    with disk_errors(paper):
        for source, name in _sources(folder, paper):
            content, kinds = _anonymous(source, name, names)
            files[name] = content
            masked += [(name, ", ".join(kinds))] if kinds else []
        if compiled:
            files["paper/main.pdf"] = _pdf(files)
    for name, content in files.items():
        if found := traces(content, names):
            remedy = "remove it from the file, or the file from the paper's folder"
            raise RecordError(f"still tells {', '.join(found[:3])}", where=name, remedy=remedy)
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    files[CHECKSUMS] = sums.encode()
    write_atomic(folder / NAME, _zip(files))
    warnings = _warnings(files, unmasked(folder), sorted(hub - set(own)))
    return Submission(path=folder / NAME, files=sorted(files), masked=masked, warnings=warnings)


def _hub(folder: Path) -> set[str]:
    """Models and data of a hub that the study and its findings name."""
    try:
        study = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        study = None
    return hub_names(study) | hub_names(read_json(folder / "analysis" / "findings.json"))


def _warnings(files: Mapping[str, bytes], ordinary: list[str], hub: list[str]) -> list[str]:
    """What a reader of the archive may still follow to its authors."""
    found = [f"the user, git or host name {name!r} is too common a word to be masked: look for it yourself" for name in ordinary]
    found += [f"names a repository of a hub, not masked: {name}" for name in hub]
    for name, content in sorted(files.items()):
        if Path(name).suffix in _TEXT:
            text = content.decode("utf-8", errors="replace")
            found += [f"{name} has an address, not masked: {address}" for address in repositories(text)]
            found += [f"{name} has comments, which stay"] * has_comments(text, Path(name).suffix)
    return found


def _sources(folder: Path, paper: Path) -> Iterator[tuple[Path, str]]:
    """(file, its name in the archive). Links, hidden files and what was set aside stay out."""
    for path in sorted(paper.rglob("*")):
        name = path.relative_to(paper)
        hidden = any(part.startswith(".") or part == "kept" for part in name.parts)
        if hidden or path.is_symlink() or not path.is_file() or path.suffix.lower() not in _TEXT | _BINARY:
            continue
        if name.as_posix() not in _LEFT_OUT:
            yield path, f"paper/{name.as_posix()}"
    for name, inside in _DATA.items():
        if (folder / name).is_file():
            yield folder / name, inside


def _anonymous(source: Path, name: str, names: list[str]) -> tuple[bytes, list[str]]:
    content = source.read_bytes()
    if source.suffix.lower() in _BINARY:
        return content, []
    if name.removeprefix("paper/") in _EMPTIED:
        return b"\n", []
    text = content.decode("utf-8", errors="replace")
    if source.suffix == ".tex":
        text = without_authors(without_comments(text))
    text, kinds = mask(text, names)
    return text.encode(), kinds


def _pdf(files: dict[str, bytes]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="peftlab-submission-") as folder:
        for name, content in files.items():
            if name.startswith("paper/"):
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return compile_paper(Path(folder) / "paper").pdf.read_bytes()


def _zip(files: dict[str, bytes]) -> bytes:
    """The same files give the same bytes: sorted, without times, owners and modes of this machine."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr, info.compress_type, info.create_system = 0o644 << 16, zipfile.ZIP_DEFLATED, 3
            archive.writestr(info, files[name])
    return stream.getvalue()
