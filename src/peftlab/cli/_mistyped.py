"""Command lines that cannot be parsed, in the form of every other error: what, where, what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from peftlab.errors import StudyError

#: what the parser raises; typer carries its parser with it, and names only this class in public
_USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # pyright: ignore


class Verbs(TyperGroup):
    """The group of all verbs."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _in_our_words():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _in_our_words():
            return super().invoke(ctx)


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except _USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `peftlab` alone shows the help
            raise
        raise _explained(error) from error


def _explained(error: Any) -> StudyError:
    context = error.ctx
    command = context.command_path if context is not None else "peftlab"
    option = getattr(error, "param_hint", None) or (hint.get_error_hint() if (hint := getattr(error, "param", None)) else "")
    place = str(option).replace("'", "").split(" / ")[0]
    help_line = f"see {command} --help"
    failed = error.__cause__
    if hasattr(failed, "errors"):  # a value of the wrong type or range
        from peftlab import mistakes

        what, remedy = mistakes.of_value(failed.errors())
        return StudyError(what, where=place, remedy=f"{remedy}; {help_line}")
    if type(error).__name__ == "MissingParameter":
        return StudyError("is missing", where=f"{command} {place}", remedy=help_line)
    what = str(error.message if place else error.format_message()).rstrip(".")
    return StudyError(what[:1].lower() + what[1:], where=place or command, remedy=help_line)
