"""Does the embedded backbone transfer to digits? Probe, LoRA and full fine-tuning, against random weights.

    python -m recipes.vit_nano.evaluate --weights src/peftlab/backbones/weights/vit-nano --output digits.json

One fixed split of scikit-learn's 1,797 digits: 60 % train, 20 % validation, 20 % test, stratified. The
learning rate is chosen for each arm and each initialisation on the validation split, with seeds that are not
evaluated again; the test split is used once for each run, after its last epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from peft import LoraConfig, get_peft_model
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification

EVALUATION_SEEDS = (0, 1, 2, 3, 4)
TUNING_SEEDS = (100, 101)
GRIDS = {
    "linear-probe": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "lora": (3e-3, 1e-2, 3e-2),
    "full": (5e-4, 1e-3, 2e-3),
}
QUERY_VALUE = ("q_proj", "v_proj")
INITIALISATIONS = ("pretrained", "random")


@dataclass(frozen=True, slots=True)
class Training:
    """What all arms share."""

    epochs: int = 8
    batch_size: int = 64
    warmup_share: float = 0.06
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True)
class Split:
    """Pixels `[N, 3, 32, 32]` in [-1, 1] and labels `[N]`."""

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Result:
    """Test accuracies of one arm from one initialisation, in the order of `EVALUATION_SEEDS`."""

    arm: str
    initialisation: str
    learning_rate: float
    trainable_parameters: int
    test_accuracy: tuple[float, ...]
    run_time_s: float
    validation_accuracy: dict[str, float]

    def mean_and_half_width(self) -> tuple[float, float]:
        """Mean over seeds and half-width of its 95 % t interval: t(0.975, n - 1) s / sqrt(n)."""
        values = torch.tensor(self.test_accuracy, dtype=torch.float64)
        count = len(values)
        quantile = float(stats.t.ppf(0.975, count - 1))
        return float(values.mean()), quantile * float(values.std()) / math.sqrt(count)

    def as_json(self) -> dict[str, Any]:
        """With ``mean`` and ``half_width`` of :meth:`mean_and_half_width`."""
        mean, half_width = self.mean_and_half_width()
        return asdict(self) | {"mean": round(mean, 4), "half_width": round(half_width, 4)}


def digits() -> dict[str, Split]:
    """The fixed split of the digits, enlarged bicubically from 8 to 32 px."""
    source = load_digits()
    images = torch.tensor(source.images, dtype=torch.float32).unsqueeze(1) / 16.0
    images = functional.interpolate(images, (32, 32), mode="bicubic", align_corners=False).clamp(0, 1)
    pixels, labels = (images * 2 - 1).repeat(1, 3, 1, 1), torch.tensor(source.target)
    rest, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    train, validation = train_test_split(rest, test_size=0.25, random_state=0, stratify=labels[rest])
    parts = {"train": train, "validation": validation, "test": test}
    return {name: Split(pixels[index], labels[index]) for name, index in parts.items()}


def build(weights: Path, arm: str, initialisation: str, seed: int) -> nn.Module:
    """The model of one run; `seed` fixes the new head, the adapter and the random backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if initialisation == "pretrained":
            model = AutoModelForImageClassification.from_pretrained(weights, num_labels=10, ignore_mismatched_sizes=True)
        else:
            config = AutoConfig.from_pretrained(weights, num_labels=10)
            model = AutoModelForImageClassification.from_config(config)
        if arm == "lora":
            targets = list(QUERY_VALUE)
            lora = LoraConfig(r=8, lora_alpha=16, target_modules=targets, modules_to_save=["classifier"])
            return get_peft_model(model, lora)
    if arm == "linear-probe":
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
    return model


def fit(model: nn.Module, data: Split, learning_rate: float, training: Training, seed: int) -> None:
    """AdamW, linear warm-up, cosine decay to zero; the generator fixes the order of the data."""
    generator = torch.Generator().manual_seed(seed)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=training.weight_decay, fused=True)
    total = training.epochs * math.ceil(len(data.labels) / training.batch_size)
    warmup = max(1, round(total * training.warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for _ in range(training.epochs):
        for rows in torch.randperm(len(data.labels), generator=generator).split(training.batch_size):
            loss = functional.cross_entropy(model(pixel_values=data.pixels[rows]).logits, data.labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Split) -> float:
    """Share of images classified rightly."""
    model.eval()
    return float((model(pixel_values=data.pixels).logits.argmax(-1) == data.labels).float().mean())


def evaluate_arm(weights: Path, arm: str, initialisation: str, splits: dict[str, Split], training: Training) -> Result:
    """Chooses the learning rate on validation data with the tuning seeds, then runs the evaluation seeds."""
    scores: dict[float, float] = {}
    for learning_rate in GRIDS[arm]:
        values = []
        for seed in TUNING_SEEDS:
            model = build(weights, arm, initialisation, seed)
            fit(model, splits["train"], learning_rate, training, seed)
            values.append(accuracy(model, splits["validation"]))
        scores[learning_rate] = sum(values) / len(values)
    chosen = max(scores, key=lambda rate: scores[rate])
    test, trainable = [], 0
    started = time.perf_counter()
    for seed in EVALUATION_SEEDS:
        model = build(weights, arm, initialisation, seed)
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        fit(model, splits["train"], chosen, training, seed)
        test.append(accuracy(model, splits["test"]))
    return Result(
        arm=arm,
        initialisation=initialisation,
        learning_rate=chosen,
        trainable_parameters=trainable,
        test_accuracy=tuple(test),
        run_time_s=(time.perf_counter() - started) / len(EVALUATION_SEEDS),
        validation_accuracy={f"{rate:g}": score for rate, score in scores.items()},
    )


def markdown_row(result: Result) -> str:
    """One row of the table."""
    mean, half_width = result.mean_and_half_width()
    return (
        f"| {result.initialisation} | {result.arm} | {result.trainable_parameters:,} "
        f"| {result.learning_rate:g} | {mean:.3f} ± {half_width:.3f} | {result.run_time_s:.1f} |"
    )


def markdown_table(results: Sequence[Result]) -> str:
    """The results as a markdown table."""
    head = "| weights | arm | trainable | learning rate | test accuracy, 95 % t interval | s per run |\n"
    return head + "|---|---|---|---|---|---|\n" + "\n".join(markdown_row(result) for result in results)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=Training().epochs)
    parser.add_argument("--arms", nargs="+", choices=tuple(GRIDS), default=tuple(GRIDS))
    parser.add_argument("--initialisations", nargs="+", choices=INITIALISATIONS, default=INITIALISATIONS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training, splits, results = Training(epochs=options.epochs), digits(), []
    for initialisation in options.initialisations:
        for arm in options.arms:
            results.append(evaluate_arm(options.weights, arm, initialisation, splits, training))
            print(markdown_row(results[-1]), flush=True)
    document = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("torch", "transformers", "peft", "scikit-learn")},
        "training": asdict(training),
        "results": [result.as_json() for result in results],
    }
    options.output.write_text(json.dumps(document, indent=2) + "\n")
    print("\n" + markdown_table(results))


if __name__ == "__main__":
    main()
