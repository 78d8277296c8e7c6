"""What a study can name: every component with its options, and the studies that are shipped."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftlab.api.answers import Answer, lines, table
from peftlab.api.starting import shipped_studies
from peftlab.errors import OptionError, nearest
from peftlab.registry import PACKAGES, Component, components

STUDY = "study"


def list(kind: str | None = None) -> Answer:
    """Components by kind, with their options, defaults and meanings.

    Args:
        kind: a kind of component (``adapter``, ``task``, ...), ``study`` for the shipped studies, or the name of one component;
            None: everything.

    Raises:
        OptionError: neither a kind nor a component.
    """
    if kind == STUDY:
        return _studies()
    kinds = [kind] if kind in PACKAGES else PACKAGES
    found = {name: {key: describe(cls) for key, cls in _components(name).items()} for name in kinds}
    if kind is not None and kind not in PACKAGES:
        found = {name: {kind: entries[kind]} for name, entries in found.items() if kind in entries}
        if not found:
            known = {*PACKAGES, STUDY, *(key for name in PACKAGES for key in _components(name))}
            raise OptionError(f"neither a kind nor a component is called {kind!r}", where="list", remedy=nearest(kind, known))
        return Answer(found, lambda: lines(*_one(found)))
    if kind is None:
        return Answer({**found, STUDY: _study_entries()}, lambda: _overview(found))
    return Answer(found, lambda: _of_kind(kind, found[kind]))


def _components(kind: str) -> dict[str, type[Component]]:
    """Components of a kind; none where the package is not there (yet)."""
    package = PACKAGES[kind]
    parent, _, _ = package.rpartition(".")
    if find_spec(parent) is None or find_spec(package) is None:
        return {}
    return components(kind)


def describe(cls: type[Component]) -> dict[str, Any]:
    """Summary, options and source of one component, JSON-ready."""
    return {
        "summary": cls.summary(),
        "description": inspect.getdoc(cls) or "",
        "options": [*_options(cls)],
        "citation": cls.citation or None,
        "module": cls.__module__,
    }


def _options(cls: type[Component]) -> Iterator[dict[str, Any]]:
    meanings = _meanings(cls)
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if not field.init:
            continue
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        yield {
            "name": field.name,
            "type": field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type)),
            "required": required,
            "default": None if required else default,
            "meaning": meanings.get(field.name, ""),
        }


def _meanings(cls: type) -> dict[str, str]:
    """Field -> the ``#:`` comment at its line, or on the lines above it; classes that are inherited from come first."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            text = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        rows = text.splitlines()
        for node in ast.parse(text).body[0].body:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found |= {node.target.id: meaning} if (meaning := _comment(rows, node)) else {}
    return found


def _comment(rows: Sequence[str], node: ast.AnnAssign) -> str:
    for row in rows[node.lineno - 1 : node.end_lineno]:
        if "#:" in row:
            return row.split("#:", 1)[1].strip()
    above: tuple[str, ...] = ()
    for row in reversed(rows[: node.lineno - 1]):
        if not row.strip().startswith("#:"):
            break
        above = (row.strip().removeprefix("#:").strip(), *above)
    return " ".join(above)


def _default(option: Mapping[str, Any]) -> str:
    if option["required"]:
        return "(required)"
    value = option["default"]
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _overview(found: Mapping[str, Mapping[str, Any]]) -> Any:
    from rich.text import Text

    rows = []  # no annotation: the verb above is called ``list``
    for kind, entries in {**found, STUDY: _study_entries()}.items():
        if entries:
            rows += [
                (Text(kind, style="bold"), ""),
                *((f"  {name}", _shown(entry["summary"])) for name, entry in entries.items()),
            ]
    return lines(table(["kind and name", "what it is"], rows), "With options: peftlab list KIND, or peftlab list NAME")


def _shown(text: str) -> str:
    """As on a terminal: code is quoted once there, twice in docstrings."""
    return text.replace("``", "`")


def _of_kind(kind: str, entries: Mapping[str, Any]) -> Any:
    if not entries:
        return lines(f"There is no {kind} here.")
    rows = []
    for name, entry in entries.items():
        options = ", ".join(f"{option['name']}={_default(option)}" for option in entry["options"])
        rows.append((name, "\n".join(filter(None, (_shown(entry["summary"]), options, *sources(entry["citation"] or ""))))))
    head = [kind, "what it is, its options with their defaults, its source"]
    return lines(table(head, rows), "Types, meanings and BibTeX: peftlab list NAME")


def sources(bibtex: str) -> Iterator[str]:
    """Each entry as ``Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models``."""
    for entry in bibtex.split("@")[1:]:
        author, year, title = (_field(entry, name) for name in ("author", "year", "title"))
        names = [name.split(",")[0].strip() for name in author.split(" and ")]
        who = names[0] if len(names) == 1 else " & ".join(names) if len(names) == 2 else f"{names[0]} et al."
        yield f"{who} {year}, {title}"


def _field(entry: str, name: str) -> str:
    """A field of a BibTeX entry without its braces; they nest once here, as in ``{{LoRA}: Low-Rank ...}``."""
    found = re.search(rf"\b{name}\s*=\s*\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}", entry)
    return re.sub(r"[{}]|\\(?=&)", "", found[1]) if found else ""


def _one(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Any]:
    for kind, entries in found.items():
        for name, entry in entries.items():
            yield f"{kind} {name}"
            yield _shown(entry["description"])
            rows = [(o["name"], o["type"], _default(o), o["meaning"]) for o in entry["options"]]
            if rows:
                yield table(["option", "type", "default", "meaning"], rows)
            if entry["citation"]:
                yield entry["citation"]


def _study_entries() -> dict[str, dict[str, Any]]:
    from peftlab.study.expand import cells
    from peftlab.study.load import load_study

    found = {}
    for name, path in shipped_studies().items():
        study = load_study(path)
        found[name] = {
            "summary": study.question,
            "arms": [*dict.fromkeys(cell.label for cell in cells(study))],
            "seeds": len(study.seeds),
            "backbone": study.backbone,
            "source": study.source,
            "cost": study.cost,
            "file": Path(path),
        }
    return found


def _studies() -> Answer:
    entries = _study_entries()
    rows = [
        (name, len(entry["arms"]), entry["seeds"], f"{entry['summary']}\n{entry['cost']}".strip())
        for name, entry in entries.items()
    ]
    drawn = table(["study", "arms", "seeds", "its question, and what it takes"], rows, right=["arms", "seeds"])
    return Answer({STUDY: entries}, lambda: lines(drawn, "Take one: peftlab init study.yaml --template NAME"))
