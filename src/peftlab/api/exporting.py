"""From a finished run to a folder that others can load: the adapter in PEFT's format, or the whole model in its library's."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peftlab.api._merging import merge
from peftlab.api._model_folder import FILE, Exported, load_adapted
from peftlab.api.answers import Answer, lines, number, pairs
from peftlab.backbones.resolve import source_of
from peftlab.errors import OptionError, RecordError, nearest
from peftlab.records import commit
from peftlab.records.record import RunConfig, RunResults, to_json
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from peftlab.registry import create
from peftlab.study.load import parse_yaml, validate_study
from peftlab.tasks.contract import Preprocessing

_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def export(folder: str | Path, run: str, destination: str | Path, *, merged: bool = False, requantize: bool = False) -> Answer:
    """Write what a run learnt.

    Args:
        folder: the study's results.
        run: a run id (or the beginning of one), or an arm's label: then its run with the best validation metric, never the best
            on test data.
        destination: the folder to write; must not exist, or be empty.
        merged: the whole model, with the adapter folded into the backbone, in the backbone's own library format; of a quantized
            run in float: its rounded weights plus the update.
        requantize: with ``merged``: rounded to the grid of the run's quantizer again, written in float. What either way loses is
            reported.

    Raises:
        RecordError: no such run, damaged, not finished, or without an adapter; the destination is not empty.
        OptionError: the adapter cannot be merged; ``requantize`` without ``merged`` or without a quantizer.
        BackboneError: the backbone is not there, or not the one that the run used.
        TrainingError: the merged model does not give the adapter's outputs.
    """
    if requantize and not merged:
        raise OptionError("only a merged model can be quantized again", where="--requantize", remedy="add --merged")
    results_folder, destination = ResultsFolder(folder), Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise RecordError("is not empty; nothing is overwritten", where=str(destination), remedy="choose another folder")
    chosen, reason = _choose(results_folder, run)
    config, results = _finished(chosen)
    labels = _label_names(chosen, config)
    exported = Exported(
        kind="merged" if merged else "adapter",
        config=config,
        label_names=labels,
        preprocessing=preprocessing_of(config),
        library="",
    )
    losses: dict[str, float] = {}

    def write(target: Path) -> None:
        nonlocal losses, exported
        adapter, backbone, module = load_adapted(config, chosen.adapter, len(labels))  # also proves that the adapter loads
        exported = dataclasses.replace(exported, library=backbone.library)
        if merged:
            quantizer = create("quantizer", config.quantizer)
            whole, losses = merge(adapter, quantizer, backbone, module, exported.preprocessing, requantize)
            backbone.save(whole, target)
            _FINISH[backbone.library](target, exported)
        else:
            shutil.copytree(chosen.adapter, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(commit.MANIFEST))
        (target / "README.md").write_text(_card(exported, results), encoding="utf-8")
        (target / FILE).write_text(to_json(exported.as_dict()), encoding="utf-8")

    commit.commit_folder(destination, write)
    data = {
        "destination": destination,
        "kind": exported.kind,
        "run_id": config.run_id,
        "label": config.label,
        "seed": config.seed,
        "backbone": config.backbone,
        "chosen": reason,
        "validation": results.metrics.get("validation", {}),
        "merge_difference": losses.get("requantized" if requantize else "float"),
        "merge_losses": losses,
        "bytes": sum((destination / name).stat().st_size for name in commit.files_below(destination)),
    }
    return Answer(data, lambda: _shown(data))


def _shown(data: Mapping[str, Any]) -> Any:
    validation = ", ".join(f"{name} {number(value)}" for name, value in data["validation"].items())
    rows = {**data, "destination": str(data["destination"]), "validation": validation}
    del rows["merge_losses"], rows["merge_difference"]
    rows |= {f"difference, {way} merge": f"{loss:.2g}" for way, loss in data["merge_losses"].items()}
    return lines(pairs(rows), f"Use it: peftlab predict {data['destination']} IMAGES")


def _choose(folder: ResultsFolder, asked: str) -> tuple[RunFolder, str]:
    """The run, and in words why this one."""
    study = validate_study(parse_yaml(folder.study_text(), where=str(folder.path / "study.yaml")))
    runs = [(run, run.config()) for run in folder.runs("evaluation")]
    labels = dict.fromkeys(config.label for _, config in runs)
    if asked not in labels:
        if not any(run.run_id.startswith(asked) for run, _ in runs):
            raise RecordError(f"no run id and no arm is {asked!r}", where=str(folder.path), remedy=nearest(asked, labels))
        return folder.find(asked), "named by its id"
    candidates = [(run, config) for run, config in runs if config.label == asked]
    settings = {(config.backbone, json.dumps(config.task, sort_keys=True)) for _, config in candidates}
    if len(settings) > 1:
        what = f"{asked!r} was run on {len(settings)} backbones or tasks"
        raise RecordError(what, where=str(folder.path), remedy="name a run by its id; `peftlab status` lists them")
    metric, scored = study.analysis.metric, []
    for run, _ in candidates:
        results = run.results()
        value = results.metrics.get("validation", {}).get(metric) if results and results.status == "completed" else None
        if results is not None and value is not None:
            scored.append((value if results.higher_is_better.get(metric, True) else -value, value, run))
    if not scored:
        what = f"no run of {asked!r} ended with a validation {metric}"
        raise RecordError(what, where=str(folder.path), remedy="name a run by its id; `peftlab status` lists them")
    _, value, best = max(scored, key=lambda entry: (entry[0], entry[2].run_id))
    return best, f"best validation {metric} ({number(value)}) of {len(scored)} runs; test data had no say"


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


def preprocessing_of(config: RunConfig) -> Preprocessing:
    """What was done to every image of the run."""
    found = source_of(config.backbone).preprocessing(config.backbone, config.task.get("image_size"))
    crop = config.task.get("crop")
    return found if crop is None else dataclasses.replace(found, crop=crop)


def _card(exported: Exported, results: RunResults) -> str:
    """The run's model card; that of a merged model names the library that loads it."""
    from peftlab.report.model_card import model_card

    card = model_card(exported.config, results)
    if exported.kind == "adapter":
        return card
    how = "This folder is the whole model: the backbone with the adapter folded in."
    return card.replace("library_name: peft", f"library_name: {exported.library}", 1).replace("\n## ", f"\n{how}\n\n## ", 1)


def _finish_transformers(folder: Path, exported: Exported) -> None:
    """Label names into the configuration, and a processor that does to images what was done in training."""
    names, wanted = exported.label_names, exported.preprocessing
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["id2label"] = {str(number): name for number, name in enumerate(names)}
    config["label2id"] = {name: number for number, name in enumerate(names)}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    edge = wanted.image_size
    processor = {  # CLIP's resizes the shorter side and cuts out the centre; ViT's own would squash the image into a square
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(edge / wanted.crop)},
        "resample": _RESAMPLING[wanted.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": edge, "width": edge},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(wanted.mean),
        "image_std": list(wanted.std),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")


def _finish_timm(folder: Path, exported: Exported) -> None:
    """Label names and preprocessing into timm's configuration."""
    wanted = exported.preprocessing
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["label_names"] = list(exported.label_names)
    if exported.config.task.get("image_size"):
        config["model_args"] = {"img_size": wanted.image_size, **config.get("model_args", {})}
    pretrained = config.setdefault("pretrained_cfg", {})
    pretrained.update(
        input_size=[3, wanted.image_size, wanted.image_size],
        interpolation=wanted.interpolation,
        crop_pct=wanted.crop,
        crop_mode="center",
        mean=list(wanted.mean),
        std=list(wanted.std),
    )
    for source in ("test_input_size", "test_crop_pct"):
        pretrained.pop(source, None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


#: library -> what its own saving leaves out
_FINISH: Mapping[str, Callable[[Path, Exported], None]] = {"transformers": _finish_transformers, "timm": _finish_timm}
