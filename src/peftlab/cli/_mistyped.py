"""Command lines that cannot be parsed, in the form of every other error: what, where, what to do."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from peftlab.errors import StudyError

#: what the parser raises; typer carries its parser with it, and names only this class in public
_USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # pyright: ignore


TYPED = "peftlab.typed"  #: in the context: the words of the command line


class Verbs(TyperGroup):
    """The group of all verbs."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **options: Any) -> Any:
        typed = [*args]  # the parser empties its list
        with _in_our_words(typed):
            context = super().make_context(info_name, args, *rest, **options)
        context.meta[TYPED] = typed
        return context

    def invoke(self, ctx: Any) -> Any:
        with _in_our_words(ctx.meta.get(TYPED, ()), ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _in_our_words(typed: Sequence[str], group: Any = None) -> Iterator[None]:
    try:
        yield
    except _USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `peftlab` alone shows the help
            raise
        raise _explained(error, typed, group) from error


def _explained(error: Any, typed: Sequence[str], group: Any) -> StudyError:
    context = error.ctx
    command = context.command_path if context is not None else "peftlab"
    if context is None and group is not None and group.invoked_subcommand:  # the parser of a verb does not say which it is
        command = f"{command} {group.invoked_subcommand}"
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
    if context is not None and (found := _out_of_place(str(error.message), typed, context.command.params)):
        return StudyError(found[0], where=found[1], remedy=f"{found[2]}; {help_line}")
    if override := _override(error, typed):
        remedy = f"it is a key of the study: {override}; {help_line}"
        return StudyError(f"no such option: {error.option_name}", where=command, remedy=remedy)
    what = str(error.message if place else error.format_message()).rstrip(".")
    return StudyError(what[:1].lower() + what[1:], where=place or command, remedy=help_line)


def _override(error: Any, typed: Sequence[str]) -> str | None:
    """The ``--set`` that was meant by an option which is none, where it is called like a key of the study."""
    if type(error).__name__ != "NoSuchOption" or not any("--set" in option.opts for option in error.ctx.command.params):
        return None
    from peftlab.study.as_option import override_of

    place = next((i for i, word in enumerate(typed) if word.partition("=")[0] == error.option_name), None)
    if place is None:  # of letters that stand behind one dash, each is an option
        return None
    _, assigned, value = typed[place].partition("=")
    behind = itertools.takewhile(lambda word: not word.startswith("-"), typed[place + 1 :])
    return override_of(error.option_name, [value] if assigned else [*behind])


def _out_of_place(message: str, typed: Sequence[str], options: Sequence[Any]) -> tuple[str, str, str] | None:
    """(what, where, what to do) of an argument too many that stands behind an option as if it were its value."""
    extra = re.search(r"unexpected extra argument\S* \((.*)\)", message)
    words = extra[1].split() if extra else []
    if not words or words[0] not in typed:
        return None
    place = typed.index(words[0])
    before, earlier = typed[place - 1] if place else "", typed[place - 2] if place > 1 else ""
    if earlier == "--set" and "=" in before:  # a shell makes several words of `a={b,c}`, and cuts a value at spaces
        key = before.partition("=")[0]
        return "an override is one word, key=value", f"--set {before}", f"quote what a shell takes apart: --set '{key}=VALUE'"
    if earlier == "--set":  # a shell cuts at spaces
        value = " ".join(words).removeprefix("=").strip() or "VALUE"
        return "an override is one word, key=value", f"--set {before}", f"write it without spaces: --set {before}={value}"
    flag = next(
        (option for option in options if before in (*option.opts, *option.secondary_opts) and getattr(option, "is_flag", False)),
        None,
    )
    if flag is None:
        return None
    meaning = str(flag.help).rstrip(".")
    return f"takes no value, and {words[0]!r} stands behind it", before, f"leave it out ({before}: {meaning})"
