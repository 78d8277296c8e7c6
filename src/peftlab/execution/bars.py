"""An execution on a terminal: bars of all runs and of each, and what ended above them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from peftlab.execution.memory_guard import Shortage
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.progress import (
    JsonListener,
    Listener,
    NullListener,
    PlainListener,
    ending_text,
    is_new,
    metrics_text,
    moved_text,
    stopping_text,
    summary,
)
from peftlab.execution.protocol import Evaluated, Message, Moved, Noted, Started, Step
from peftlab.execution.run_names import bar_name, run_name
from peftlab.execution.silence import Silence
from peftlab.records.record import RunConfig


class _Yielding(TextColumn):
    """Text that ends in dots where the line is too short for all: figures and times beside it stay whole."""

    def __init__(self, text: str) -> None:
        super().__init__(text, table_column=Column())  # the default column does not give way

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class RichListener(NullListener):
    """A bar for all runs and one for every run in progress; what ended stands above them."""

    def __init__(self, console: Console | None = None, what: str = "") -> None:
        wide = console is None or console.width >= 110
        columns = (
            _Yielding("{task.description}"),
            BarColumn(bar_width=24 if wide else 8, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _Yielding("{task.fields[note]}"),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
        )
        self.progress = Progress(*columns, console=console, speed_estimate_period=600)
        self.what = what or "study"
        self.study: TaskID | None = None
        self.bars: dict[str, TaskID] = {}
        self.noted: set[str] = set()

    def begin(self, total: int, jobs: int) -> None:
        self.study = self.progress.add_task(f"[bold]{escape(self.what)}[/bold]", total=total, note="")
        self.progress.start()

    def message(self, config: RunConfig, message: Message) -> None:
        if isinstance(message, Started):
            note = f"from step {message.step}" if message.step else ""
            self._bar(config, completed=message.step, total=message.total or None, note=note)
        elif isinstance(message, Step):
            loss = "not finite" if message.loss is None else f"{message.loss:.4f}"
            self._bar(config, completed=message.step, total=message.total or None, note=f"loss {loss}")
        elif isinstance(message, Evaluated):
            self._bar(config, note=escape(metrics_text(message, most=1)))  # all of them would leave no room for whose they are
        elif isinstance(message, Moved):
            self._warn(f"{run_name(config)}: {moved_text(message)}")
        elif isinstance(message, Noted) and is_new(message.what, self.noted):
            self._warn(f"{run_name(config)}: {message.what}")

    def silent(self, silence: Silence) -> None:
        self._warn(f"{run_name(silence.config)}: {silence.sentence()}")

    def waiting(self, shortage: Shortage) -> None:
        self._warn(f"{run_name(shortage.config)}: {shortage.sentence()}")

    def _warn(self, text: str) -> None:
        self.progress.console.print(f"[yellow]{escape(text)}[/yellow]", highlight=False)

    def ended(self, ending: Ending) -> None:
        bar = self.bars.pop(_key(ending.config), None)
        if bar is not None:
            self.progress.remove_task(bar)
        if self.study is not None:
            self.progress.advance(self.study)
        style = {"failed": "red", "failed-before": "red", "diverged": "yellow", "finished": "green"}.get(ending.how, "dim")
        self.progress.console.print(f"[{style}]{escape(ending_text(ending))}[/{style}]", highlight=False)

    def stopping(self, number: int, now: bool) -> None:
        self._warn(stopping_text(now))

    def close(self, outcome: Outcome) -> None:
        self.progress.stop()
        self.progress.console.print(summary(outcome), highlight=False)

    def _bar(self, config: RunConfig, **values: Any) -> None:
        key = _key(config)
        if key not in self.bars:
            self.bars[key] = self.progress.add_task(escape(bar_name(config)), total=None, note="")
        self.progress.update(self.bars[key], **values)


def listener_for(console: Console, what: str = "", *, as_json: bool = False) -> Listener:
    """Bars where ``console`` is a terminal, plain lines elsewhere, JSON lines where asked for; ``what`` all runs together are."""
    if as_json:
        return JsonListener(console.file)
    return RichListener(console, what) if console.is_terminal else PlainListener(console.file, what)


def _key(config: RunConfig) -> str:
    return f"{config.purpose}/{config.slug}/{config.run_id}"
