"""The structure of the source, read from its imports: the picture in docs/structure, one sentence for every file, circles.

    python tools/structure.py --check                       # imports that run in a circle, files without a sentence: exit code 1
    python tools/structure.py --picture docs/structure/now.png
    python tools/structure.py --source OTHER/src/peftlab --picture docs/structure/before.png    # of another checkout
    python tools/structure.py --files                       # the page "Every file", as mkdocs makes it

mkdocs calls :func:`on_files` when it builds the documentation, so the page of files is always that of the code.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import dataclasses
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "peftlab"
LAYERS = ROOT / ".importlinter"
#: what stands in one line of the picture
_WIDTH = 7.6
_INK, _FADED, _LINE, _RED, _FILL = "#1d2733", "#5b6875", "#b9c3cd", "#c0392b", ("#eef2f6", "#dfe7ee")


@dataclasses.dataclass(frozen=True, slots=True)
class Code:
    """The files of a package and who imports whom."""

    files: Mapping[str, Path]  #: dotted name -> file
    imports: Mapping[str, frozenset[str]]  #: dotted name -> dotted names; those within functions and for types count as well

    @classmethod
    def read(cls, source: Path) -> Code:
        found: dict[str, Path] = {}
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
        return cls(found, {name: frozenset(_imported(path, found) - {name}) for name, path in found.items()})

    def sentence(self, name: str) -> str:
        """The first sentence of a file's docstring, on one line; empty where it has none."""
        said = ast.get_docstring(ast.parse(self.files[name].read_text(encoding="utf-8"))) or ""
        return " ".join(said.split("\n\n")[0].split())

    def folder(self, name: str) -> str:
        """The package that a file lies in; the file itself where it lies at the top."""
        parts = name.split(".")
        return parts[1] if len(parts) > 1 else name

    def between_folders(self) -> dict[tuple[str, str], int]:
        """(from, to) -> number of imports, for folders directly below the root."""
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for name, others in self.imports.items():
            for other in others:
                pair = self.folder(name), self.folder(other)
                counts[pair] += pair[0] != pair[1]
        root = next(iter(self.files)).split(".")[0]
        return {pair: count for pair, count in counts.items() if count and root not in pair}


def _imported(path: Path, known: Mapping[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {whole if (whole := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known.keys()


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that all lead to one another: strongly connected components of two and more (Tarjan 1972), sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            group = sorted(stack[cut:])
            del stack[cut:]
            if len(group) > 1:
                found.append(group)

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return sorted(found)


def complaints(code: Code) -> list[str]:
    """What is wrong with the structure, one line each."""
    folders: dict[str, set[str]] = defaultdict(set)
    for a, b in code.between_folders():
        folders[a].add(b)
    said = [f"these files import one another in a circle: {', '.join(group)}" for group in circles(code.imports)]
    said += [f"these folders import one another in a circle: {', '.join(group)}" for group in circles(folders)]
    return said + [f"{name} does not say in a docstring what it is for" for name in code.files if not code.sentence(name)]


def layers(path: Path = LAYERS) -> list[list[str]]:
    """The layers of .importlinter, top to bottom, each with its folders."""
    config = configparser.ConfigParser()
    config.read(path, encoding="utf-8")
    lines = config["importlinter:contract:layers"]["layers"].split("\n")
    return [[name.strip() for name in line.replace("|", ":").split(":")] for line in lines if line.strip()]


def files_page(code: Code) -> str:
    """Markdown: every file with its sentence, by layer."""
    lines = [
        "# Every file",
        "",
        "What each file is for, in its own words, top to bottom. Made from the docstrings when this page is built.",
        "",
    ]
    for names in layers():
        for folder in names:
            inside = [name for name in code.files if code.folder(name) == folder and code.sentence(name)]
            if not inside:
                continue
            lines += [f"## {folder}", "", "| file | for |", "|---|---|"]
            for name in inside:
                place = code.files[name].relative_to(SOURCE).as_posix()
                lines.append(f"| `{place}` | {code.sentence(name).replace('|', chr(92) + '|')} |")
            lines.append("")
    return "\n".join(lines)


def on_files(files: Any, config: Any) -> Any:
    """mkdocs' hook: the page of files is made, and lies in no folder."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "structure/files.md", content=files_page(Code.read(SOURCE))))
    return files


def draw(code: Code, target: Path) -> None:
    """The picture: a line for every layer, a box for every folder, an arrow for every import between neighbours' folders."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arrows, order = (
        code.between_folders(),
        [[n for n in names if any(code.folder(f) == n for f in code.files)] for names in layers()],
    )
    order = [names for names in order if names]
    graph: dict[str, set[str]] = defaultdict(set)
    for a, b in arrows:
        graph[a].add(b)
    caught = {name: group for group in map(frozenset, circles(graph)) for name in group}
    figure, axes = plt.subplots(figsize=(10.2, 0.72 * len(order) + 0.5))
    centre: dict[str, tuple[float, float, float]] = {}
    for row, names in enumerate(order):
        y, width = float(len(order) - row), min(2.6, (_WIDTH - 0.12 * (len(names) - 1)) / len(names))
        left = (_WIDTH - width * len(names) - 0.12 * (len(names) - 1)) / 2
        for i, name in enumerate(names):
            _box(axes, code, name, (left + i * (width + 0.12), y, width), name in caught, row)
            centre[name] = (left + i * (width + 0.12) + width / 2, y, width)
    rows = {name: row for row, names in enumerate(order) for name in names}
    for (a, b), count in sorted(arrows.items()):
        if a in rows and b in rows:
            _arrow(axes, centre[a], centre[b], count, rows[b] - rows[a], caught.get(a) is not None and b in caught.get(a, ()))
    for row, names in enumerate(order):
        further: dict[str, int] = defaultdict(int)
        for (a, b), count in arrows.items():
            if a in names and rows.get(b, 0) > row + 1:
                further[b] += count
        words = ", ".join(name for name, _ in sorted(further.items(), key=lambda item: (rows[item[0]], item[0])))
        axes.text(_WIDTH + 0.15, len(order) - row, textwrap.fill(words, 34), va="center", fontsize=6.5, color=_FADED)
    axes.text(_WIDTH + 0.15, len(order) + 0.5, "and further down", va="center", fontsize=6.5, color=_INK, style="italic")
    axes.set_xlim(-0.1, _WIDTH + 2.3)
    axes.set_ylim(0.3, len(order) + 0.65)
    axes.axis("off")
    total = sum(_lines(path) for path in code.files.values())
    note = "an arrow: imports of the next layer or of neighbours, wider for more; red: in a circle"
    axes.text(
        _WIDTH / 2,
        0.32,
        f"{len(code.files)} files, {total:,} lines; {note}",
        ha="center",
        va="bottom",
        fontsize=7.5,
        color=_FADED,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=140, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(figure)


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _box(axes: Any, code: Code, name: str, place: tuple[float, float, float], caught: bool, row: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y, width = place
    inside = [path for file, path in code.files.items() if code.folder(file) == name]
    shape = FancyBboxPatch(
        (x + 0.03, y - 0.27), width - 0.06, 0.54, boxstyle="round,pad=0.0,rounding_size=0.06",
        facecolor=_FILL[row % 2], edgecolor=_RED if caught else _LINE, linewidth=1.4 if caught else 0.8, zorder=3,
    )  # fmt: skip
    axes.add_patch(shape)
    small = width < 1.2
    axes.text(
        x + width / 2,
        y + 0.11,
        name,
        ha="center",
        va="center",
        fontsize=7.4 if small else 9.5,
        color=_INK,
        zorder=4,
        weight="bold",
    )
    files = f"{len(inside)} files, " if len(inside) > 1 else ""
    words = f"{files}{sum(map(_lines, inside)):,} lines".replace(", ", "\n" if small and files else ", ", 1)
    axes.text(
        x + width / 2,
        y - 0.12,
        words,
        ha="center",
        va="center",
        fontsize=5.4 if small else 7,
        color=_FADED,
        zorder=4,
        linespacing=0.95,
    )


def _arrow(axes: Any, start: Sequence[float], end: Sequence[float], count: int, down: int, caught: bool) -> None:
    """Straight down to the next layer, round the boxes within one; further down there are too many to be seen."""
    from matplotlib.patches import FancyArrowPatch

    if down not in (0, 1):
        return
    (xa, ya, _), (xb, yb, _) = start, end
    bend = "arc3,rad=0" if down else f"arc3,rad={0.22 if xb > xa else -0.22}"
    where = ((xa, ya - 0.27), (xb, yb + 0.27)) if down else ((xa, ya - 0.27), (xb, yb - 0.27))
    shape = FancyArrowPatch(
        *where, arrowstyle="-|>", mutation_scale=7, connectionstyle=bend, linewidth=0.5 + min(2.0, count / 18),
        color=_RED if caught else _FADED, alpha=0.9 if caught else 0.55, zorder=2, shrinkA=0, shrinkB=0,
    )  # fmt: skip
    axes.add_patch(shape)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--files", action="store_true")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args(arguments)
    code = Code.read(asked.source)
    if asked.files:
        print(files_page(code))
    if asked.picture:
        draw(code, asked.picture)
    said = complaints(code) if asked.check else []
    print(*said, sep="\n", end="\n" if said else "")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
