"""From a finished run to a folder that others can load.

The adapter in PEFT's format, or the whole model: in its library's own format, packed, or as an ONNX file.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

from peftlab.api._adapter_folder import CONFIG
from peftlab.api._evaluation import evaluated
from peftlab.api._library_format import CARD, write_model
from peftlab.api._merging import Wanted, Way, merge
from peftlab.api._model_folder import FILE, Exported, Kind, columns_of, head_of, load_adapted, preprocessing_of
from peftlab.api._orphans import earlier_forms
from peftlab.api.answers import Answer, lines, number, pairs
from peftlab.deployment.onnx_graph import require_onnx
from peftlab.deployment.onnx_layers import Activations
from peftlab.errors import OptionError, RecordError, nearest
from peftlab.records.commit import commit_folder
from peftlab.records.manifest import MANIFEST, files_below
from peftlab.records.record import RunConfig, RunResults, to_json
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from peftlab.registry import create
from peftlab.study.load import parse_yaml, validate_study


def export(
    folder: str | Path,
    run: str,
    destination: str | Path,
    *,
    merged: bool = False,
    packed: bool = False,
    onnx: bool = False,
    requantize: bool = False,
    activations: Activations = "float",
    evaluate: bool = False,
) -> Answer:
    """Write what a run learnt.

    Args:
        folder: the study's results.
        run: a run id (or the beginning of one), or an arm's label: then its run with the best validation metric, never the best
            on test data.
        destination: the folder to write; must not exist, or be empty.
        merged: the whole model, with the adapter folded in, in the backbone's own library format and in float.
        packed: the whole model, its group-wise quantized weights as they are stored; for :func:`peftlab.load_packed`.
        onnx: the whole model as an ONNX file: packed where the run's weights are group-wise quantized, else in float.
        requantize: of a merged, packed or ONNX model: its weights rounded to the grid of the run's quantizer again, which loses
            something; what either way loses is reported. ``quantize: after`` means that for ``packed`` and ``onnx`` anyway.
        activations: of an ONNX model: ``int8`` multiplies packed weights with inputs rounded to 8 bits, faster and not exact.
        evaluate: score what was written on the run's test split, read back from the folder.

    Raises:
        RecordError: no such run, damaged, not finished, or without an adapter; the destination is not empty.
        OptionError: options that contradict one another; the adapter cannot be merged, or not into packed weights.
        MissingExtra: ``onnx`` without the extra.
        BackboneError: the backbone is not there, or not the one that the run used.
        TrainingError: the merged model does not give the adapter's outputs.
    """
    kind = _kind(merged, packed, onnx, requantize, activations)
    results_folder, destination = ResultsFolder(folder), Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise RecordError("is not empty; nothing is overwritten", where=str(destination), remedy="choose another folder")
    chosen, reason = _choose(results_folder, run)
    config, results = _finished(chosen)
    if kind == "packed":
        _check_packable(config)
    preprocessing = preprocessing_of(config)
    if kind == "onnx" and head_of(config) == "causal-lm":
        raise OptionError(
            "a causal model writes one token after the other, and a file has no such loop, nor a cache of keys and values",
            where="--onnx",
            remedy="use --merged or --packed",
        )
    labels = _label_names(chosen, config)
    exported = Exported(
        kind=kind,
        config=config,
        label_names=labels,
        preprocessing=preprocessing,
        library="",
        quantizer=results.quantizer or config.quantizer,
        columns=columns_of(config),
        thresholds=results.thresholds,
    )
    losses: dict[str, float] = {}
    way: Way | None = None
    engine: float | None = None

    def write(target: Path) -> None:
        nonlocal losses, exported, way, engine
        ran_with = exported.quantizer
        adapter, backbone, module = load_adapted(config, chosen.adapter, len(labels), ran_with)  # also proves that it loads
        exported = dataclasses.replace(exported, library=backbone.library)
        if kind == "adapter":
            shutil.copytree(chosen.adapter, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        else:
            keeps: Literal["no", "if exact", "always"] = "no" if merged else "always" if packed else "if exact"
            wanted = Wanted(requantize=requantize or (config.quantize == "after" and not merged), packed=keeps)
            quantizer = create("quantizer", ran_with)
            whole, way, losses = merge(adapter, quantizer, backbone, module, exported.preprocessing, wanted)
            engine = write_model(whole, backbone, target, exported, activations)
        loader = _loader(exported, target)
        (target / "README.md").write_text(_card(exported, results, loader, _as_run(config, way, activations)), encoding="utf-8")
        (target / FILE).write_text(to_json(exported.as_dict()), encoding="utf-8")

    commit_folder(destination, write)
    data = {
        "destination": destination,
        "kind": exported.kind,
        "run_id": config.run_id,
        "label": config.label,
        "seed": config.seed,
        "backbone": config.backbone,
        "chosen": reason,
        "validation": results.metrics.get("validation", {}),
        "weights": way,
        "merge_difference": losses.get(way or ""),
        "merge_losses": losses,
        "engine_difference": engine,
        "bytes": sum((destination / name).stat().st_size for name in files_below(destination)),
    }
    if evaluate:
        data |= {"test": evaluated(destination, exported), "test_of_the_run": results.metrics.get("test", {})}
    return Answer(data, lambda: _shown(data))


def _kind(merged: bool, packed: bool, onnx: bool, requantize: bool, activations: Activations) -> Kind:
    asked = [kind for kind, flag in (("merged", merged), ("packed", packed), ("onnx", onnx)) if flag]
    if len(asked) > 1:
        flags = " and ".join(f"--{kind}" for kind in asked)
        raise OptionError("one folder holds one form of a model", where=flags, remedy="export twice, into two folders")
    if requantize and not asked:
        raise OptionError("only a merged model can be quantized again", where="--requantize", remedy="add --merged or --packed")
    if activations not in get_args(Activations):
        raise OptionError(
            f"no such thing as {activations!r}", where="--activations", remedy=nearest(activations, get_args(Activations))
        )
    if activations != "float" and not onnx:
        raise OptionError("only an ONNX model fixes how it is multiplied", where="--activations", remedy="add --onnx")
    if onnx:
        require_onnx()
    return cast(Kind, asked[0]) if asked else "adapter"


def _check_packable(config: RunConfig) -> None:
    if create("quantizer", config.quantizer).shared_inputs is None:
        raise OptionError(
            f"this run's quantizer is {config.quantizer['name']!r}, whose weights are not stored in groups of inputs",
            where="--packed",
            remedy="export --merged, or a run with `quantizer: groupwise`",
        )


def _shown(data: Mapping[str, Any]) -> Any:
    rows = {**data, "destination": str(data["destination"])}
    if rows["weights"] is None:  # an adapter is written as it was trained
        del rows["weights"]
    del rows["merge_losses"], rows["merge_difference"], rows["engine_difference"]
    rows |= {f"difference, {way} merge": f"{loss:.2g}" for way, loss in data["merge_losses"].items()}
    if data["engine_difference"] is not None:
        rows["difference, onnxruntime"] = f"{data['engine_difference']:.2g}"
    rows |= {key: _metrics(data[key]) for key in ("validation", "test", "test_of_the_run") if key in data}
    rows = {key: value for key, value in rows.items() if value is not None}
    return lines(pairs(rows), f"Use it: peftlab predict {data['destination']} INPUTS")


def _metrics(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def _choose(folder: ResultsFolder, asked: str) -> tuple[RunFolder, str]:
    """The run, and in words why this one."""
    study = validate_study(parse_yaml(folder.study_text(), where=str(folder.path / "study.yaml")))
    runs = [(run, run.config()) for run in folder.runs("evaluation")]
    labels = dict.fromkeys(config.label for _, config in runs)
    if asked not in labels:
        if not any(run.run_id.startswith(asked) for run, _ in runs):
            grid = [label for label in labels if label.partition("[")[0] == asked]
            remedy = f"the arm is a grid; name one of {', '.join(grid)}" if grid else nearest(asked, labels)
            remedy = remedy if runs else "there are no runs yet: `peftlab run` makes them"
            raise RecordError(f"no run id and no arm is {asked!r}", where=str(folder.path), remedy=remedy)
        return folder.find(asked), "named by its id"
    by_id = "name a run by its id; `peftlab status` lists them"
    earlier = earlier_forms(folder, study)
    now = [(run, config) for run, config in runs if config.label == asked and run.path not in earlier]
    metric, scored = study.analysis.metric, []
    for run, config in now:
        results = run.results()
        value = results.metrics.get("validation", {}).get(metric) if results and results.status == "completed" else None
        if results is not None and value is not None:
            scored.append((value if results.higher_is_better.get(metric, True) else -value, value, run, config))
    if not scored:
        what = f"no run of {asked!r} ended with a validation {metric}"
        if not now:
            why = next(earlier[run.path] for run, config in runs if config.label == asked)
            what = f"all runs of {asked!r} are of an earlier form of the study: {why}"
        raise RecordError(what, where=str(folder.path), remedy=f"`peftlab run` it again, or {by_id}")
    settings = {(config.backbone, json.dumps(config.task, sort_keys=True)) for *_, config in scored}
    if len(settings) > 1:
        what = f"{asked!r} was run on {len(settings)} backbones or tasks"
        raise RecordError(what, where=str(folder.path), remedy=by_id)
    _, value, best, _ = max(scored, key=lambda entry: (entry[0], entry[2].run_id))
    what = f"best validation {metric} ({number(value)}) of {len(scored)} run{'s' if len(scored) > 1 else ''}"
    return best, f"{what}; test data had no say"


def _finished(run: RunFolder) -> tuple[RunConfig, RunResults]:
    if problems := run.verify():
        raise RecordError(f"the record is damaged: {problems[0]}", where=str(run.path), remedy="see `peftlab verify`")
    results = run.results()
    if results is None:
        raise RecordError(f"the run is not finished ({run.status()})", where=str(run.path), remedy="finish it with `peftlab run`")
    return run.config(), results


def _label_names(run: RunFolder, config: RunConfig) -> tuple[str, ...]:
    """As the evaluation listed them; from the data where nothing was evaluated."""
    evaluation = run.read_json("evaluation.json") or {}
    names = tuple(str(entry["label"]) for entry in evaluation.get("per_class", []))
    return names or create("task", config.task, key="kind", where="task").info().label_names


def _as_run(config: RunConfig, way: Way | None, activations: Activations) -> bool:
    """What is written computes what the run evaluated, but for rounding of floats."""
    return activations == "float" and (way == "requantized") == (config.quantize == "after")


def _loader(exported: Exported, target: Path) -> str:
    """The library that loads what was written: PEFT knows an adapter by its configuration, which not every method has there."""
    if exported.kind == "adapter":
        return "peft" if (target / CONFIG).is_file() else "peftlab"
    return CARD[exported.kind][0] or exported.library


def _card(exported: Exported, results: RunResults, loader: str, as_run: bool) -> str:
    """The run's model card; that of a whole model names what loads it, and says where the run's figures are not its own."""
    from peftlab.report.model_card import model_card

    card = model_card(exported.config, results, library=loader, as_run=as_run)
    if exported.kind == "adapter":
        use = "`peftlab predict FOLDER INPUTS` runs it on inputs of yours; FOLDER is the one that holds this card."
        return card.replace("\n## ", f"\n{use}\n\n## ", 1)
    how = f"This folder is the whole model: the backbone with the adapter folded in{CARD[exported.kind][1]}."
    if not as_run:
        how += (
            " Its weights or inputs are rounded otherwise than in the run, whose figures this card states: they are not those of "
            "this file. `peftlab export ... --evaluate` measures it."
        )
    return card.replace("\n## ", f"\n{how}\n\n## ", 1)
