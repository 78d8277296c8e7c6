"""Deployed models, measured: ``python benchmarks/deployment.py [--output FILE] [--repeats N] [--run FOLDER RUN]...``.

Everything runs in onnxruntime, one thread, what is compared called in turns; medians. Without ``--run``:

* ``layer``: 768 -> 3072 at 1 row and at 197, in int4 (groups of 32) against float32, exact and with inputs in 8 bits. A layer
  that is called again and again lies in the processor's cache; ``of 12`` is the mean of twelve with weights of their own, as
  many as a ViT-Base has, whose 9.4 MB each come from memory.
* ``model``: ViT-Tiny at 224 px with 10 classes, merged and packed in int4 against float32: latency at batch 1 and 64, and bytes
  on the disk, of the ONNX files and of safetensors. Its weights are random (neither depends on them).

With ``--run``: every form in which a finished run can be exported, scored on the run's own test split: accuracy, bytes, latency.
Give runs of several arms to compare merged INT4 with bitsandbytes and its adapter, the float merge, and the requantized one.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from peftlab import api
from peftlab.api._model_folder import Exported, load_forward
from peftlab.backbones.resolve import source_of
from peftlab.deployment.onnx_engine import OnnxModel
from peftlab.deployment.onnx_graph import write_onnx
from peftlab.deployment.onnx_layers import LEVELS
from peftlab.deployment.packed import WEIGHTS, packed_layers, write_packed
from peftlab.errors import OptionError
from peftlab.nn.packed import PackedLinear
from peftlab.registry import create

D_IN, D_OUT, GROUP = 768, 3072, 32
#: name -> options of ``export``
FORMS: dict[str, dict[str, Any]] = {
    "adapter on its base": {},
    "merged, float": {"merged": True},
    "merged, requantized": {"merged": True, "requantize": True},
    "packed": {"packed": True},
    "packed, requantized": {"packed": True, "requantize": True},
    "ONNX": {"onnx": True},
    "ONNX, 8-bit inputs": {"onnx": True, "activations": "int8"},
}


def in_turns(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Name -> median milliseconds of a call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 2):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn >= 2:  # the first calls set up memory
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def row(what: str, times: Mapping[str, float], layers: int = 1) -> dict[str, Any]:
    return {
        "what": what,
        "ms": {name: round(value / layers, 4) for name, value in times.items()},
        "times_faster": {name: round(times["float32"] / value, 3) for name, value in times.items() if name != "float32"},
    }


class Layers(nn.Module):
    """Several layers on the same input; the sum of their outputs, which costs little, keeps every one."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(x).sum(-1) for layer in self.layers]).sum(0) if len(self.layers) > 1 else self.layers[0](x)


def variants(
    floats: nn.Module, packed: nn.Module, outputs: Any, example: dict[str, torch.Tensor], folder: Path
) -> dict[str, Path]:
    """Name -> file. 8-bit inputs are an attribute of the operators, so that graph need not be recorded again."""
    import onnx

    paths = {name: folder / f"{name}.onnx" for name in ("float32", "int4", "int4, 8-bit inputs")}
    write_onnx(floats, outputs, example, paths["float32"])
    write_onnx(packed, outputs, example, paths["int4"])
    model = onnx.load(paths["int4"])
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = LEVELS["int8"]
    onnx.save(model, paths["int4, 8-bit inputs"])
    return paths


def merged_layer(layer: PackedLinear) -> PackedLinear:
    """With an update in its zero points."""
    return layer.shifted(1e-3 * torch.randn(layer.scale.shape))


def layer_rows(folder: Path, repeats: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for count, rows in ((1, (1, 197)), (12, (1,))):
        floats = [nn.Linear(D_IN, D_OUT) for _ in range(count)]
        packed = [merged_layer(PackedLinear.of(layer, GROUP, "int4", bounds=False)) for layer in floats]
        paths = variants(Layers(floats), Layers(packed), lambda m, i: m(i["x"]), {"x": torch.zeros(2, D_IN)}, folder)
        models = {name: OnnxModel(path, threads=1) for name, path in paths.items()}
        for n in rows:
            x = np.random.default_rng(0).standard_normal((n, D_IN), dtype=np.float32)
            calls = {name: (lambda model=model, x=x: model.logits(x=x)) for name, model in models.items()}
            what = f"layer {D_IN} -> {D_OUT}, {n} row{'s' * (n > 1)}" + (f", of {count}" if count > 1 else "")
            found.append(row(what, in_turns(calls, repeats if n == 1 else repeats // 4), count))
    return found


def vit_tiny(folder: Path) -> Any:
    import timm

    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "num_classes": 1000}')
    return source_of(str(folder)).load(str(folder), outputs=10)


def model_rows(folder: Path, repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    backbone = vit_tiny(folder)
    plain = copy.deepcopy(backbone.module).eval()
    create("quantizer", {"name": "groupwise", "type": "int4", "group_size": GROUP}).convert(backbone)
    for name, layer in packed_layers(backbone.module).items():
        backbone.module.set_submodule(name, merged_layer(layer))
    save_file(plain.state_dict(), folder / "float.safetensors")
    write_packed(backbone.module, folder)
    sizes = {"safetensors": {"float32": (folder / "float.safetensors").stat().st_size, "int4": (folder / WEIGHTS).stat().st_size}}
    paths = variants(plain, backbone.module.eval(), backbone.outputs, {"pixel_values": torch.zeros(2, 3, 224, 224)}, folder)
    models = {name: OnnxModel(path, threads=1) for name, path in paths.items()}
    sizes["onnx"] = {name: path.stat().st_size for name, path in paths.items()}
    for form in sizes.values():
        form["ratio"] = round(form["int4"] / form["float32"], 4)
    rows = []
    for batch in (1, 64):
        x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
        calls = {name: (lambda model=model, x=x: model.logits(pixel_values=x)) for name, model in models.items()}
        rows.append(row(f"ViT-Tiny, batch {batch}", in_turns(calls, repeats if batch == 1 else max(repeats // 20, 3))))
    return rows, sizes


def run_rows(folder: str, run: str, target: Path, repeats: int) -> list[dict[str, Any]]:
    """Every form that this run can take."""
    rows, calls = [], {}
    for name, options in FORMS.items():
        place = target / name.replace(" ", "-")
        try:
            answer = api.export(folder, run, place, **options, evaluate=True)
        except OptionError as error:
            rows.append({"form": name, "refused": error.what})
            continue
        exported = Exported.read(place)
        size = exported.preprocessing.image_size
        forward = load_forward(place, exported)
        calls[name] = lambda forward=forward, size=size: forward(torch.zeros(1, 3, size, size))
        about = {
            key: answer[key] for key in ("run_id", "label", "weights", "merge_difference", "bytes", "test", "test_of_the_run")
        }
        rows.append({"form": name, **about})
    with torch.inference_mode():
        times = in_turns(calls, max(repeats // 4, 3))
    return [{**entry, "ms_batch_1": round(times[entry["form"]], 3)} if entry["form"] in times else entry for entry in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--run", nargs=2, action="append", metavar=("FOLDER", "RUN"), default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "onnx", "onnxscript")},
        "threads": 1,
        "group_size": GROUP,
        "load_before": [round(load, 1) for load in os.getloadavg()],
    }
    with tempfile.TemporaryDirectory(prefix="peftlab-bench-") as name:
        folder = Path(name)
        if options.run:
            found["runs"] = {}
            for i, (results, run) in enumerate(options.run):
                (folder / str(i)).mkdir()
                found["runs"][run] = run_rows(results, run, folder / str(i), options.repeats)
        else:
            found["layer"] = layer_rows(folder, options.repeats)
            print(json.dumps(found["layer"]), flush=True)
            found["model"], found["bytes"] = model_rows(folder, options.repeats)
    found["load_after"] = [round(load, 1) for load in os.getloadavg()]
    text = json.dumps(found, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
