"""A whole study of ours, and the same by a script around Hugging Face's Trainer and PEFT.

python benchmarks/_peers_study.py SETTING.json    the other side alone: trains every arm and seed, prints JSON
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATCH = 16
#: arm -> adapter of ours, learning rate, and PEFT's options (None: the head alone; empty: everything)
ARMS: dict[str, tuple[dict[str, Any], float, dict[str, Any] | None]] = {
    "probe": ({"name": "linear-probe"}, 1e-2, None),
    **{
        f"lora-r{rank}": (
            {"name": "lora", "rank": rank, "targets": "fused"},
            1e-3,
            {"r": rank, "lora_alpha": 2 * rank, "target_modules": r".*blocks\.\d+\.attn\.qkv"},
        )
        for rank in (2, 8, 32)
    },
    "lora-top4": (
        {"name": "lora", "rank": 8, "targets": "fused,blocks:8-11"},
        1e-3,
        {"r": 8, "lora_alpha": 16, "target_modules": r".*blocks\.(8|9|10|11)\.attn\.qkv"},
    ),
    "full": ({"name": "full"}, 1e-4, {}),
}
TRAIN = {"epochs": 2, "batch_size": 32, "warmup": 0.06, "weight_decay": 0.01, "clip_norm": 1.0}
SIZES = {"pixels": 96, "train_size": 1000, "validation_size": 100, "test_size": 500, "seeds": 5}
TINY = {"pixels": 32, "train_size": 64, "validation_size": 16, "test_size": 16, "seeds": 1}


def compare_studies(weights: Path | None, data: Path, folder: Path, *, tiny: bool, seeds: int | None = None) -> dict[str, Any]:
    """Seconds of both, their ratio, where ours went, mean test accuracies; ``seeds``: default those of the setting."""
    setting: dict[str, Any] = {
        **(TINY if tiny else SIZES),
        **({"seeds": seeds} if seeds else {}),
        "data": str((data / "images/cifar10").resolve()),
        "backbone": str((weights or data / "weights/vit_tiny_patch16_224").resolve()),
    }
    began, at = time.perf_counter(), time.time()
    ours = _ours(setting, folder)
    ours_s = time.perf_counter() - began
    parts = _parts(folder, at, at + ours_s)
    began = time.perf_counter()
    theirs = _theirs(setting, folder)
    theirs_s = time.perf_counter() - began
    return {
        "setting": {key: value for key, value in setting.items() if key not in ("data", "backbone")},
        "runs": len(ARMS) * setting["seeds"],
        "seconds": {"ours": round(ours_s, 1), "trainer": round(theirs_s, 1)},
        "ratio": round(ours_s / theirs_s, 3),
        "ours": parts,
        "accuracy": {arm: {"ours": _summary(ours[arm]), "trainer": _summary(theirs[arm])} for arm in ARMS},
    }


def _summary(scores: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return {"mean": round(statistics.fmean(scores), 4), "sd": round(deviation, 4)}


def study(setting: dict[str, Any]) -> dict[str, Any]:
    """The study file of our side."""
    return {
        "study": "peers",
        "question": "How long does a whole study take?",
        "backbone": setting["backbone"],
        "task": {
            "kind": "image-classification",
            "data": {"name": "npz", "path": setting["data"]},
            "image_size": setting["pixels"],
            **{key: setting[key] for key in ("train_size", "validation_size", "test_size")},
        },
        "seeds": list(range(setting["seeds"])),
        "train": TRAIN,
        "arms": {arm: {"adapter": adapter, "learning_rate": rate} for arm, (adapter, rate, _) in ARMS.items()},
        "analysis": {"metric": "accuracy", "baseline": "full"},
    }


def _ours(setting: dict[str, Any], folder: Path) -> dict[str, list[float]]:
    """Arm -> test accuracies, of `peftlab run` with two workers: plan, data, runs, analysis and report."""
    path = folder / "peers.yaml"
    path.write_text(json.dumps(study(setting)))  # YAML holds JSON
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PEFTLAB_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "peftlab", "run", str(path), "--output", str(folder / "results"), "--jobs", "2"]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for arm, file in _records(folder):
        found[arm].append(json.loads(file.read_text())["metrics"]["test"]["accuracy"])
    return found


def _records(folder: Path) -> list[tuple[str, Path]]:
    """(arm, results.json) of every run of ours."""
    files = sorted((folder / "results" / "peers" / "runs").glob("*/*/results.json"))
    return [(json.loads((file.parent / "config.json").read_text())["arm"], file) for file in files]


def _parts(folder: Path, began: float, ended: float) -> dict[str, Any]:
    """Seconds of ours before the first run, with runs and after the last, by the times of files; means of a run of each arm."""
    records = _records(folder)
    first = min((file.parent / "config.json").stat().st_mtime for _, file in records)
    last = max(file.stat().st_mtime for _, file in records)
    spent: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for arm, file in records:
        taken = json.loads(file.read_text())["time"]
        probes = sum(taken["hooks_s"].values())
        spent[arm].append({**{key: taken[f"{key}_s"] for key in ("total", "train", "evaluate")}, "probes": probes})
    return {
        "seconds": {"before": round(first - began, 1), "runs": round(last - first, 1), "after": round(ended - last, 1)},
        "a run": {
            arm: {key: round(statistics.fmean(run[key] for run in runs), 1) for key in runs[0]}
            for arm, runs in spent.items()
            if runs
        },
    }


def _theirs(setting: dict[str, Any], folder: Path) -> dict[str, list[float]]:
    path = folder / "setting.json"
    path.write_text(json.dumps(setting))
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, __file__, str(path)], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def loop_trainer(setting: dict[str, Any]) -> dict[str, list[float]]:
    """One process: images decoded and resized once, then Trainer for every arm and seed."""
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from timm.layers.pos_embed import resample_abs_pos_embed
    from transformers import Trainer, TrainingArguments

    def prepared(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        loaded = np.load(Path(setting["data"]) / f"{name}.npz")
        number = setting["train_size"] + setting["validation_size"] if name == "train" else setting["test_size"]
        size = (setting["pixels"], setting["pixels"])
        images = [np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BICUBIC)) for i in loaded["images"][:number]]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()
        return pixels, torch.from_numpy(loaded["labels"][:number])

    class Examples(torch.utils.data.Dataset):
        def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
            self.pixels, self.labels = pixels, labels

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"pixel_values": self.pixels[index], "labels": self.labels[index]}

    class Classifier(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.model(pixel_values)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    def accuracy(predicted: Any) -> dict[str, float]:
        return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}

    pixels, labels = prepared("train")
    held = setting["validation_size"]
    train, validation = Examples(pixels[held:], labels[held:]), Examples(pixels[:held], labels[:held])
    test = Examples(*prepared("test"))
    weights = load_file(Path(setting["backbone"]) / "model.safetensors")
    weights = {name: value for name, value in weights.items() if "head." not in name}
    side = setting["pixels"] // PATCH
    weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], [side, side], num_prefix_tokens=1)
    found: dict[str, list[float]] = {}
    for arm, (_, rate, options) in ARMS.items():
        for seed in range(setting["seeds"]):
            torch.manual_seed(seed)
            model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=setting["pixels"])
            model.load_state_dict(weights, strict=False)
            if options is None:
                for name, parameter in model.named_parameters():
                    parameter.requires_grad_(name.startswith("head."))
            elif options:
                import peft

                model = peft.get_peft_model(model, peft.LoraConfig(**options, modules_to_save=["head"]))
            arguments = TrainingArguments(
                output_dir=str(Path(sys.argv[1]).parent / "trainer"),
                num_train_epochs=TRAIN["epochs"],
                per_device_train_batch_size=TRAIN["batch_size"],
                per_device_eval_batch_size=TRAIN["batch_size"],
                learning_rate=rate,
                weight_decay=TRAIN["weight_decay"],
                max_grad_norm=TRAIN["clip_norm"],
                lr_scheduler_type="cosine",
                warmup_steps=round(TRAIN["warmup"] * TRAIN["epochs"] * -(-len(train) // TRAIN["batch_size"])),
                eval_strategy="epoch",
                save_strategy="no",
                logging_strategy="epoch",
                report_to=[],
                use_cpu=True,
                seed=seed,
                disable_tqdm=True,
            )
            trainer = Trainer(
                model=Classifier(model),
                args=arguments,
                train_dataset=train,
                eval_dataset=validation,
                compute_metrics=accuracy,
            )
            trainer.train()
            found.setdefault(arm, []).append(trainer.evaluate(test)["eval_accuracy"])
            print(arm, seed, found[arm][-1], file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    print(json.dumps(loop_trainer(json.loads(Path(sys.argv[1]).read_text()))))
