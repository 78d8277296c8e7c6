"""Pretrains the embedded backbone `bundled:vit-nano` on formula-driven images.

python -m recipes.vit_nano.pretrain --output src/peftlab/backbones/weights/vit-nano --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from recipes.vit_nano.glyphs import glyph_classes
from recipes.vit_nano.images import IMAGE_SIZE, Mixture, draw_batch
from recipes.vit_nano.model_card import write_model_card

VALIDATION_SEED_OFFSET = 1_000_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Optimisation of the pretraining: AdamW, linear warm-up, cosine decay to zero."""

    steps: int = 4500
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    gradient_norm: float = 1.0


def backbone_config(mixture: Mixture) -> ViTConfig:
    """32 px, patch 8 -> 17 tokens, hidden 96, 4 layers, 3 heads: 0.47 M parameters without the head."""
    names = [f"glyph U+{ord(character):04X}" for character in glyph_classes()]
    names += [f"contour {number}" for number in range(mixture.contour_classes)]
    return ViTConfig(
        image_size=IMAGE_SIZE,
        patch_size=8,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=384,
        initializer_range=0.06,  # 0.02 learns much more slowly at this width
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )


def image_processor() -> ViTImageProcessor:
    """Resize to 32 px (bicubic), rescale to [0, 1], normalise to [-1, 1]."""
    return ViTImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=3,
        rescale_factor=1 / 255,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def initialised_model(config: ViTConfig, seed: int) -> ViTForImageClassification:
    """A model with random weights from `seed`; the caller's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTForImageClassification(config)


def learning_rate_factor(step: int, schedule: Schedule) -> float:
    """Share of the peak learning rate at a step: linear up, then (1 + cos(pi t)) / 2."""
    warmup = max(1, round(schedule.steps * schedule.warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, schedule.steps - warmup)))


def optimizer_for(model: ViTForImageClassification, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=True)


def train(model: ViTForImageClassification, mixture: Mixture, schedule: Schedule, seed: int) -> None:
    """Trains in place; every batch is drawn once and never seen again."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = optimizer_for(model, schedule)
    factor = partial(learning_rate_factor, schedule=schedule)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    started = time.perf_counter()
    for step in range(schedule.steps):
        pixels, labels = draw_batch(schedule.batch_size, mixture, generator)
        logits: Tensor = model(pixel_values=pixels).logits
        loss = functional.cross_entropy(logits, labels, label_smoothing=schedule.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.gradient_norm)
        optimizer.step()
        scheduler.step()
        if (step + 1) % 100 == 0:
            elapsed_s = time.perf_counter() - started
            print(f"step {step + 1}/{schedule.steps}  loss {loss.item():.3f}  {elapsed_s:.0f} s", flush=True)


@torch.no_grad()
def pretraining_accuracy(model: ViTForImageClassification, mixture: Mixture, seed: int) -> float:
    """Share of 4,096 fresh images classified rightly."""
    generator = torch.Generator().manual_seed(seed + VALIDATION_SEED_OFFSET)
    model.eval()
    pixels, labels = draw_batch(4096, mixture, generator)
    return float((model(pixel_values=pixels).logits.argmax(-1) == labels).float().mean())


def save(model: ViTForImageClassification, folder: Path, facts: dict[str, object]) -> None:
    """Writes weights, configuration, preprocessing and model card in the Hugging Face folder format."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    weights = folder / "model.safetensors"
    write_model_card(
        folder / "README.md",
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        size_bytes=weights.stat().st_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        facts=facts,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Schedule().steps)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contour-share", type=float, default=Mixture().contour_share)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mixture, schedule = Mixture(contour_share=options.contour_share), Schedule(steps=options.steps)
    model = initialised_model(backbone_config(mixture), options.seed)
    started = time.perf_counter()
    train(model, mixture, schedule, options.seed)
    facts: dict[str, object] = {
        "seed": options.seed,
        "threads": options.threads,
        "wall time, s": round(time.perf_counter() - started),
        "pretraining accuracy, fresh images": round(pretraining_accuracy(model, mixture, options.seed), 3),
        "images drawn": schedule.steps * schedule.batch_size,
        "glyph classes": len(glyph_classes()),
        "contour classes": mixture.contour_classes,
        "contour share": mixture.contour_share,
        "schedule": json.dumps(asdict(schedule)),
        "torch": torch.__version__,
    }
    save(model, options.output, facts)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
