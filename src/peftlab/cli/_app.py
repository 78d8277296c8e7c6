"""What all verbs share: the program, the arguments that several of them take, and how an answer is shown.

A function of :mod:`peftlab.api` returns an answer: ``as_dict()`` gives what ``--json`` prints, ``table()`` what a person reads
(anything for rich), ``exit_code`` (0 if absent) what the process returns.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from peftlab.cli._mistyped import Verbs


class Answer(Protocol):
    """What a function of the api returns."""

    def as_dict(self) -> dict[str, Any]: ...

    def table(self) -> Any: ...


app = typer.Typer(
    name="peftlab",
    cls=Verbs,
    help="Find out which parameter-efficient fine-tuning method suits your model, data and hardware.",
    epilog="Start with: peftlab init study.yaml, then peftlab plan study.yaml, then peftlab run study.yaml.",
    rich_markup_mode=None,  # plain help: a quarter of the start-up time
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (YAML).")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The study's results, e.g. results/digits.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study, e.g. train.epochs=1. Repeatable."),
]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="ARM", help="Only this arm (name or label). Repeatable.")]
MaxRuns = Annotated[int | None, typer.Option("--max-runs", min=1, help="At most this many evaluation runs and their tuning.")]
PrefixCache = Annotated[
    bool,
    typer.Option(" /--no-prefix-cache", help="Compute the frozen part of the backbone anew in every run.", show_default=False),
]
FusedLayers = Annotated[
    bool,
    typer.Option(
        " /--no-fused", help="Compute all as the libraries do: base and update apart, unread rows too.", show_default=False
    ),
]
Stack = Annotated[str, typer.Option("--stack", metavar="off|auto|N", help="Runs that share a process and are computed together.")]
Compile = Annotated[str, typer.Option("--compile", metavar="off|auto|on", help="Compile training steps; auto: where it pays.")]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="What computes; auto: a GPU, Apple's, or the processor.")
]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the study's folder of results is made.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RESULTS = Path("results")


def _version(asked: bool) -> None:
    if asked:
        from peftlab import __version__

        typer.echo(f"peftlab {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
) -> None:
    """Find out which parameter-efficient fine-tuning method suits your model, data and hardware."""


def refuse(options: dict[str, str | None], why: str) -> None:
    """Options that would have no effect are errors."""
    for option, value in options.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=option)


def show(answer: Answer, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(answer.as_dict(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        from rich.console import Console

        Console(soft_wrap=not sys.stdout.isatty()).print(answer.table(), highlight=False)
    code = getattr(answer, "exit_code", 0)
    if code:
        raise typer.Exit(code)
