"""What products in 8 bits do to accuracy: LoRA with `int8-dynamic` beside LoRA in float32, on the same seeds.

    python benchmarks/int8_accuracy.py [--output FILE] [--seeds 5] [--backbone NAME --data FOLDER --pixels 96]

The demo's task and its LoRA of rank 8 (default), or any backbone and data. A study refuses the quantizer on a processor without
VNNI, where it is slower than float32; that is put aside here, because the sums are the same on every processor. Prints
JSON: accuracies of both arms, seed by seed, and the paired difference with its 95 % interval as `peftlab analyze` has it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from _report import report

from peftlab import api
from peftlab.quantizers.int8_dynamic import DynamicInt8Quantizer


def study(options: argparse.Namespace) -> dict[str, Any]:
    lora = {"name": "lora", "rank": 8, "targets": options.targets}
    task: dict[str, Any] = {"kind": "image-classification", "data": "digits"}
    train: dict[str, Any] = {"epochs": options.epochs, "batch_size": 64, "warmup": 0.06, "learning_rate": options.learning_rate}
    if options.data:
        task |= {"data": {"name": "npz", "path": options.data}, "image_size": options.pixels}
        task |= {"train_size": 1000, "validation_size": 100, "test_size": 1000}
    return {
        "study": "int8-accuracy",
        "backbone": options.backbone,
        "task": task,
        "seeds": list(range(options.seeds)),
        "train": train,
        "arms": {"float": {"adapter": lora}, "int8": {"adapter": lora, "quantizer": "int8-dynamic"}},
        "analysis": {"metric": "accuracy", "baseline": "float"},
    }


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    DynamicInt8Quantizer.refuse = lambda _self, _device: None  # pyright: ignore
    path = folder / "int8.yaml"
    path.write_text(json.dumps(study(options)), encoding="utf-8")  # YAML holds JSON
    api.run(path, output=folder / "results", jobs=options.jobs)
    findings = api.analyze(folder / "results" / "int8-accuracy")
    [difference] = [found for found in findings["findings"] if found["kind"] == "difference"]
    return {
        "accuracy": {arm["label"]: [round(value, 4) for value in arm["values"]] for arm in findings["arms"]},
        "difference": round(difference["estimate"], 5),
        "interval": [round(end, 5) for end in difference["interval"]],
        "sentence": difference["sentence"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--backbone", default="bundled:vit-nano")
    parser.add_argument("--data", help="folder of train.npz and test.npz; default: the digits")
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--targets", default="all-linear")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(options, Path(folder))
    data = Path(options.data).name if options.data else "digits"
    settings = {"backbone": Path(options.backbone).name, "data": data, "epochs": options.epochs, "targets": options.targets}
    report("int8_accuracy", options.output, ("torch", "timm", "peft", "transformers"), settings, found=found)


if __name__ == "__main__":
    main()
