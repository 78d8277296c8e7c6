"""What ``export`` writes beside the weights, and how a folder becomes a model again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from peftlab import mistakes
from peftlab.adapters.contract import Adapter
from peftlab.api._merging import merged_model, quantized_model
from peftlab.backbones._causal import logits
from peftlab.backbones.contract import Backbone
from peftlab.backbones.hub import AUTO, OUTPUTS
from peftlab.backbones.resolve import source_of
from peftlab.deployment.onnx_engine import FILE as ONNX
from peftlab.deployment.onnx_engine import OnnxModel
from peftlab.deployment.packed import read_packed
from peftlab.errors import BackboneError, OptionError, RecordError
from peftlab.nn.seeding import seeded
from peftlab.nn.surgery import slice_fused
from peftlab.quantizers.contract import Quantizer
from peftlab.records.manifest import check_manifest, read_manifest
from peftlab.records.record import RunConfig
from peftlab.registry import component, create
from peftlab.tasks._tokens import TOKENIZER
from peftlab.tasks.contract import Head, Preprocessing, Task, TextPreprocessing

FILE = "peftlab.json"
Kind = Literal["adapter", "merged", "packed", "onnx"]
Forward = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]  #: inputs of the model -> logits [B, K]
_EXPORT_AGAIN = "export it again with `peftlab export`"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Content of ``peftlab.json``: all that prediction needs besides the weights."""

    kind: Kind
    config: RunConfig
    label_names: tuple[str, ...]
    preprocessing: Preprocessing | TextPreprocessing
    library: str
    columns: tuple[str, ...] = ()  #: of text in the data of training: one, or two for pairs; none for images
    quantizer: Mapping[str, Any]  #: the one that the run ended with: the config's, unless a fallback put another in its place
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)  #: what the run's validation data decided

    @property
    def gives_a_number(self) -> bool:
        """Whether its one output is a number that is predicted, no class."""
        return len(self.label_names) == 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "kind": self.kind,
            "run_id": self.config.run_id,
            "backbone": {
                "name": self.config.backbone,
                "fingerprint": self.config.backbone_fingerprint,
                "library": self.library,
            },
            "label_names": list(self.label_names),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "config": self.config.model_dump(mode="json"),
            "quantizer": dict(self.quantizer),
            "columns": list(self.columns),
            "thresholds": dict(self.thresholds),
        }

    @classmethod
    def read(cls, folder: Path) -> Exported:
        """From a folder that ``export`` wrote.

        Raises:
            RecordError: it did not, or the file or the weights were changed since.
        """
        path = folder / FILE
        try:
            raw = json.loads(path.read_bytes())
            prepared: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in raw["preprocessing"].items()}
            found = cls(
                kind=raw["kind"],
                config=RunConfig.model_validate(raw["config"]),
                label_names=tuple(raw["label_names"]),
                preprocessing=(TextPreprocessing if prepared.get("tokenizer") else Preprocessing)(**prepared),
                library=raw["backbone"]["library"],
                columns=tuple(raw.get("columns", ())),
                quantizer=raw.get("quantizer") or raw["config"]["quantizer"],
                thresholds=dict(raw.get("thresholds", {})),
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            remedy = "name a folder that `peftlab export` wrote"
            raise RecordError(f"this is no exported model: it has no {FILE}", where=str(folder), remedy=remedy) from error
        except json.JSONDecodeError as error:
            raise RecordError(f"damaged: {mistakes.of_json(error)}", where=str(path), remedy=_EXPORT_AGAIN) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise RecordError("damaged: it does not describe a model", where=str(path), remedy=_EXPORT_AGAIN) from error
        listed = read_manifest(folder)
        if isinstance(listed, dict):  # README.md is for the reader to edit
            kept = {name: entry for name, entry in listed.items() if name.endswith((".safetensors", ".json", ".onnx"))}
            if problems := check_manifest(folder, kept):
                raise RecordError(problems[0], where=str(folder), remedy=_EXPORT_AGAIN)
        return found._with_own_tokenizer(folder)

    def _with_own_tokenizer(self, folder: Path) -> Exported:
        """A whole model has its tokenizer beside it: the one that it came from need not be there any more."""
        prepared = self.preprocessing
        if self.kind == "adapter" or isinstance(prepared, Preprocessing) or not (folder / TOKENIZER).is_file():
            return self
        return dataclasses.replace(self, preprocessing=dataclasses.replace(prepared, tokenizer=str(folder)))


def load_adapted(
    config: RunConfig, folder: Path, outputs: int, quantizer: Mapping[str, Any] | None = None
) -> tuple[Adapter, Backbone, nn.Module]:
    """The run's model as it was trained, for inference: its backbone, its quantizer, and the adapter that lies in ``folder``.

    ``quantizer``: the one that the run ended with, where that is not the config's.

    Raises:
        RecordError: the record has no adapter that peftlab can load.
        BackboneError: the backbone is not there, or not the one that the adapter was trained on.
    """
    if not folder.is_dir() or config.adapter.get("source"):
        what = "this record has no trained adapter: it was imported"
        raise RecordError(what, where=config.run_id, remedy="use the model that it came from, or export another run")
    try:
        adapter: Adapter = create("adapter", config.adapter)
        converts: Quantizer = create("quantizer", quantizer or config.quantizer)
    except OptionError as error:
        raise RecordError(
            f"the run was made by another version: {error.what}", where=config.run_id, remedy="use that version"
        ) from error
    check_backbone(config)
    source = source_of(config.backbone)
    size = config.task.get("image_size")
    backbone = source.load(config.backbone, outputs=outputs, head=head_of(config), image_size=size, seed=config.seed)
    if converts.quantizes and config.quantize == "before":
        if adapter.takes_slices:  # as in training: each slice is quantized by itself
            slice_fused(backbone.module, adapter.sites(backbone))
        converts.convert(backbone)
    module = adapter.load(backbone, folder)
    module.requires_grad_(False)
    return adapter, backbone, module.eval()


def head_of(config: RunConfig) -> Head:
    """The kind of head that the run's task puts on."""
    return _task_of(config).head


def preprocessing_of(config: RunConfig) -> Preprocessing | TextPreprocessing:
    """What was done to every image or text of the run."""
    if _task_of(config).input_kind == "text":
        found = source_of(config.backbone).text_preprocessing(config.backbone, head_of(config))
        return dataclasses.replace(found, max_length=config.task.get("max_length") or found.max_length)
    found = source_of(config.backbone).preprocessing(config.backbone, config.task.get("image_size"))
    crop = config.task.get("crop")
    return found if crop is None else dataclasses.replace(found, crop=crop)


def columns_of(config: RunConfig) -> tuple[str, ...]:
    """The columns of text that the run was trained on; none for images."""
    task = create("task", config.task, key="kind", where="task")
    return tuple(task.columns())


def _task_of(config: RunConfig) -> type[Task]:
    return component("task", config.task["kind"], where="task")  # pyright: ignore[reportReturnType]


def load_deployed(
    config: RunConfig, folder: Path, outputs: int, quantizer: Mapping[str, Any] | None = None
) -> tuple[Backbone, nn.Module]:
    """The run's model as it was evaluated: of ``quantize: after`` the merged one, quantized."""
    adapter, backbone, module = load_adapted(config, folder, outputs, quantizer)
    if config.quantize == "after":
        merged = merged_model(adapter, backbone, module)
        module = quantized_model(create("quantizer", quantizer or config.quantizer), backbone, merged)
    return backbone, module.eval()


def check_backbone(config: RunConfig) -> None:
    """The backbone's files are those of the run.

    A hub that cannot be asked is no reason to refuse: loading takes what lies in the cache, or fails by itself.

    Raises:
        BackboneError: other weights go by the same name.
    """
    source = source_of(config.backbone)
    try:
        found = source.fingerprint(config.backbone)
    except BackboneError:
        return
    if found != config.backbone_fingerprint:
        raise BackboneError(
            f"not the weights it was trained on: fingerprint {found[:12]}, then {config.backbone_fingerprint[:12]}",
            where=config.backbone,
            remedy="put the original weights there, or name their revision",
        )


def load_forward(folder: Path, exported: Exported) -> Forward:
    """What computes logits from inputs, of an exported model in any form.

    Raises:
        RecordError: packed or ONNX, and damaged.
        BackboneError: merged and damaged, or an adapter without its backbone.
        MissingExtra: ONNX, and onnxruntime is not installed.
    """
    if exported.kind == "onnx":
        model = OnnxModel(folder / ONNX, threads=torch.get_num_threads())
        return lambda inputs: torch.from_numpy(model.logits(**{name: tensor.numpy() for name, tensor in inputs.items()}))
    if exported.kind == "adapter":
        backbone, whole = load_deployed(exported.config, folder, len(exported.label_names), exported.quantizer)
        return lambda inputs: backbone.outputs(whole, inputs)
    module, compute = load_module(folder, exported), _OUTPUTS[exported.library](head_of(exported.config))
    return lambda inputs: compute(module, inputs)


def load_module(folder: Path, exported: Exported) -> nn.Module:
    """The model in any form but ONNX; errors as :func:`load_forward`."""
    if exported.kind == "adapter":
        return load_deployed(exported.config, folder, len(exported.label_names), exported.quantizer)[1]
    return packed_module(folder, exported) if exported.kind == "packed" else _opened(folder, exported, weights=True)


def packed_module(folder: Path, exported: Exported) -> nn.Module:
    """The library's own model, its quantized layers packed."""
    return read_packed(folder, _opened(folder, exported, weights=False)).eval()


def _opened(folder: Path, exported: Exported, *, weights: bool) -> nn.Module:
    try:
        return _OPEN[exported.library](folder, head_of(exported.config), weights).eval()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise BackboneError(
            f"cannot be loaded: {str(error).splitlines()[0][:200]}", where=str(folder), remedy=_EXPORT_AGAIN
        ) from error


def _open_transformers(folder: Path, head: Head, weights: bool) -> nn.Module:
    import transformers
    from transformers.utils import logging

    auto = getattr(transformers, AUTO[head])

    if weights:
        logging.disable_progress_bar()
        return auto.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with seeded(0, "packed"):  # values that are drawn and then all replaced
        return auto.from_config(config, trust_remote_code=False)


def _open_timm(folder: Path, head: Head, weights: bool) -> nn.Module:
    import timm

    with seeded(0, "packed"):
        return timm.create_model(f"local-dir:{folder}", pretrained=weights)


#: library -> how a finished model, or one of its shape, is opened with nothing but that library
_OPEN: Mapping[str, Callable[[Path, Head, bool], nn.Module]] = {"transformers": _open_transformers, "timm": _open_timm}
#: library -> head -> what computes logits
_OUTPUTS: Mapping[str, Callable[[Head], Callable[[nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]]] = {
    "transformers": lambda head: OUTPUTS.get(head, logits),
    "timm": lambda head: lambda module, inputs: module(inputs["pixel_values"]),
}
