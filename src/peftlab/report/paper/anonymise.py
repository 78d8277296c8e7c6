"""Names, machines, paths and addresses taken out of texts, whether or not LaTeX has put places to break into them."""

from __future__ import annotations

import getpass
import os
import platform
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from peftlab.analysis.reading import read_json

MASK = "anonymised"
#: names that name nobody
_COMMON = {"root", "user", "users", "admin", "guest", "home", "localhost", "runner", "ubuntu", "debian", "test", "build", "none"}
_BREAK = r"(?:\\allowbreak\{\})?"
_CHAR = r"(?:[\w.+~-]|\\_|\\textasciitilde\{\}|\\allowbreak\{\})"
_HOST = r"(?:[\w-]|\\_|\\allowbreak\{\})"
_SLASH = r"(?:/|\\textbackslash\{\}|\\\\?)"
#: what is masked whoever the authors are
PATTERNS = {
    "e-mail address": re.compile(rf"(?<![\w.+\\-]){_CHAR}+@{_HOST}+(?:\.{_HOST}+)+"),
    "absolute path": re.compile(
        rf"(?<![\w.:/}}~-])(?:~|\\textasciitilde\{{\}})?/{_BREAK}{_CHAR}+(?:/{_CHAR}*)+"
        rf"|(?<![\w.:/}}~-])(?:~|\\textasciitilde\{{\}})/{_CHAR}+"
        rf"|(?<!\w)[A-Za-z]:{_BREAK}{_SLASH}{_CHAR}+(?:{_SLASH}{_CHAR}+)*"
    ),
}
_AUTHOR = re.compile(r"\\author\s*(?:\[[^\]]*\])?\s*\{")


def identities(folder: Path) -> list[str]:
    """Names of the user and of the machines: of this process, and those that the records keep. Longest first."""
    found = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "COMPUTERNAME")}
    with suppress(OSError, KeyError, ImportError, RuntimeError):
        found |= {getpass.getuser(), Path.home().name}
    found.add(platform.node())
    for path in folder.glob("runs/*/*/environment.json"):
        data = read_json(path)
        if isinstance(data, dict):
            found.add(str(data.get("host", "")))
            found |= set(re.findall(r"/(?:home|Users)/([\w.-]+)", str(data.get("command", ""))))
    found |= {name.partition(".")[0] for name in found}
    return sorted((n for n in found if len(n) >= 3 and n.lower() not in _COMMON | _vocabulary()), key=lambda n: (-len(n), n))


@cache
def _vocabulary() -> frozenset[str]:
    """Words of the templates: to mask one of them would spoil the text and the LaTeX."""
    texts = (p.read_text(encoding="utf-8") for p in (Path(__file__).parent / "templates").rglob("*.tex"))
    return frozenset(word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text))


def mask(text: str, names: Iterable[str]) -> tuple[str, list[str]]:
    """The text without names, addresses and absolute paths, and the kinds of what was masked."""
    found = []
    for kind, pattern in PATTERNS.items():
        text, count = pattern.subn(f"{MASK}-{kind.split()[-1]}", text)
        found += [kind] * bool(count)
    for name in names:
        text, count = _named(name).subn(MASK, text)
        found += ["name of a user or machine"] * bool(count)
    return text, sorted(set(found))


@cache
def _named(name: str) -> re.Pattern[str]:
    letters = _BREAK.join(rf"\\?{re.escape(c)}" if c in "_#&%$" else re.escape(c) for c in name)
    return re.compile(rf"(?<![\w\\]){letters}(?!\w)", re.IGNORECASE)


def without_comments(tex: str) -> str:
    """LaTeX without its comments; a percent sign that ends a line stays, for it also takes the line break away."""
    lines, verbatim = [], False
    for line in tex.splitlines():
        verbatim = (verbatim or bool(re.search(r"\\begin\{(?:verbatim|lstlisting)\}", line))) and r"\end{" not in line
        kept = line if verbatim else re.sub(r"(?<!\\)((?:\\\\)*)%.*$", r"\1%", line)
        if kept.strip() != "%" or line.strip() == "%":
            lines.append(kept)
    return "\n".join(lines) + "\n"


def without_authors(tex: str) -> str:
    """Every ``\\author{...}`` replaced."""
    position = 0
    while match := _AUTHOR.search(tex, position):
        depth, end = 1, match.end()
        while depth and end < len(tex):
            depth += 0 if tex[end - 1] == "\\" else {"{": 1, "}": -1}.get(tex[end], 0)
            end += 1
        tex = tex[: match.start()] + r"\author{Anonymous authors}" + tex[end:]
        position = match.start() + 1
    return tex


def traces(data: bytes, names: Iterable[str]) -> list[str]:
    """What a binary file (a PDF, an image) still tells, compressed streams included."""
    text = b"\n".join([data, *_inflated(data)]).decode("latin-1")
    found = [name for name in names if len(name) >= 4 and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    found += re.findall(r"(?:/home|/Users|/root)/[\w.-]+(?:/[\w.-]+)*", text)
    return sorted({*found, *re.findall(r"\b[\w.+-]{2,}@[\w-]+\.(?:[a-z]{2,6}\.)*[a-z]{2,6}\b", text)})


def _inflated(data: bytes) -> Iterator[bytes]:
    for match in re.finditer(rb"stream\r?\n", data):
        with suppress(zlib.error):
            yield zlib.decompressobj().decompress(data[match.end() :])
