"""What a verb is at, on a terminal, while it has nothing else to say; elsewhere nothing, where the line would stay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def at_work(sentence: str) -> Iterator[Callable[[str], None]]:
    """Show the sentence until the block ends; what is given to the function takes its place."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(Text(sentence)) as status:
        yield lambda other: status.update(Text(other))
