"""Verbs that take the folder of results: look, analyse, choose, write, verify, redo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftlab.cli._app import Folder, Json, Only, app, refuse, show


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """Say which runs are done, running, failed or to do, of the study as it was last run."""
    from peftlab import api

    show(api.status(folder), as_json)


@app.command()
def analyze(folder: Folder, as_json: Json = False) -> None:
    """Compute frame and findings from the records."""
    from peftlab import api

    show(api.analyze(folder), as_json)


@app.command()
def report(
    folder: Folder,
    eps: Annotated[bool, typer.Option("--eps", help="Figures as EPS as well, without transparency.")] = False,
    as_json: Json = False,
) -> None:
    """Write report/index.html, figures and tables."""
    from peftlab import api

    show(api.report(folder, eps=eps), as_json)


@app.command()
def paper(
    folder: Folder,
    submission: Annotated[bool, typer.Option("--submission", help="Also an anonymised archive with checksums.")] = False,
    sources: Annotated[bool, typer.Option("--sources", help="LaTeX sources only; nothing is compiled.")] = False,
    as_json: Json = False,
) -> None:
    """Write paper/: sections, numbers, tables, references, PDF."""
    from peftlab import api

    show(api.paper(folder, submission=submission, sources=sources), as_json)


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
    refuse(for_arms if ranks else for_ranks, "belongs to choose without --ranks" if ranks else "needs --ranks")
    answer = (
        api.choose_ranks(folder, arm=arm, budget=budget, metric=metric)
        if ranks
        else api.choose(folder, memory=memory, margin=margin)
    )
    show(answer, as_json)


@app.command()
def power(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="Results to learn the spread from.")] = None,
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

    show(api.power(folder, sd=sd, difference=difference, margin=margin, power=power), as_json)


@app.command()
def verify(folder: Folder, as_json: Json = False) -> None:
    """Check every record against its hashes."""
    from peftlab import api

    show(api.verify(folder), as_json)


@app.command()
def gc(
    folder: Folder,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without, it is only listed.")] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Also prepared data in the shared cache.")] = False,
    as_json: Json = False,
) -> None:
    """List, or delete, what nobody needs any more."""
    from peftlab import api

    show(api.gc(folder, delete=delete, cache=cache), as_json)


@app.command()
def reproduce(
    source: Annotated[Path, typer.Argument(metavar="FOLDER_OR_BUNDLE", help="The study's results, or a bundle of them.")],
    only: Only = None,
    seeds: Annotated[list[int] | None, typer.Option("--seeds", metavar="SEED", help="Only this seed. Repeatable.")] = None,
    runs: Annotated[list[str] | None, typer.Option("--runs", metavar="ID", help="Id, or how it begins. Repeatable.")] = None,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the new runs are made.")] = Path("reproduced"),
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at the same time.")] = 1,
    as_json: Json = False,
) -> None:
    """Run a part again and compare it with its records."""
    from peftlab import api

    show(api.reproduce(source, only=only or (), seeds=seeds or (), runs=runs or (), output=output, jobs=jobs), as_json)


@app.command()
def bundle(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="The archive; default: FOLDER.bundle.zip.")
    ] = None,
    adapters: Annotated[bool, typer.Option("--adapters", help="With the trained adapters.")] = False,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="With what interrupted runs need to go on.")] = False,
    as_json: Json = False,
) -> None:
    """Pack study, records, findings and report to redo it."""
    from peftlab import api

    show(api.bundle(folder, output=output, adapters=adapters, checkpoints=checkpoints), as_json)
