"""Writing a whole model in each of its forms, with label names and the preprocessing of training."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from peftlab.api._model_folder import Exported, Kind
from peftlab.backbones.contract import Backbone
from peftlab.deployment.onnx_engine import FILE, OnnxModel
from peftlab.deployment.onnx_graph import write_onnx
from peftlab.deployment.onnx_layers import Activations
from peftlab.deployment.packed import write_packed
from peftlab.errors import TrainingError
from peftlab.nn.seeding import generator
from peftlab.tasks._tokens import TOKENIZER, load_tokenizer, save_tokenizer
from peftlab.tasks.contract import Preprocessing, TextPreprocessing

_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
#: largest relative difference between onnxruntime and torch; what is rounded has no bound
_ALLOWED: Mapping[Activations, float] = {"float": 1e-4, "int8": math.inf}
#: what a model card says of a whole model: what loads it ("": the library it came from), and how it is kept
CARD: Mapping[Kind, tuple[str, str]] = {
    "merged": ("", ""),
    "packed": ("peftlab", ", its weights packed (`peftlab.load_packed`)"),
    "onnx": ("onnx", f", for onnxruntime (`{FILE}`)"),
}


def write_model(whole: nn.Module, backbone: Backbone, target: Path, exported: Exported, activations: Activations) -> float | None:
    """Write a merged model, which is consumed; of ONNX how far onnxruntime is from it: max |difference| / max |logit|.

    Raises:
        TrainingError: onnxruntime does not give the model's outputs, though nothing was to be rounded.
    """
    if exported.kind == "onnx":
        return _write_onnx(whole, backbone, target / FILE, exported, activations)
    backbone.save(whole, target)
    if exported.kind == "packed":
        for name in target.glob("*.safetensors*"):  # the library would take them for weights of its own
            name.unlink()
        write_packed(whole, target)
    _FINISH[backbone.library](target, exported)
    return None


def _write_onnx(whole: nn.Module, backbone: Backbone, path: Path, exported: Exported, activations: Activations) -> float:
    prepared = exported.preprocessing
    example = prepared.example(generator(0, "export"))
    told, longest, compared = dataclasses.asdict(prepared), None, [example]
    if isinstance(prepared, TextPreprocessing):
        if "token_type_ids" in load_tokenizer(prepared.tokenizer).model_input_names:
            example["token_type_ids"] = torch.zeros_like(example["input_ids"])
        save_tokenizer(prepared.tokenizer, path.parent)
        longest = prepared.max_length
        told = {"tokenizer": TOKENIZER, "max_length": longest, "pad_token": prepared.pad_token}
        compared.append({name: tensor[:1, : 1 + tensor.shape[1] // 2] for name, tensor in example.items()})  # of another size
    with torch.inference_mode():
        wanted = [backbone.outputs(whole, inputs) for inputs in compared]
    metadata = {
        "label_names": list(exported.label_names),
        "preprocessing": told,
        "run_id": exported.config.run_id,
        **({"thresholds": dict(exported.thresholds)} if exported.thresholds else {}),
    }
    write_onnx(whole, backbone.outputs, example, path, activations=activations, longest=longest, metadata=metadata)
    model = OnnxModel(path)
    found = [torch.from_numpy(model.logits(**{name: t.numpy() for name, t in inputs.items()})) for inputs in compared]
    difference = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in zip(found, wanted, strict=True))
    if not difference <= _ALLOWED[activations]:
        what = f"onnxruntime and torch differ by {difference:.2g} (at most {_ALLOWED[activations]:.2g})"
        raise TrainingError(what, where=backbone.name, remedy="use --packed or --merged, and report this")
    return difference


def _finish_transformers(folder: Path, exported: Exported) -> None:
    """Label names into the configuration, and a processor or tokenizer that does what was done in training."""
    names, wanted = exported.label_names, exported.preprocessing
    if names:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["id2label"] = {str(number): name for number, name in enumerate(names)}
        config["label2id"] = {name: number for number, name in enumerate(names)}
        if exported.gives_a_number:
            config["problem_type"] = "regression"  # else pipelines take one output for the logit of a class
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if isinstance(wanted, TextPreprocessing):
        save_tokenizer(wanted.tokenizer, folder)
        return
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
    assert isinstance(wanted, Preprocessing)  # timm has models of images only
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["label_names"] = list(exported.label_names)
    if exported.config.task.get("image_size"):
        config["model_args"] = {"img_size": wanted.image_size, **config.get("model_args", {})}
    pretrained = config.setdefault("pretrained_cfg", {})
    pretrained.update(
        input_size=[3, wanted.image_size, wanted.image_size],
        interpolation=wanted.interpolation,
        crop_pct=_timm_crop(wanted),
        crop_mode="center",
        mean=list(wanted.mean),
        std=list(wanted.std),
    )
    for source in ("test_input_size", "test_crop_pct"):
        pretrained.pop(source, None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _timm_crop(wanted: Preprocessing) -> float:
    """A share by which timm resizes as training did: timm rounds size / share down, training rounded it to the nearest."""
    resized = round(wanted.image_size / wanted.crop)
    return wanted.crop if int(wanted.image_size / wanted.crop) == resized else wanted.image_size / (resized + 0.25)


#: library -> what its own saving leaves out
_FINISH: Mapping[str, Callable[[Path, Exported], None]] = {"transformers": _finish_transformers, "timm": _finish_timm}
