"""Tables cut no word at any width; where columns do not fit, rows become blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from peftlab.api._fitted_table import fit
from peftlab.api.answers import table

COLUMNS = ["arm", "n", "run", "detail"]
ROWS = [
    ["lora[rank=32,targets=q,v]", 5, "07edf39f971b6159", "the device ran out of memory in step 7, and nothing was lost"],
    ["tuning: full", 12345, "a2cf5f78fdb7b1f0", None],
]


def drawn(width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as shown:
        console.print(table(COLUMNS, ROWS, title="What ran", right=["n"]), highlight=False)
    return shown.get()


@pytest.mark.parametrize("width", [30, 40, 60, 61, 80, 200])
def test_no_word_is_cut_and_no_line_is_too_long(width: int) -> None:
    shown = drawn(width)
    assert max(map(len, shown.splitlines())) <= width
    words = {word for row in ROWS for cell in row if isinstance(cell, str) for word in cell.split()} | {"12,345", "What"}
    assert words <= set(shown.split())


def test_columns_where_they_fit_and_blocks_where_not() -> None:
    assert "─" in drawn(80) and "─" not in drawn(40)
    assert "arm: tuning: full\n  n: 12,345\n  run: a2cf5f78fdb7b1f0\n" in drawn(40)
    assert "detail: \n" not in drawn(40)  # an empty cell is no line


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 60)), min_size=1, max_size=8), st.integers(0, 200))
def test_widths_fill_the_room_and_keep_words(columns: list[tuple[int, int]], spare: int) -> None:
    least, natural = [low for low, _ in columns], [low + more for low, more in columns]
    room = sum(least) + spare
    widths = fit(least, natural, room)
    assert all(low <= width <= high for low, width, high in zip(least, widths, natural, strict=True))
    assert sum(widths) == min(room, sum(natural))


def test_a_single_word_wider_than_the_line_is_folded() -> None:
    assert fit([50], [50], 20) == [20]
