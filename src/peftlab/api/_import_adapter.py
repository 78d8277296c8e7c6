"""A PEFT adapter trained elsewhere: loaded with PEFT on the study's backbone and evaluated on the study's data."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from peftlab.adapters._peft import load_peft
from peftlab.adapters.contract import Adapted
from peftlab.api._adapter_folder import HEAD, adapter_files, check_made_for, other_base, quantized_base, shapes_of
from peftlab.api._model_folder import check_backbone, head_of, preprocessing_of
from peftlab.api._outside import Arm, check_free, find_place, write_record
from peftlab.api.running import cache_folder
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.errors import DataError, RecordError, StudyError
from peftlab.probes.parameters import count_parameters
from peftlab.records.environment import environment
from peftlab.records.manifest import file_hash
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.run_folder import RunFolder
from peftlab.registry import create
from peftlab.tasks.contract import PreparedTask, TaskInfo
from peftlab.training.evaluation import evaluate, predictions
from peftlab.training.precision import resolve_device

FLAG = "imported, not trained here"
#: what stands in for the adapter's own method, which PEFT reads from the folder: nothing here attaches, counts or merges it
_ANY = {"name": "peft", "type": "LORA"}
BATCH = 64


def evaluate_adapter(folder: Path, arm: Arm, seed: int | None = None) -> tuple[RunConfig, RunResults]:
    """One record: the adapter's metrics on validation and test data. Nothing is trained.

    ``seed``: the one of the study that it stands beside; None: the first.

    The classification head is among the adapter's own tensors (``modules_to_save``), or in ``head.safetensors`` beside them
    (``weight``, ``bias``).

    Raises:
        DataError: no PEFT adapter in the folder, or no head for the task.
        RecordError: the adapter does not fit the study's backbone, or is in this arm already, with another seed.
        StudyError: the seed is none of the study.
    """
    files = adapter_files(folder)
    place = find_place(arm)
    digests = {file.name: file_hash(file) for file in files}
    source = {"name": "imported adapter", "source": folder.resolve().name, "sha256": digests}
    config = place.config(arm, _seed(arm, seed), source)
    _check_new(config, arm)
    if (done := check_free(config, arm.results).results()) is not None:
        return config, done
    task = create("task", config.task, key="kind", where="task")
    check_backbone(config)
    origin, size = source_of(config.backbone), config.task.get("image_size")
    prepared: PreparedTask = task.prepare(preprocessing_of(config), cache_folder())
    head = head_of(config)
    backbone = origin.load(config.backbone, outputs=prepared.info.outputs, head=head, image_size=size, seed=config.seed)
    adapted = _load(folder, backbone)
    precision = _precision(folder, next(backbone.module.parameters()).dtype)
    device = resolve_device("auto")
    adapted.module.to(device).eval()
    splits = prepared.splits(config.seed)
    begin = time.perf_counter()
    forward = functools.partial(backbone.outputs, adapted.module)
    meters = {"validation": evaluate(prepared, splits.validation, forward, BATCH, device)}
    thresholds = meters["validation"].thresholds()
    meters["test"] = evaluate(prepared, splits.test, forward, BATCH, device, thresholds=thresholds)
    evaluate_s = time.perf_counter() - begin
    metrics: dict[str, dict[str, float | None]] = {name: dict(meter.compute()) for name, meter in meters.items()}
    outcome = RunResults(
        run_id=config.run_id,
        metrics=metrics,
        higher_is_better=dict(prepared.info.higher_is_better),
        chance=dict(prepared.info.chance),
        majority=dict(prepared.info.majority),
        steps=0,
        epochs=0.0,
        parameters=count_parameters(adapted),
        memory={},
        time={"evaluate_s": evaluate_s, "device": device.type, "threads": torch.get_num_threads()},
        splits={name: len(splits[name]) for name in ("train", "validation", "test")},
        thresholds=thresholds,
        flags=[FLAG],
        notes=[f"{arm.label}: {note}" for note in (*_notes(folder, arm, config, prepared.info, metrics["test"]), precision)],
    )

    def fill(run: RunFolder) -> None:
        run.write_json("environment.json", environment())
        run.write_json("imported.json", {"source": folder.resolve().name, "sha256": digests})
        run.write_json("evaluation.json", meters["test"].details())
        run.write_arrays("predictions.npz", predictions(prepared, splits.test, meters["test"]))
        run.adapter.mkdir(exist_ok=True)
        for file in files:
            shutil.copyfile(file, run.adapter / file.name)

    write_record(config, outcome, arm.results, fill)
    return config, outcome


def _seed(arm: Arm, asked: int | None) -> int:
    seeds = arm.study.seeds
    if asked is not None and asked not in seeds:
        known = ", ".join(map(str, seeds))
        raise StudyError(f"{asked} is no seed of the study", where="--seed", remedy=f"name the one it stands beside: {known}")
    return seeds[0] if asked is None else asked


def _check_new(config: RunConfig, arm: Arm) -> None:
    """One adapter is one replicate, whatever number of seeds it is given.

    Raises:
        RecordError: its files are in this arm already.
    """
    for run in arm.results.runs("evaluation"):
        there = run.config()
        same = there.label == config.label and there.adapter.get("sha256") == config.adapter["sha256"]
        if same and there.seed != config.seed:
            what = f"this very adapter is in {config.label!r} already, with seed {there.seed}"
            raise RecordError(what, where=str(run.path), remedy="import the adapter that was trained with the other seed")


def _notes(folder: Path, arm: Arm, config: RunConfig, info: TaskInfo, tested: Mapping[str, float | None]) -> Iterator[str]:
    """What is not known of an adapter from elsewhere, and what looks as if it did not fit."""
    yield f"imported from {folder.resolve().name}; one replicate, its data, tuning and seed are not known here"
    names = "; ".join(f"{number} {name}" for number, name in enumerate(info.label_names))
    if names:
        yield f"its classes are taken to be numbered as in the study ({names[:200]})"
    if base := other_base(folder, config.backbone):
        yield f"its base is called {base!r} and the study's {config.backbone!r}: they are taken to be the same weights"
    metric = arm.study.analysis.metric
    value, chance = tested.get(metric), info.chance.get(metric)
    if value is not None and chance is not None and (value <= chance) == info.higher_is_better.get(metric, True):
        yield (
            f"{metric} {value:.4f} is no better than chance ({chance:.4f}): are its classes numbered as in the study, and is its "
            "base the study's backbone?"
        )


def _precision(folder: Path, dtype: torch.dtype) -> str:
    """Of the base under the adapter: one that was trained on quantized weights corrects these, and not the float ones."""
    used = f"evaluated on the backbone in {str(dtype).removeprefix('torch.')}"
    if why := quantized_base(folder):
        return f"{used}, though it was trained on a quantized one ({why}): there its figures are others"
    return f"{used}; its files do not say whether it was trained on a quantized one, as QLoRA's are"


def _load(folder: Path, backbone: Backbone) -> Adapted:
    try:
        shapes = shapes_of(folder)
        check_made_for(folder, backbone, shapes)
        for head in backbone.heads:
            if not any(key.startswith(f"{head}.") and ".lora_" not in key for key in shapes):
                _given_head(folder, backbone, head)
        module = load_peft(backbone.module, folder)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        what = f"not readable as a PEFT adapter: {str(error).splitlines()[0][:200]}"
        raise DataError(what, where=str(folder), remedy="save it again with PEFT's save_pretrained") from error
    for name, parameter in module.named_parameters():  # what was trained elsewhere, for counting
        given_head = backbone.in_head(name.removeprefix("base_model.model.")) and ".original_module." not in name
        parameter.requires_grad_(".default" in name or given_head)
    adapter: Any = create("adapter", _ANY)
    return Adapted(module=module, backbone=backbone, adapter=adapter)


def _given_head(folder: Path, backbone: Backbone, head: str) -> None:
    """Put ``head.safetensors`` into the backbone."""
    layer = backbone.module.get_submodule(head)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    if not (folder / HEAD).is_file():
        remedy = f"train it with modules_to_save=[{head!r}], or put {HEAD} ({', '.join(shapes)}) beside it"
        raise DataError(f"the adapter has no classification head {head!r}", where=str(folder), remedy=remedy)
    given = load_file(folder / HEAD)
    if {name: tuple(value.shape) for name, value in given.items()} != shapes:
        raise RecordError(
            f"the head does not fit: it must have {shapes}", where=str(folder / HEAD), remedy="take the head of this task"
        )
    layer.load_state_dict(given)
