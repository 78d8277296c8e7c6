"""Deployed models, measured. One thread; what is compared is called in turns; medians. Prints JSON.

    python benchmarks/deployment.py [--weights FOLDER] [--image-size N] [--batches 1 64] [--only TEXT...] [--part layer]
    python benchmarks/deployment.py --accuracy [--backbone NAME] [--data NAME] [--image-size N] [--steps N] [--seeds 0 1 2]
    python benchmarks/deployment.py --run FOLDER RUN [--run FOLDER RUN]...

The first:

* ``layer``: 768 -> 3072 at 1 row and at 197, in int4 and int8 (groups of 32) against float32, exact and with inputs in 8 bits, in
  onnxruntime, in time of the processor. A layer that is called again and again lies in the processor's cache; ``of 12`` is the
  mean of twelve with weights of their own, as many as a ViT-Base has, whose 9.4 MB each come from memory. ``error``: root mean
  square of the difference from the same product in float64, relative to that of its outputs.
* ``model``: ViT-Tiny with 10 classes, with real weights where a folder is named (time and bytes do not depend on them): merged
  QA-LoRA in INT4, INT8, NF4 and FP4 in onnxruntime against merged LoRA in float32 there; and in torch the same float model merged
  and with its LoRA beside it, LoRA beside the weights of bitsandbytes, and QA-LoRA beside its own. Latency at every batch,
  relative difference of the logits from those of the unmerged model, bytes on the disk. ``--only`` picks forms by their names.

The second trains LoRA, QLoRA and QA-LoRA arms on a backbone and data (by default the embedded one on the digits) and scores every
form in which each run can be exported on its test split, with bytes and latency. The third does so with runs that are there.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _deployment_runs import chosen, run_rows, study, train_study
from _turns import in_turns
from _vit import vit_tiny
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.deployment.onnx_engine import OnnxModel
from peftlab.deployment.onnx_graph import write_onnx
from peftlab.deployment.onnx_layers import LEVELS
from peftlab.deployment.packed import WEIGHTS, write_packed
from peftlab.nn.packed import PackedLinear
from peftlab.training.assemble import Ingredients

D_IN, D_OUT, GROUP = 768, 3072, 32
ROUNDED = ("int4", "int8")  #: types that onnxruntime multiplies with inputs in 8 bits
ADAPTER = {"rank": 6, "targets": "standard"}  #: 192 inputs are six groups of 32: the largest rank of QA-LoRA
#: form -> adapter, quantizer; merged and written as ONNX
MERGED: dict[str, tuple[str, dict[str, Any]]] = {
    "float32": ("lora", {"name": "none"}),
    **{kind: ("pooled", {"name": "groupwise", "type": kind, "group_size": GROUP}) for kind in ("int4", "int8", "nf4", "fp4")},
}
#: form -> adapter, quantizer; as trained, in torch
UNMERGED: dict[str, tuple[str, dict[str, Any]]] = {
    "torch, LoRA on float32": ("lora", {"name": "none"}),
    "torch, LoRA on bitsandbytes NF4": ("lora", {"name": "bnb", "bits": 4}),
    "torch, LoRA on bitsandbytes FP4": ("lora", {"name": "bnb", "bits": 4, "type": "fp4"}),
    "torch, LoRA on bitsandbytes int8": ("lora", {"name": "bnb", "bits": 8}),
    "torch, QA-LoRA on int4": ("pooled", {"name": "groupwise", "type": "int4", "group_size": GROUP}),
}


def row(what: str, times: Mapping[str, float], layers: int = 1) -> dict[str, Any]:
    return {
        "what": what,
        "ms": {name: round(value / layers, 4) for name, value in times.items()},
        "times_faster": {name: round(times["float32"] / value, 3) for name, value in times.items() if name != "float32"},
    }


class Layers(nn.Module):
    """Several layers on the same input; the sum of their outputs, which costs little, keeps every one."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(x).sum(-1) for layer in self.layers]).sum(0) if len(self.layers) > 1 else self.layers[0](x)


def with_rounded_inputs(path: Path) -> Path:
    """8-bit inputs are an attribute of the operators, so the graph need not be recorded again."""
    import onnx

    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = LEVELS["int8"]
    target = path.with_name(f"{path.stem}-8-bit-inputs.onnx")
    onnx.save(model, target)
    return target


def variants(
    floats: nn.Module, packed: nn.Module, kind: str, outputs: Any, example: dict[str, torch.Tensor], folder: Path
) -> dict[str, Path]:
    """Name -> file."""
    names = ("float32", kind, f"{kind}, 8-bit inputs")
    paths = {name: folder / f"layers-{name}.onnx" for name in names}
    write_onnx(floats, outputs, example, paths["float32"])
    write_onnx(copy.deepcopy(packed), outputs, example, paths[kind])
    write_onnx(packed, outputs, example, paths[names[-1]], activations="int8")
    return paths


def merged_layer(layer: PackedLinear) -> PackedLinear:
    """With an update in its zero points."""
    return layer.shifted(1e-3 * torch.randn(layer.scale.shape))


def errors(models: Mapping[str, OnnxModel], floats: nn.Linear, packed: PackedLinear, x: np.ndarray) -> dict[str, float]:
    found = {}
    for name, model in models.items():
        layer = copy.deepcopy(floats if name == "float32" else packed).double()
        wanted = layer(torch.from_numpy(x).double()).detach().numpy()
        difference = np.mean((model.logits(x=x) - wanted) ** 2) / np.mean(wanted**2)
        found[name] = float(f"{np.sqrt(difference):.2g}")
    return found


def layer_rows(folder: Path, repeats: int, kind: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for count, rows in ((1, (1, 197)), (12, (1,))):
        floats = [nn.Linear(D_IN, D_OUT) for _ in range(count)]
        packed = [merged_layer(PackedLinear.of(layer, GROUP, kind, bounds=False)) for layer in floats]
        first, example = packed[0], {"x": torch.zeros(2, D_IN)}
        paths = variants(Layers(floats), Layers(packed), kind, lambda m, i: m(i["x"]), example, folder)
        models = {name: OnnxModel(path, threads=1) for name, path in paths.items()}
        for n in rows:
            x = np.random.default_rng(0).standard_normal((n, D_IN), dtype=np.float32)
            calls = {name: (lambda model=model, x=x: model.logits(x=x)) for name, model in models.items()}
            what = f"layer {D_IN} -> {D_OUT}, {n} row{'s' * (n > 1)}" + (f", of {count}" if count > 1 else "")
            found.append(row(what, in_turns(calls, repeats if n == 1 else repeats // 4, time.thread_time), count))
            if count == 1:
                found[-1]["error"] = errors(models, floats[0], first, x)
    return found


def adapted(backbone: str, adapter: str, quantizer: dict[str, Any], pixels: int) -> Adapted:
    """As after training: an update that is not zero."""
    parts = Ingredients.of(
        backbone=backbone,
        task={"kind": "image-classification", "data": "digits", "image_size": pixels},
        adapter={"name": adapter, **ADAPTER},
        allocator=None,
        quantizer=quantizer,
    )
    made, random = parts.build(10, 0), torch.Generator().manual_seed(0)
    for name, parameter in made.trainable().items():
        if not made.is_head(name) and not parameter.any():  # B starts at zero
            parameter.data = 1e-2 * torch.randn(parameter.shape, generator=random)
    made.module.requires_grad_(False)
    made.module.eval()
    return made


def merged_forms(
    backbone: str, pixels: int, only: Sequence[str], folder: Path
) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """(form -> engine, sizes on the disk, relative difference of logits from those of the unmerged model)."""
    models: dict[str, Any] = {}
    differences: dict[str, float] = {}
    sizes: dict[str, dict[str, Any]] = {"safetensors": {}, "onnx": {}}
    probe = torch.randn(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(1))
    for name, (adapter, quantizer) in MERGED.items():
        if name != "float32" and not chosen(name, only):
            continue
        made = adapted(backbone, adapter, quantizer, pixels)
        outputs, example = made.backbone.outputs, {"pixel_values": probe}
        with torch.inference_mode():
            before = outputs(made.module, example)
        whole = made.adapter.merge(made).eval()
        write_packed(whole, folder)
        sizes["safetensors"][name] = (folder / WEIGHTS).stat().st_size
        files = {name: folder / f"{name}.onnx"}
        write_onnx(whole, outputs, example, files[name])
        sizes["onnx"][name] = files[name].stat().st_size
        if name in ROUNDED:
            files[f"{name}, 8-bit inputs"] = with_rounded_inputs(files[name])
        for form, path in files.items():
            models[form] = OnnxModel(path, threads=1)
            found = torch.from_numpy(models[form].logits(pixel_values=probe.numpy()))
            differences[form] = float(f"{float((found - before).abs().max() / before.abs().max()):.2g}")
    for of_format in sizes.values():
        of_format["ratio"] = {n: round(size / of_format["float32"], 4) for n, size in of_format.items() if n != "float32"}
    return models, sizes, differences


def model_rows(backbone: str, pixels: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    models, sizes, differences = merged_forms(backbone, pixels, options.only, folder)
    unmerged = {name: adapted(backbone, *parts, pixels) for name, parts in UNMERGED.items() if chosen(name, options.only)}
    plain = adapted(backbone, *MERGED["float32"], pixels)
    whole, outputs, rows = plain.adapter.merge(plain).eval(), plain.backbone.outputs, []
    for batch in options.batches:
        x = torch.randn(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
        calls: dict[str, Any] = {}
        for name, model in models.items():
            calls[name] = lambda model=model, x=x.numpy(): model.logits(pixel_values=x)
        calls["torch, merged float32"] = lambda x=x: outputs(whole, {"pixel_values": x})
        for name, made in unmerged.items():
            calls[name] = lambda made=made, x=x: made.backbone.outputs(made.module, {"pixel_values": x})
        with torch.inference_mode():
            times = in_turns(calls, options.repeats if batch == 1 else max(options.repeats // 20, 3))
        rows.append(row(f"ViT-Tiny at {pixels} px, batch {batch}", times))
        print(json.dumps(rows[-1]), flush=True)
    return {"model": rows, "bytes": sizes, "largest_change_of_a_logit": differences}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=100, help="of a call at batch 1; fewer of longer ones")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--weights", type=Path, help="folder of a ViT-Tiny; default: random weights")
    parser.add_argument("--part", choices=("layer", "model"), default="model", help="how far to go; default: to the end")
    parser.add_argument("--image-size", type=int, help="default 224; of --accuracy the backbone's own")
    only = "forms (of --accuracy: arms) whose name contains one of these, beside float32 (lora); default: all"
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help=only)
    parser.add_argument("--run", nargs=2, action="append", metavar=("FOLDER", "RUN"), default=[])
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--backbone", default="bundled:vit-nano", help="of --accuracy")
    parser.add_argument("--data", default="digits", help="of --accuracy: a name, a folder or a file")
    parser.add_argument("--steps", type=int, help="of --accuracy; default: five epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of --accuracy")
    parser.add_argument("--rank", type=int, default=2, help="of --accuracy")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of --accuracy")
    parser.add_argument("--split", type=int, nargs=3, metavar=("TRAIN", "VALIDATION", "TEST"), help="of --accuracy: examples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, Any] = {
        "benchmark": "deployment",
        "versions": {name: version(name) for name in ("torch", "bitsandbytes", "onnxruntime", "onnx", "onnxscript")},
        "threads": 1,
        "group_size": GROUP,
        "load_before": [round(load, 1) for load in os.getloadavg()],
    }
    with tempfile.TemporaryDirectory(prefix="peftlab-bench-") as name:
        folder = Path(name)
        if options.accuracy or options.run:
            found |= accuracy(options, folder)
        else:
            found["layer"] = [row for kind in ROUNDED for row in layer_rows(folder, options.repeats, kind)]
            print(json.dumps(found["layer"]), flush=True)
            if options.part == "model":
                backbone, weights = vit_tiny(options.weights, folder)
                found |= {"weights": weights, **model_rows(backbone, options.image_size or 224, options, folder)}
    found["load_after"] = [round(load, 1) for load in os.getloadavg()]
    text = json.dumps(found, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


def accuracy(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    runs, about = options.run, {}
    if options.accuracy:
        train = {"epochs": 5, "batch_size": 32, "learning_rate": options.learning_rate, "max_steps": options.steps}
        task = {"image_size": options.image_size}
        if options.split:
            task |= dict(zip(("train_size", "validation_size", "test_size"), options.split, strict=True))
        content = study(options.backbone, options.data, options.rank, train, task, options.seeds)
        runs = [*runs, *train_study(content, options.only, folder)]
        about = {"backbone": Path(options.backbone).name, "data": Path(options.data).name, "train": train, "task": task}
    rows = {}
    for i, (results, run) in enumerate(runs):
        (folder / str(i)).mkdir()
        rows[run] = run_rows(results, run, folder / str(i), options.repeats, options.batches)
        print(json.dumps(rows[run]), flush=True)
    return {**about, "runs": rows}


if __name__ == "__main__":
    main()
