"""Names, machines, paths and addresses taken out of texts, whether or not LaTeX has put places to break into them."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
import zlib
from collections.abc import Iterable, Iterator, Mapping
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
#: LaTeX commands that name authors -> their number of arguments
_CREDITS = {
    "author": 1, "institute": 1, "institution": 1, "affiliation": 1, "affil": 1, "address": 1, "email": 1, "thanks": 1,
    "icmlauthor": 2, "icmlaffiliation": 2, "icmlcorrespondingauthor": 2,
}  # fmt: skip
_CREDIT = re.compile(rf"\\({'|'.join(_CREDITS)})\*?(?![A-Za-z@])\s*(?:\[[^\]]*\]\s*)*\{{")
_HOSTS = ("github.com", "githubusercontent.com", "gitlab.com", "huggingface.co", "hf.co", "bitbucket.org", "codeberg.org")
_SITES = "|".join(_BREAK.join(map(re.escape, host)) for host in _HOSTS)
_PART = r"(?:[\w.+-]|\\_|\\allowbreak\{\})"
#: an address of a repository, a model or a person's page, with its owner
_ADDRESS = re.compile(
    rf"(?:https?:{_BREAK}/{_BREAK}/{_BREAK}|git@)?(?:{_HOST}+\.{_BREAK})*?(?:{_SITES})[/:]{_BREAK}(?:(?:datasets|spaces)/{_BREAK})?"
    rf"(?P<owner>{_PART}+)(?:/{_PART}*)*"
    rf"|(?:https?:{_BREAK}/{_BREAK}/{_BREAK})?(?P<page>{_HOST}+)\.{_BREAK}(?:github|gitlab|hf|codeberg){_BREAK}\."
    rf"{_BREAK}(?:io|page|space)(?:/{_PART}*)*"
)
_FILES = {".json", ".csv", ".tex", ".yaml", ".pdf", ".py"}  #: endings of files, which no hub names so
_HUB = re.compile(r"(?:[a-z]+:)?([A-Za-z][\w.-]*)/[A-Za-z][\w.-]*")


def identities(folder: Path) -> list[str]:
    """Names of the user and of the machines: of this process, of git, and those that the records keep. Longest first."""
    return sorted((name for name in _names(folder) if not _ordinary(name)), key=lambda n: (-len(n), n))


def unmasked(folder: Path) -> list[str]:
    """Names that :func:`identities` leaves out, because to mask them would spoil the text."""
    return sorted(name for name in _names(folder) if _ordinary(name))


def commits(folder: Path) -> list[str]:
    """Hashes of the program that the records keep, whole and shortened: a public repository leads from them to its owner."""
    found = set()
    for path in folder.glob("runs/*/*/environment.json"):
        data = read_json(path)
        git = data.get("git") if isinstance(data, dict) else None
        commit = str(git.get("commit") or "") if isinstance(git, dict) else ""
        found |= {commit[:length] for length in (40, 64, 12, 10, 8, 7) if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit)}
    return sorted((c for c in found if not c.isdigit()), key=lambda c: (-len(c), c))


def _names(folder: Path) -> set[str]:
    found = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "COMPUTERNAME")}
    with suppress(OSError, KeyError, ImportError, RuntimeError):
        found |= {getpass.getuser(), Path.home().name}
    found.add(platform.node())
    for path in folder.glob("runs/*/*/environment.json"):
        data = read_json(path)
        if isinstance(data, dict):
            found.add(str(data.get("host", "")))
            found |= set(re.findall(r"/(?:home|Users)/([\w.-]+)", str(data.get("command", ""))))
    found |= {name.partition(".")[0] for name in found} | _git_user(folder)
    return {name for name in found if name and name.lower() not in _COMMON}


def _git_user(folder: Path) -> set[str]:
    """What git signs with here; of an address, what stands before the @."""
    asked = ["git", "-C", str(folder), "config", "--get-regexp", r"^(user\.(name|email)|git(hub|lab)\.user)$"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.SubprocessError):
        return set()
    values = [line.partition(" ")[2].strip() for line in told.splitlines()]
    values += [os.environ.get(f"GIT_{who}_{what}", "") for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    return {value.partition("@")[0].rpartition("+")[2] for value in values}


def _ordinary(name: str) -> bool:
    return len(name) < 3 or name.lower() in _vocabulary()


@cache
def _vocabulary() -> frozenset[str]:
    """Words of the templates: to mask one of them would spoil the text and the LaTeX."""
    texts = (p.read_text(encoding="utf-8") for p in (Path(__file__).parent / "templates").rglob("*.tex"))
    return frozenset(word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text))


def mask(text: str, names: Iterable[str]) -> tuple[str, list[str]]:
    """The text without names, addresses and absolute paths, and the kinds of what was masked."""
    names = list(names)
    own = _own(names)
    shown = _ADDRESS.sub(lambda m: f"{MASK}-repository" if _plain(_owner(m)) in own else m[0], text)
    found, text = ["repository"] * (shown != text), shown
    for kind, pattern in PATTERNS.items():
        text, count = pattern.subn(f"{MASK}-{kind.split()[-1]}", text)
        found += [kind] * bool(count)
    for name in names:
        text, count = _named(name).subn(MASK, text)
        found += ["name of a user or machine"] * bool(count)
    return text, sorted(set(found))


def repositories(text: str) -> list[str]:
    """Addresses of repositories, models and pages in a text."""
    return sorted({re.sub(r"\\allowbreak\{\}|\\(?=_)", "", match[0]).rstrip(".") for match in _ADDRESS.finditer(text)})


def hub_names(data: object) -> set[str]:
    """``owner/name`` where it is a whole value of a record: models and data of a hub."""
    if isinstance(data, Mapping):
        return {name for part in (*data.keys(), *data.values()) for name in hub_names(part)}
    if isinstance(data, list):
        return {name for part in data for name in hub_names(part)}
    return {data} if isinstance(data, str) and _HUB.fullmatch(data) and Path(data).suffix not in _FILES else set()


def owned(hub: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of some hub names whose owner is one of the names."""
    own = _own(names)
    return sorted(name for name in hub if (match := _HUB.fullmatch(name)) and _plain(match[1]) in own)


def _own(names: Iterable[str]) -> set[str]:
    return {_plain(name) for name in names} - {""}


def _owner(match: re.Match[str]) -> str:
    return match["owner"] or match["page"]


def _plain(name: str) -> str:
    """Letters and digits: ``Jane Doe``, ``jane-doe`` and ``Jane\\_Doe`` are one owner."""
    return re.sub(r"[^a-z0-9]", "", name.replace(r"\allowbreak{}", "").lower())


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
    """Every command that names authors with its arguments replaced."""
    position = 0
    while match := _CREDIT.search(tex, position):
        end, name = _closed(tex, match.end()), match[1]
        arguments = ["Anonymous authors" if name in ("author", "icmlauthor") else MASK]
        for _ in range(_CREDITS[name] - 1):
            if opened := re.compile(r"\s*\{").match(tex, end):
                end = _closed(tex, opened.end())
                arguments.append(MASK)
        tex = f"{tex[: match.start()]}\\{name}{''.join(f'{{{a}}}' for a in arguments)}{tex[end:]}"
        position = match.start() + 1
    return tex


def _closed(tex: str, start: int) -> int:
    """Where the brace that was opened before ``start`` has been closed."""
    depth, end = 1, start
    while depth and end < len(tex):
        depth += 0 if tex[end - 1] == "\\" else {"{": 1, "}": -1}.get(tex[end], 0)
        end += 1
    return end


def has_comments(text: str, suffix: str) -> bool:
    """Whether a bibliography or a style tells something that is not printed."""
    if suffix == ".bib":
        return bool(re.search(r"^\s*%(?! (?:YOURS|GENERATED)\b)|@comment", text, re.MULTILINE | re.IGNORECASE))
    return suffix in {".sty", ".cls", ".bst", ".tikz"} and bool(re.search(r"(?<!\\)%.*\w", text))


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
