"""A PEFT adapter trained elsewhere: loaded with PEFT on the study's backbone and evaluated on the study's data."""

from __future__ import annotations

import functools
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from peftlab.adapters._peft import load_peft
from peftlab.adapters.contract import Adapted
from peftlab.api._model_folder import check_backbone, head_of, preprocessing_of
from peftlab.api._outside import Arm, check_free, find_place, write_record
from peftlab.api.running import cache_folder
from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.errors import DataError, RecordError
from peftlab.probes.parameters import count_parameters
from peftlab.records.environment import environment
from peftlab.records.manifest import file_hash
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.run_folder import RunFolder
from peftlab.registry import create
from peftlab.tasks.contract import PreparedTask
from peftlab.training.evaluation import evaluate, predictions
from peftlab.training.precision import resolve_device

FLAG = "imported, not trained here"
CONFIG, WEIGHTS, HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
BATCH = 64


def evaluate_adapter(folder: Path, arm: Arm) -> tuple[RunConfig, RunResults]:
    """One record: the adapter's metrics on validation and test data, with the study's first seed. Nothing is trained.

    The classification head is among the adapter's own tensors (``modules_to_save``), or in ``head.safetensors`` beside them
    (``weight``, ``bias``).

    Raises:
        DataError: no PEFT adapter in the folder, or no head for the task.
        RecordError: the adapter does not fit the study's backbone.
    """
    files = _adapter_files(folder)
    place = find_place(arm)
    digests = {file.name: file_hash(file) for file in files}
    config = place.config(
        arm, arm.study.seeds[0], {"name": "imported adapter", "source": folder.resolve().name, "sha256": digests}
    )
    if (done := check_free(config, arm.results).results()) is not None:
        return config, done
    task = create("task", config.task, key="kind", where="task")
    check_backbone(config)
    source, size = source_of(config.backbone), config.task.get("image_size")
    prepared: PreparedTask = task.prepare(preprocessing_of(config), cache_folder())
    head = head_of(config)
    backbone = source.load(config.backbone, outputs=prepared.info.outputs, head=head, image_size=size, seed=config.seed)
    adapted = _load(folder, backbone)
    device = resolve_device("auto")
    adapted.module.to(device).eval()
    splits = prepared.splits(config.seed)
    begin = time.perf_counter()
    forward = functools.partial(backbone.outputs, adapted.module)
    meters = {"validation": evaluate(prepared, splits.validation, forward, BATCH, device)}
    thresholds = meters["validation"].thresholds()
    meters["test"] = evaluate(prepared, splits.test, forward, BATCH, device, thresholds=thresholds)
    evaluate_s = time.perf_counter() - begin
    names = "; ".join(f"{number} {name}" for number, name in enumerate(prepared.info.label_names))
    outcome = RunResults(
        run_id=config.run_id,
        metrics={name: dict(meter.compute()) for name, meter in meters.items()},
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
        notes=[
            f"{arm.label}: imported from {folder.resolve().name}; one replicate, its data, tuning and seed are not known here",
            f"{arm.label}: its classes are taken to be numbered as in the study ({names[:200]})",
        ],
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


def _adapter_files(folder: Path) -> list[Path]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            remedy = "name the folder that PEFT's save_pretrained wrote (safetensors; pickled weights are not read)"
            raise DataError(f"there is no {name}", where=str(folder), remedy=remedy)
    return [folder / name for name in (CONFIG, WEIGHTS, HEAD) if (folder / name).is_file()]


def _load(folder: Path, backbone: Backbone) -> Adapted:
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            keys = set(file.keys())
        for head in backbone.heads:
            if not any(key.startswith(f"base_model.model.{head}.") and ".lora_" not in key for key in keys):
                _given_head(folder, backbone, head)
        module = load_peft(backbone.module, folder)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        what = f"not readable as a PEFT adapter: {str(error).splitlines()[0][:200]}"
        raise DataError(what, where=str(folder), remedy="save it again with PEFT's save_pretrained") from error
    for name, parameter in module.named_parameters():  # what was trained elsewhere, for counting
        given_head = backbone.in_head(name.removeprefix("base_model.model.")) and ".original_module." not in name
        parameter.requires_grad_(".default" in name or given_head)
    configs: Any = module.peft_config
    peft_type = str(configs["default"].peft_type.value)
    adapter: Any = create("adapter", {"name": "peft", "type": peft_type})
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
