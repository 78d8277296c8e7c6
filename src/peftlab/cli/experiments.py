"""Verbs that take a study: begin one, prove it, plan it, run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from peftlab.cli._app import (
    RESULTS,
    Compile,
    Device,
    FusedLayers,
    Json,
    MaxRuns,
    Only,
    Output,
    Overrides,
    PrefixCache,
    Stack,
    StudyFile,
    app,
    show,
)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The study file to write.")] = Path("study.yaml"),
    template: Annotated[str, typer.Option(help="The shipped study to start from.")] = "digits",
) -> None:
    """Write a first study file."""
    from peftlab import api

    show(api.init(path, template=template), as_json=False)


@app.command(name="list")
def list_components(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="adapter, allocator, quantizer, task, ...")] = None,
    as_json: Json = False,
) -> None:
    """Show what a study can name, with every option."""
    from peftlab import api

    show(api.list(kind), as_json)


@app.command()
def doctor(
    full: Annotated[bool, typer.Option("--full", help="Also torch.compile, and an ONNX model exported and run.")] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine has and what works on it."""
    from peftlab import api

    show(api.doctor(full=full), as_json)


@app.command()
def check(
    study: StudyFile, overrides: Overrides = None, only: Only = None, device: Device = "auto", as_json: Json = False
) -> None:
    """Prove in two minutes that each arm works, on your data."""
    from peftlab import api

    show(api.check(study, overrides=overrides or (), only=only or (), device=device), as_json)


@app.command()
def plan(
    study: StudyFile,
    overrides: Overrides = None,
    only: Only = None,
    max_runs: MaxRuns = None,
    output: Output = RESULTS,
    prefix_cache: PrefixCache = True,
    fused: FusedLayers = True,
    stack: Stack = "off",
    compile: Compile = "off",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """List the runs, refusals, predicted memory and time."""
    from peftlab import api

    options: dict[str, Any] = {"overrides": overrides or (), "only": only or (), "max_runs": max_runs, "output": output}
    options |= {"fused": fused, "prefix_cache": prefix_cache, "stack": stack, "compile": compile, "device": device}
    show(api.plan(study, **options), as_json)


@app.command()
def run(
    study: StudyFile,
    overrides: Overrides = None,
    only: Only = None,
    max_runs: MaxRuns = None,
    output: Output = RESULTS,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at the same time; default: what fits.")] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Per run; they share its batches, a GPU each.")] = 1,
    shard: Annotated[bool, typer.Option("--shard", help="The processes of a run share its frozen weights too.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as plan.")] = False,
    engine: Annotated[str, typer.Option("--engine", metavar="local|ray", help="This machine, or a Ray cluster.")] = "local",
    address: Annotated[str | None, typer.Option("--address", help="Of a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")] = None,
    place: Annotated[
        list[str] | None,
        typer.Option("--place", metavar="WHAT=RESOURCE", help="Runs of an arm or task to some nodes. Repeatable."),
    ] = None,
    gpus: Annotated[float | None, typer.Option("--gpus", help="GPUs of each run on Ray; default: 1 if there are any.")] = None,
    shared_disk: Annotated[bool, typer.Option(" /--no-shared-disk", help="Send results through Ray.", show_default=False)] = True,
    checkpoint_every: Annotated[float, typer.Option("--checkpoint-every", min=0, help="Seconds between checkpoints.")] = 30.0,
    prefix_cache: PrefixCache = True,
    fused: FusedLayers = True,
    stack: Stack = "off",
    compile: Compile = "off",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a study, or go on with it; ends with the report."""
    from peftlab import api

    options: dict[str, Any] = {"overrides": overrides or (), "only": only or (), "max_runs": max_runs, "output": output}
    options |= {"fused": fused, "prefix_cache": prefix_cache, "stack": stack, "compile": compile, "device": device}
    options |= {"engine": engine, "address": address, "place": place or (), "gpus": gpus, "shared_disk": shared_disk}
    options |= {
        "jobs": jobs,
        "processes": processes,
        "shard": shard,
        "retry_failed": retry_failed,
        "dry_run": dry_run,
        "checkpoint_every_s": checkpoint_every,
    }
    show(api.run(study, **options), as_json)
