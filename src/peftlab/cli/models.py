"""Verbs that move models: out of the results, into them, and to new inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from peftlab.cli._app import Folder, Json, app, show


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
    show(api.export(folder, run_id, destination, **options, activations=activations, evaluate=evaluate), as_json)


@app.command(name="import")
def import_results(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A PEFT adapter's folder, or a file of outside results.")],
    folder: Folder,
    label: Annotated[str, typer.Option(metavar="ARM", help="The name that the arm gets.")],
    seed: Annotated[
        int | None, typer.Option(metavar="SEED", help="Of an adapter: the study's seed that it stands beside; default the first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take in a PEFT adapter or outside results as an arm."""
    from peftlab import api

    show(api.import_results(path, folder, label=label, seed=seed), as_json)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder written by peftlab export.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Images or folders of them; texts or files of them.")],
    as_json: Json = False,
) -> None:
    """Label new inputs with an exported model."""
    from peftlab import api

    show(api.predict(model, inputs), as_json)
