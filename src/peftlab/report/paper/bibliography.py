"""References: BibTeX read, checked for what each kind of entry must have, and written once per key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from peftlab.errors import RecordError

#: fields without which BibTeX warns (bibtex.org/Format); author and year wherever we cite
REQUIRED: dict[str, frozenset[str]] = {
    "article": frozenset({"author", "title", "journal", "year"}),
    "inproceedings": frozenset({"author", "title", "booktitle", "year"}),
    "incollection": frozenset({"author", "title", "booktitle", "publisher", "year"}),
    "book": frozenset({"author", "title", "publisher", "year"}),
    "phdthesis": frozenset({"author", "title", "school", "year"}),
    "techreport": frozenset({"author", "title", "institution", "year"}),
    "misc": frozenset({"author", "title", "year"}),
}
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]*")
_STANDARD = Path(__file__).with_name("standard.bib")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One reference."""

    kind: str  #: ``article``, ``inproceedings``, ...
    key: str
    fields: Mapping[str, str]

    def problems(self) -> list[str]:
        """What an editor would send back; empty where the entry is complete."""
        if self.kind not in REQUIRED:
            return [f"@{self.kind} is no kind of entry that is known here"]
        found = [f"{name} is missing" for name in sorted(REQUIRED[self.kind] - {k for k, v in self.fields.items() if v.strip()})]
        year = self.fields.get("year", "")
        if year and not re.fullmatch(r"(19|20)\d\d", year):
            found.append(f"year {year!r} is no year")
        return found

    def text(self) -> str:
        """BibTeX. An e-print is told in words where the style would leave it out."""
        fields = dict(self.fields)
        if "eprint" in fields and not {"url", "doi", "note", "howpublished"} & fields.keys():
            fields["note"] = f"arXiv:{fields['eprint']}"
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{self.kind}{{{self.key},\n{lines}\n}}"


def entries(bibtex: str) -> Iterator[Entry]:
    """All entries of a text.

    Raises:
        RecordError: not BibTeX with braced values.
    """
    position = 0
    while (start := bibtex.find("@", position)) >= 0:
        head = re.compile(r"@(\w+)\s*\{\s*([^,\s{}]+)\s*,").match(bibtex, start)
        if head is None or not KEY.fullmatch(head[2]):
            raise _unreadable("no entry of the form @kind{key, ...}", bibtex[start : start + 40])
        body, position = _braced(bibtex, bibtex.index("{", start))
        yield Entry(kind=head[1].lower(), key=head[2], fields=dict(_fields(body[body.index(",") + 1 :])))


def _fields(body: str) -> Iterator[tuple[str, str]]:
    rest = body.strip()
    while rest:
        start = re.match(r"(\w+)\s*=\s*\{", rest)
        if start is None:
            raise _unreadable("no `field = {value}`", rest[:40])
        value, end = _braced(rest, start.end() - 1)
        yield start[1], " ".join(value.split())
        rest = rest[end:].lstrip().removeprefix(",").lstrip()


def _braced(text: str, opening: int) -> tuple[str, int]:
    """What stands between the brace at ``opening`` and its partner, and where the text goes on."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[opening + 1 : index], index + 1
    raise _unreadable("a brace is not closed", text[opening : opening + 40])


def _unreadable(what: str, where: str) -> RecordError:
    return RecordError(f"the reference cannot be read: {what}", where=where, remedy="mend the BibTeX entry")


@cache
def standard() -> dict[str, Entry]:
    """References of the analysis and the software, by key."""
    return {entry.key: entry for entry in entries(_STANDARD.read_text(encoding="utf-8"))}


def collect(texts: Iterable[str], also: Iterable[str] = ()) -> dict[str, Entry]:
    """Entries of several texts and of :func:`standard`, each key once, sorted.

    Raises:
        RecordError: an entry lacks a field, or one key stands for two different entries.
    """
    found: dict[str, Entry] = {}
    for entry in (*(e for text in texts for e in entries(text)), *(standard()[key] for key in also)):
        if problems := entry.problems():
            raise RecordError("; ".join(problems), where=f"reference {entry.key}", remedy="complete the BibTeX entry")
        if found.setdefault(entry.key, entry) != entry:
            remedy = "give one of them another key"
            raise RecordError("two different references share one key", where=entry.key, remedy=remedy)
    return dict(sorted(found.items()))


def keys(bibtex: str) -> list[str]:
    """Keys of a text, in its order."""
    return [entry.key for entry in entries(bibtex)]


def cite(text: str, bibtex: str) -> tuple[str, str]:
    """A docstring without its first mention of its source, and the ``\\citep`` that takes its place.

    ``... train (Ben Zaken et al. 2022, section 3).`` -> ``... train``, ``\\citep[section 3]{benzaken2022bitfit}``.
    """
    found = list(entries(bibtex))
    if not found:
        return text, ""
    surname = re.split(r",| and ", found[0].fields.get("author", "").replace("{", "").replace("}", ""))[0].strip()
    mention = (
        re.search(rf" \((?:as in )?{re.escape(surname)}\b[^()]*?\b(?:19|20)\d\d(?:, ([^()]*))?\)", text) if surname else None
    )
    names = ",".join(entry.key for entry in found)
    if mention is None:
        return text, rf"\citep{{{names}}}"
    place = f"[{mention[1]}]" if mention[1] and len(found) == 1 and re.fullmatch(r"[\w ,.:-]+", mention[1]) else ""
    return text[: mention.start()] + "\0" + text[mention.end() :], rf"\citep{place}{{{names}}}"
