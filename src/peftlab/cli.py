"""The command line: verbs only, no logic. Each verb calls the function of :mod:`peftlab.api` that bears its name.

A function returns an answer: ``as_dict()`` gives what ``--json`` prints, ``table()`` what a person reads (anything for rich),
``exit_code`` (0 if absent) what the process returns. Progress goes to standard error, answers go to standard output.
The api is imported inside the verbs, so that ``--help`` stays quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import typer

from peftlab.errors import PeftlabError

EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class Answer(Protocol):
    """What a function of the api returns."""

    def as_dict(self) -> dict[str, Any]: ...

    def table(self) -> Any: ...


app = typer.Typer(
    name="peftlab",
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
    bool, typer.Option(" /--no-prefix-cache", help="Compute the frozen part of the backbone anew in every run.")
]
FusedLayers = Annotated[
    bool, typer.Option(" /--no-fused", help="Compute base and update of adapted layers apart, as the libraries do.")
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


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The study file to write.")] = Path("study.yaml"),
    template: Annotated[str, typer.Option(help="The shipped study to start from.")] = "digits",
) -> None:
    """Write a first study file."""
    from peftlab import api

    _show(api.init(path, template=template), as_json=False)


@app.command(name="list")
def list_components(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="adapter, allocator, quantizer, task, ...")] = None,
    as_json: Json = False,
) -> None:
    """Show what a study can name, with every option."""
    from peftlab import api

    _show(api.list(kind), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has and what works on it."""
    from peftlab import api

    _show(api.doctor(), as_json)


@app.command()
def check(study: StudyFile, overrides: Overrides = None, only: Only = None, as_json: Json = False) -> None:
    """Prove in two minutes that each arm works, on your data."""
    from peftlab import api

    _show(api.check(study, overrides=overrides or (), only=only or ()), as_json)


@app.command()
def plan(
    study: StudyFile,
    overrides: Overrides = None,
    only: Only = None,
    max_runs: MaxRuns = None,
    output: Output = RESULTS,
    prefix_cache: PrefixCache = True,
    fused: FusedLayers = True,
    as_json: Json = False,
) -> None:
    """List the runs, refusals, predicted memory and time."""
    from peftlab import api

    options: dict[str, Any] = {"overrides": overrides or (), "only": only or (), "max_runs": max_runs, "output": output}
    options |= {"fused": fused, "prefix_cache": prefix_cache}
    _show(api.plan(study, **options), as_json)


@app.command()
def run(
    study: StudyFile,
    overrides: Overrides = None,
    only: Only = None,
    max_runs: MaxRuns = None,
    output: Output = RESULTS,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at the same time; default: what fits.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as plan.")] = False,
    prefix_cache: PrefixCache = True,
    fused: FusedLayers = True,
    as_json: Json = False,
) -> None:
    """Run a study, or go on with it; ends with the report."""
    from peftlab import api

    options: dict[str, Any] = {"overrides": overrides or (), "only": only or (), "max_runs": max_runs, "output": output}
    options |= {"fused": fused, "prefix_cache": prefix_cache}
    _show(api.run(study, **options, jobs=jobs, retry_failed=retry_failed, dry_run=dry_run), as_json)


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """Say which runs are done, running, failed or to do."""
    from peftlab import api

    _show(api.status(folder), as_json)


@app.command()
def analyze(folder: Folder, as_json: Json = False) -> None:
    """Compute frame and findings from the records."""
    from peftlab import api

    _show(api.analyze(folder), as_json)


@app.command()
def report(folder: Folder, as_json: Json = False) -> None:
    """Write report/index.html, figures and tables."""
    from peftlab import api

    _show(api.report(folder), as_json)


@app.command()
def paper(
    folder: Folder,
    submission: Annotated[bool, typer.Option("--submission", help="Also an anonymised archive with checksums.")] = False,
    sources: Annotated[bool, typer.Option("--sources", help="LaTeX sources only; nothing is compiled.")] = False,
    as_json: Json = False,
) -> None:
    """Write paper/: sections, numbers, tables, references, PDF."""
    from peftlab import api

    _show(api.paper(folder, submission=submission, sources=sources), as_json)


@app.command()
def choose(
    folder: Folder,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Peak memory that a run may take, e.g. 8GB.")] = None,
    margin: Annotated[str | None, typer.Option(metavar="SHARE", help="How much worse is acceptable, e.g. 3%.")] = None,
    ranks: Annotated[bool, typer.Option("--ranks", help="Ranks for the next study instead of an arm.")] = False,
    arm: Annotated[str | None, typer.Option(metavar="ARM", help="With --ranks: whose layers to go by.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="AMOUNT", help='With --ranks: "64 ranks" or "73728 parameters".')] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="With --ranks: the importance to go by.")] = None,
    as_json: Json = False,
) -> None:
    """Name the smallest arm that is non-inferior."""
    from peftlab import api

    for_arms = {"--memory": memory, "--margin": margin}
    for_ranks = {"--arm": arm, "--budget": budget, "--metric": metric}
    _refuse(for_arms if ranks else for_ranks, "belongs to choose without --ranks" if ranks else "needs --ranks")
    answer = (
        api.choose_ranks(folder, arm=arm, budget=budget, metric=metric)
        if ranks
        else api.choose(folder, memory=memory, margin=margin)
    )
    _show(answer, as_json)


@app.command()
def power(
    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="Results to learn the spread from.")] = None,
    sd: Annotated[float | None, typer.Option("--sd", help="Or: the SD of the difference between two arms over seeds.")] = None,
    difference: Annotated[
        float | None,
        typer.Option(metavar="SIZE", help="The difference that matters, as the metric is measured; default: the margin."),
    ] = None,
    margin: Annotated[str | None, typer.Option(metavar="SHARE", help="How much worse is acceptable, e.g. 3%.")] = None,
    power: Annotated[str, typer.Option(metavar="SHARE", help="How surely a true difference is to be found.")] = "80%",
    as_json: Json = False,
) -> None:
    """Say how many seeds the next study needs."""
    from peftlab import api

    _show(api.power(folder, sd=sd, difference=difference, margin=margin, power=power), as_json)


@app.command()
def export(
    folder: Folder,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id, or an arm's label: then its best run on validation.")],
    destination: Annotated[Path, typer.Argument(metavar="DESTINATION", help="The folder to write.")],
    merged: Annotated[bool, typer.Option("--merged", help="The whole model with the adapter folded in.")] = False,
    packed: Annotated[bool, typer.Option("--packed", help="The same, group-wise quantized weights as they are stored.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="The same for onnxruntime; packed where --packed would be exact.")] = False,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="With one of these: rounded to the run's quantizer again.")
    ] = False,
    activations: Annotated[
        Literal["float", "int8"], typer.Option(help="With --onnx: inputs of packed weights; int8: faster, not exact.")
    ] = "float",
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Score what was written on the run's test split.")] = False,
    as_json: Json = False,
) -> None:
    """Write an adapter in PEFT format, or the whole model."""
    from peftlab import api

    options: dict[str, Any] = {"merged": merged, "packed": packed, "onnx": onnx, "requantize": requantize}
    _show(api.export(folder, run_id, destination, **options, activations=activations, evaluate=evaluate), as_json)


@app.command(name="import")
def import_results(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A PEFT adapter's folder, or a file of outside results.")],
    folder: Folder,
    label: Annotated[str, typer.Option(metavar="ARM", help="The name that the arm gets.")],
    as_json: Json = False,
) -> None:
    """Take in a PEFT adapter or outside results as an arm."""
    from peftlab import api

    _show(api.import_results(path, folder, label=label), as_json)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder written by peftlab export.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images or folders of them; texts or files of them.")],
    as_json: Json = False,
) -> None:
    """Label new inputs with an exported model."""
    from peftlab import api

    _show(api.predict(model, inputs), as_json)


@app.command()
def verify(folder: Folder, as_json: Json = False) -> None:
    """Check every record against its hashes."""
    from peftlab import api

    _show(api.verify(folder), as_json)


def _refuse(options: dict[str, str | None], why: str) -> None:
    """Options that would have no effect are errors."""
    for option, value in options.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=option)


def _show(answer: Answer, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(answer.as_dict(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        from rich.console import Console

        Console(soft_wrap=not sys.stdout.isatty()).print(answer.table(), highlight=False)
    code = getattr(answer, "exit_code", 0)
    if code:
        raise typer.Exit(code)


def main() -> None:
    """Run the command line; every error on purpose becomes three lines and its own exit code (see :mod:`peftlab.errors`)."""
    debug = "--debug" in sys.argv[1:]
    try:
        app(args=[argument for argument in sys.argv[1:] if argument != "--debug"], prog_name="peftlab")
    except PeftlabError as error:
        if debug:
            _traceback()
        _explain(error)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:
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
