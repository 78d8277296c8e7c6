"""What the pages for readers hold: command lines of peftlab, studies and parts of studies, paths of the repository."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[1]
#: the scorecard and the structure pages are written by tools; the scorecard's commands are run by one
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.name != "scorecard.md" and "structure" not in path.parts
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_FENCE = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*python -m )?peftlab(?: (.*))?$")
#: ``recipes/vit_nano/``, ``tests/api/test_texts.py::test_x``, ``studies/*.yaml``, ``tests/tasks/test_<task>.py``
_PATH = re.compile(r"(?<![\w./$}>~-])((?:src|tests|benchmarks|studies|tools|recipes|docs|notebooks)/[\w./*{},<>-]*[\w/*}])")
_MODULE = re.compile(r"`((?:\w+/)+\w+\.py)\b")


def fences(page: Path, *languages: str) -> list[str]:
    """The blocks of a page in these languages."""
    return [block for language, block in _FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """(words after ``peftlab``, whether a line to be typed: in a block and not in a sentence) of every command line."""
    text = page.read_text(encoding="utf-8")
    for block in [*fences(page, "bash", "sh", "console", ""), *re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)]:
        for line in block.replace("\\\n", " ").splitlines():
            yield from ((words, True) for words in _words(line.strip()))
    for span in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)):
        yield from ((words, False) for words in _words(span.replace("\\|", "|")))


def _words(line: str) -> Iterator[list[str]]:
    """Words of a line of the shell; of ``peftlab a && peftlab b`` both; without what the shell itself reads."""
    for part in re.split(r" && | \| |; ", line.split(" #")[0]):
        if match := _COMMAND.match(re.sub(r" &$| >>? ?\S+$", "", part.strip())):
            yield shlex.split(match[1] or "")


def misread(program: Any, words: list[str], typed: bool) -> str:
    """What the parser says against a command line. A sentence may leave out an argument (``peftlab export --merged``)."""
    words = [word for word in words if word != "--debug"]
    if words and words[0] not in (*program.commands, "--help", "--version"):
        return f"there is no verb {words[0]!r}"
    if not words or {"-h", "--help", "--version"} & {*words}:
        return ""
    try:
        program.commands[words[0]].make_context(words[0], words[1:])
    except typer.TyperException as error:
        left_out = type(error).__name__ == "MissingParameter" and not typed  # typer does not export the class
        return "" if left_out else str(error)
    return ""


def options(page: Path) -> list[str]:
    """Options that a page names by themselves: ``--jobs``, ``--jobs N``."""
    return re.findall(r"`(--[a-z][a-z-]+)[^`\n]*`", _FENCE.sub("", page.read_text(encoding="utf-8")))


@cache
def scripts_options() -> frozenset[str]:
    """Options of the scripts of the repository."""
    scripts = (script for folder in ("benchmarks", "tools", "recipes", "tests") for script in (ROOT / folder).rglob("*.py"))
    return frozenset(found for script in scripts for found in re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))


def paths(page: Path) -> list[str]:
    """Files and folders of the repository that a page names."""
    text = page.read_text(encoding="utf-8")
    return [*_PATH.findall(text), *_MODULE.findall(text)]


def is_there(name: str, page: Path) -> bool:
    """Whether a path exists in the repository, the package, its tests or beside the page; ``*``, capitals, ``{a,b}``: any."""
    pattern = re.sub(r"\{[^}]*\}|<\w+>|(?<![a-z])[A-Z]{2,}(?:_[A-Z]+)*(?![a-z])", "*", name).rstrip("/")
    places = (ROOT, ROOT / "src" / "peftlab", ROOT / "tests", page.parent)
    return any(next(place.glob(pattern), None) is not None for place in places)
