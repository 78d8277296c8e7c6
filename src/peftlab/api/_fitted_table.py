"""A table that cuts no word: columns as wide as their longest word; where these do not fit, a block of lines for each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

GAP = 2  #: characters between two columns
EDGES = 2  #: characters at the two ends of a line


class FittedTable:
    """Drawn for the width that there is. rich alone shrinks all columns alike, and so folds ids and labels in the middle.

    Args:
        columns: headings.
        rows: a text per column.
        title: a line above.
        right: headings of the columns that are set flush right.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Text]], *, title: str, right: frozenset[str]) -> None:
        self.columns, self.rows, self.title, self.right = columns, rows, title, right

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        words = [self._widest(i, lines=False) for i in range(len(self.columns))]
        room = options.max_width - EDGES - GAP * (len(words) - 1)
        if sum(words) <= room or len(words) == 1:
            yield self._columns(fit(words, [self._widest(i, lines=True) for i in range(len(words))], room))
        else:
            yield from self._blocks()

    def _widest(self, column: int, *, lines: bool) -> int:
        """Characters of the longest line, or of the longest word, in a column."""
        from rich.cells import cell_len

        texts = [self.columns[column], *(row[column].plain for row in self.rows)]
        return max(cell_len(part) for text in texts for part in (text.splitlines() if lines else text.split()) or [""])

    def _columns(self, widths: Sequence[int]) -> RenderableType:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        title = Text(self.title) if self.title else None
        drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for column, width in zip(self.columns, widths, strict=True):
            justify = "right" if column in self.right else "left"
            drawn.add_column(Text(column), justify=justify, overflow="fold", width=width)
        for row in self.rows:
            drawn.add_row(*row)
        return drawn

    def _blocks(self) -> Iterator[RenderableType]:
        from rich.padding import Padding
        from rich.text import Text

        if self.title:
            yield Text(self.title)
        for row in self.rows:
            yield Text("")
            shown = [(name, cell) for name, cell in zip(self.columns, row, strict=True) if cell.plain]
            for place, (name, cell) in enumerate(shown):
                text = Text.assemble(f"{name}: " if name else "", cell, overflow="fold")
                yield Padding(text, (0, 0, 0, 2), expand=False) if place else text
        yield Text("")


def fit(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Widths that add up to ``room`` at most: the widest columns give way first, none below what it needs at least."""
    cap = max(natural)
    while (widths := [max(low, min(high, cap)) for low, high in zip(least, natural, strict=True)]) and sum(widths) > room:
        if cap <= 1:
            return [min(width, max(1, room)) for width in widths]
        cap -= 1
    for place, high in enumerate(natural):  # what rounding left over
        widths[place] += max(0, min(high - widths[place], room - sum(widths)))
    return widths
