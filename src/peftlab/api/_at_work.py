"""What a verb is at, on a terminal, while it has nothing else to say; elsewhere nothing, where the line would stay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def at_work(sentence: str) -> Iterator[Callable[[str], None]]:
    """Show the sentence until the block ends; what is given to the function takes its place."""
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    def shown(words: str) -> Spinner:
        return Spinner("dots", Text(words))

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with Live(shown(sentence), console=console, refresh_per_second=12.5, transient=True) as live:
        yield lambda other: live.update(shown(other), refresh=True)
