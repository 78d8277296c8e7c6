"""Plain data from YAML 1.2 text (so ``1e-4`` is a number and ``no`` is a word); every mistake names its line and its key.

Data only: no code, no look-ups, no resolvers. Duplicate keys, aliases, tags and texts over 1 MB are refused.
"""

from __future__ import annotations

import io
import math
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from peftlab.errors import StudyError

MAX_BYTES = 1_000_000
MAX_DEPTH, MAX_EVENTS = 40, 50_000  #: nesting, and keys, values and brackets; a parser takes minutes for what needs more
IS_IT = "a study is a short file; is this the right one?"
#: what the parser says -> what that is, and what to do; ``{line}``: where what is not closed begins
_SAID = {
    r"found character '\\t'|found character '\t'": ("a tab where the line is indented", "indent with spaces"),
    r"expected ',' or '[\]}]'": (
        "a bracket that is not closed",
        "close it, put commas between values, and quote a text that holds brackets, as 'lora[rank=8]'",
    ),
    r"unexpected end of stream": ("a quote that is not closed", "close it"),
    r"mapping values are not allowed": (
        "a colon where none can be, or another indentation than that of its neighbours",
        "put text that holds a colon in quotes, and indent keys as their neighbours",
    ),
    r"could not find expected ':'": ("a key without its value", "write `key: value`, with a space after the colon"),
    r"expected <block end>": ("the line does not go on with what begins in line {line}", "indent it as its neighbours"),
    r"another document": ("a second document", "remove what follows the line ---"),
    r"that cannot start any token": ("text cannot begin with this letter", "put the text in quotes"),
    r"special characters are not allowed": ("a letter that cannot be seen", "remove it"),
}  # fmt: skip
_OPENED = r"expected ',' or|unexpected end of stream|could not find expected"


def parse_yaml(text: str, *, where: str = "") -> Any:
    """Mappings with words as keys, lists, text, finite numbers, true, false and null.

    Raises:
        StudyError: not YAML, duplicate keys, aliases, tags, too large; names the line.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise StudyError("the file is larger than 1 MB", where=where, remedy=IS_IT)
    reader = _Reader(text, where)
    try:
        reader.check_events()
        node = reader.yaml().compose(io.StringIO(text))
        return None if node is None else reader.value(node, "")
    except YAMLError as error:
        raise reader.explained(error) from error


class _Reader:
    """One text, and how its places are called."""

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where, self.lines = text, where, text.splitlines()
        self.constructor = self.yaml().constructor

    @staticmethod
    def yaml() -> YAML:
        made = YAML(typ="safe", pure=True)
        made.allow_duplicate_keys = False
        return made

    def wrong(self, what: str, remedy: str, line: int | None = None, path: str = "") -> StudyError:
        place = f"{self.where}:{line}" if line is not None and len(self.lines) > 1 else self.where
        return StudyError(what, where=f"{place}: {path}" if path else place, remedy=remedy)

    def check_events(self) -> None:
        """What is refused is refused before anything is made of it."""
        depth = count = 0
        for event in self.yaml().parse(io.StringIO(self.text)):
            kind, count = type(event).__name__, count + 1
            depth += kind.endswith(("MappingStartEvent", "SequenceStartEvent"))
            depth -= kind.endswith(("MappingEndEvent", "SequenceEndEvent"))
            if depth > MAX_DEPTH or count > MAX_EVENTS:
                what = f"more than {MAX_DEPTH} levels" if depth > MAX_DEPTH else f"more than {MAX_EVENTS:,} values"
                raise self.wrong(f"the file has {what}", IS_IT)
            line = event.start_mark.line + 1
            if kind == "AliasEvent":
                raise self.wrong(f"YAML aliases (*{event.anchor}) are not allowed", "write out what it stands for", line)
            if (tag := str(getattr(event, "ctag", None) or "")).strip():  # !!binary, !!set, !python/...: data need none
                tag = tag.replace("tag:yaml.org,2002:", "!!")
                raise self.wrong(f"YAML tags ({tag}) are not allowed", "write a plain value; a study includes nothing", line)

    def value(self, node: Node, path: str) -> Any:
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, f"{path}.{number}") for number, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self.scalar(node, path)

    def mapping(self, node: MappingNode, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name, item in node.value:
            line = name.start_mark.line + 1
            key = self.scalar(name, path) if isinstance(name, ScalarNode) else None
            if not isinstance(key, str):
                shown = f" {name.value or 'null'}" if isinstance(name, ScalarNode) else " of several values"
                remedy = "put it in quotes if it is meant; in a number write a point, not a comma"
                raise self.wrong(f"the key{shown} is not text", remedy, line, path)
            if key in found:
                what = f"duplicate key {key!r}, which is in line {lines[key]} already"
                raise self.wrong(f"not valid YAML: {what}", "keep one of the two", line, path)
            lines[key], found[key] = line, self.value(item, f"{path}.{key}" if path else key)
        return found

    def scalar(self, node: ScalarNode, path: str) -> Any:
        line = node.start_mark.line + 1
        try:
            value = self.constructor.construct_object(node, deep=True)
            if isinstance(value, str):
                value.encode()
        except UnicodeEncodeError as error:  # a lone surrogate, "\ud800"
            raise self.wrong("not valid YAML: half a letter, a lone surrogate", "write the whole letter", line, path) from error
        except ValueError as error:
            raise self.wrong(f"not valid YAML: {node.value[:20]} ... is no number", "mend or quote it", line, path) from error
        if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, float):
            raise self.wrong(f"{node.value} is not a finite number", "give a finite number", line, path)
        remedy = "put it in quotes if it is text"
        raise self.wrong(f"{node.value}, a {type(value).__name__}, is neither text nor a number", remedy, line, path)

    def explained(self, error: YAMLError) -> StudyError:
        """In the words of somebody who has written a file, not a parser."""
        mark, opened = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
        problem = str(getattr(error, "problem", None) or str(error).partition("\n")[0])
        found = (said for pattern, said in _SAID.items() if re.search(pattern, problem))
        what, remedy = next(found, (problem, "mend the line named here"))
        what = what.replace("{line}", str(opened.line + 1) if opened is not None else "?")
        if opened is not None and re.search(_OPENED, problem):
            mark = opened  # where the mistake is; the parser finds it lines later
        line = None if mark is None else min(mark.line + 1, max(len(self.lines), 1))
        shown = self.lines[line - 1].strip(" ").replace("\t", "\\t") if line is not None and self.lines else ""
        about = f" (`{shown[:50]}{' ...' if len(shown) > 50 else ''}`)" if shown else ""
        return self.wrong(f"not valid YAML: {what}{about}", remedy, line)
