"""The command line: verbs only, no logic. Each verb calls the function of :mod:`peftlab.api` that bears its name.

Progress goes to standard error, answers go to standard output. The api is imported inside the verbs, so that ``--help`` stays
quick.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from typing import Any

import typer

from peftlab.cli import experiments, findings, models  # the order of ``--help``
from peftlab.cli._app import app
from peftlab.errors import PeftlabError

__all__ = ["EXIT_BUG", "EXIT_INTERRUPTED", "EXIT_TERMINATED", "app", "experiments", "findings", "main", "models"]

EXIT_BUG = 70
EXIT_TERMINATED = 75
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; every error on purpose becomes three lines and its own exit code (see :mod:`peftlab.errors`)."""
    debug = "--debug" in sys.argv[1:]
    atexit.register(gc.freeze)  # a last collection would look at every object of torch for nothing: over a second
    before = signal.signal(signal.SIGTERM, _terminated)  # while runs are executed, execution/processes.py has handlers of its own
    try:
        app(args=[argument for argument in sys.argv[1:] if argument != "--debug"], prog_name="peftlab")
    except PeftlabError as error:
        if debug:
            _traceback()
        _explain(error)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            typer.echo("interrupted; the same command continues where it stopped", err=True)
        raise
    except Exception as error:
        _traceback()
        _explain(
            PeftlabError(
                f"{type(error).__name__}: {error}",
                where="an error that peftlab did not expect",
                remedy="nothing finished is lost; please report it with the lines above",
            )
        )
        sys.exit(EXIT_BUG)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(_number: int, _frame: Any) -> None:
    """SIGTERM ends a verb as Ctrl-C does: through every ``finally``, with a word on how to go on."""
    raise SystemExit(EXIT_TERMINATED)


def _explain(error: PeftlabError) -> None:
    from rich.console import Console
    from rich.text import Text

    from peftlab.records.redact import redact

    text = Text()
    text.append("error ", style="bold red")
    if error.where:
        text.append(redact(error.where), style="bold").append(": ")
    text.append(redact(error.what))
    if error.remedy:
        text.append("\n   -> ", style="green").append(redact(error.remedy))
    Console(stderr=True, soft_wrap=True).print(text, highlight=False)


def _traceback() -> None:
    import traceback

    from peftlab.records.redact import redact

    typer.echo(redact(traceback.format_exc()), err=True)
