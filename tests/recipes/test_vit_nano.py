"""The embedded backbone: images from a generator, no digit among them, a complete small folder."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from recipes.vit_nano.evaluate import Result, Split, accuracy, build, digits, fit
from recipes.vit_nano.evaluate import Training as Evaluation
from recipes.vit_nano.glyphs import (
    CONFUSABLE,
    DIGITS,
    digit_similarity,
    glyph_atlas,
    glyph_classes,
    looks_like_digit,
)
from recipes.vit_nano.images import Distortion, Mixture, draw_batch, render_contours, through_bottleneck
from recipes.vit_nano.pretrain import (
    Schedule,
    backbone_config,
    initialised_model,
    learning_rate_factor,
    train,
)

WEIGHTS = Path(__file__).parents[2] / "src" / "peftlab" / "backbones" / "weights" / "vit-nano"
SIZE_LIMIT_BYTES = 4_000_000


def generator(seed: int) -> torch.Generator:
    """A generator of its own for each call."""
    return torch.Generator().manual_seed(seed)


def test_batches_follow_from_the_generator() -> None:
    pixels, labels = draw_batch(32, Mixture(), generator(3))
    again, labels_again = draw_batch(32, Mixture(), generator(3))
    other, _ = draw_batch(32, Mixture(), generator(4))
    assert torch.equal(pixels, again) and torch.equal(labels, labels_again)
    assert not torch.equal(pixels, other)


def test_batches_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw_batch(8, Mixture(), generator(0))
    initialised_model(backbone_config(Mixture()), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_batch_shapes_types_and_range() -> None:
    mixture = Mixture(contour_share=0.25)
    pixels, labels = draw_batch(16, mixture, generator(0))
    assert pixels.shape == (16, 3, 32, 32) and pixels.dtype == torch.float32
    assert labels.shape == (16,) and labels.dtype == torch.int64
    assert pixels.min() >= -1 and pixels.max() <= 1
    assert bool(((labels >= 0) & (labels < mixture.class_count)).all())
    assert int((labels >= len(glyph_classes())).sum()) == 4
    assert torch.equal(pixels[:, 0], pixels[:, 2])


def test_contours_may_be_left_out() -> None:
    _, labels = draw_batch(16, Mixture(contour_classes=0), generator(0))
    assert labels.max() < len(glyph_classes())


def test_contours_carry_ink() -> None:
    images = render_contours(torch.arange(32), Distortion(), generator(0))
    assert images.shape == (32, 1, 32, 32)
    assert bool((images.amax(dim=(1, 2, 3)) > 0.5).all())


def test_bottleneck_leaves_constant_images_as_they_are() -> None:
    images = torch.full((2, 1, 32, 32), 0.5)
    assert torch.allclose(through_bottleneck(images), images, atol=1e-6)


def test_bottleneck_keeps_no_more_than_8_by_8_values() -> None:
    images = torch.rand(64, 1, 32, 32, generator=generator(0)) * 0.5 + 0.25
    flat = through_bottleneck(images).flatten(1).double()
    assert int(torch.linalg.matrix_rank(flat, atol=1e-4)) <= 64


def test_atlas_holds_every_class() -> None:
    images, labels = glyph_atlas()
    assert images.dtype == torch.uint8 and len(images) == len(labels)
    assert labels.unique().tolist() == list(range(len(glyph_classes())))
    assert bool((labels.diff() >= 0).all()), "pick_renderings searches in sorted labels"
    assert bool((images.amax(dim=(1, 2)) > 128).all())


def test_no_class_is_a_digit_or_passes_for_one() -> None:
    classes = set(glyph_classes())
    assert len(classes) == len(glyph_classes()) >= 100
    assert not classes & set(DIGITS)
    assert not classes & CONFUSABLE
    assert not any(character.isnumeric() for character in classes)


@pytest.mark.parametrize("character", ["0", "9", "O", "l", "²", "S", "З", "б"])
def test_digits_and_their_twins_are_recognised(character: str) -> None:
    assert looks_like_digit(character)


def test_similarity_is_one_for_digits_and_lower_for_other_shapes() -> None:
    assert digit_similarity("4") == pytest.approx(1.0, abs=1e-5)
    assert digit_similarity("m") < 0.7


def test_learning_rate_rises_then_falls_to_zero() -> None:
    schedule = Schedule(steps=100, warmup_share=0.1)
    factors = [learning_rate_factor(step, schedule) for step in range(101)]
    assert factors[9] == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.0, abs=1e-12)


def test_pretraining_repeats_for_the_same_seed() -> None:
    mixture, schedule = Mixture(), Schedule(steps=2, batch_size=8)
    models = [initialised_model(backbone_config(mixture), 1) for _ in range(2)]
    for model in models:
        train(model, mixture, schedule, seed=5)
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_weights_fit_the_limit_and_the_model_card() -> None:
    content = (WEIGHTS / "model.safetensors").read_bytes()
    assert len(content) <= SIZE_LIMIT_BYTES
    stated = re.search(r"sha256[^`]*`model.safetensors`: `([0-9a-f]{64})`", (WEIGHTS / "README.md").read_text())
    assert stated is not None
    assert stated[1] == hashlib.sha256(content).hexdigest()


def test_folder_loads_as_a_complete_model() -> None:
    model = AutoModelForImageClassification.from_pretrained(WEIGHTS, local_files_only=True)
    assert model.config.num_labels == Mixture().class_count
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model(pixel_values=torch.zeros(2, 3, 32, 32)).logits.shape == (2, Mixture().class_count)


def test_saved_model_knows_its_glyphs() -> None:
    model = AutoModelForImageClassification.from_pretrained(WEIGHTS, local_files_only=True).eval()
    pixels, labels = draw_batch(256, Mixture(), generator(9))
    with torch.no_grad():
        predicted = model(pixel_values=pixels).logits.argmax(-1)
    assert float((predicted == labels).float().mean()) > 0.4  # chance: below 0.01


def test_preprocessing_is_stated() -> None:
    stated = json.loads((WEIGHTS / "preprocessor_config.json").read_text())
    assert stated["size"] == {"height": 32, "width": 32}
    assert stated["image_mean"] == stated["image_std"] == [0.5, 0.5, 0.5]
    processor = AutoImageProcessor.from_pretrained(WEIGHTS, local_files_only=True)
    white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    pixels = processor(images=white, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.allclose(pixels, torch.ones(1, 3, 32, 32), atol=1e-5)


def test_digit_splits_are_disjoint_fixed_and_stratified() -> None:
    splits = digits()
    assert {name: len(split.labels) for name, split in splits.items()} == {
        "train": 1077,
        "validation": 360,
        "test": 360,
    }
    assert all(torch.equal(splits[name].pixels, digits()[name].pixels) for name in splits)
    counts = splits["test"].labels.bincount()
    assert counts.min() >= 34 and counts.max() <= 38


@pytest.mark.parametrize(
    ("arm", "trainable"),
    # probe: 96 x 10 + 10. LoRA: 4 layers x 2 modules x 8 x (96 + 96), and the head.
    [("linear-probe", 970), ("lora", 12_288 + 970)],
)
def test_arms_train_what_they_say(arm: str, trainable: int) -> None:
    model = build(WEIGHTS, arm, "pretrained", seed=0)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == trainable


def test_probe_learns_digits() -> None:
    splits = digits()
    model = build(WEIGHTS, "linear-probe", "pretrained", seed=0)
    fit(model, splits["train"], 3e-2, Evaluation(epochs=2), seed=0)
    few = Split(splits["validation"].pixels[:100], splits["validation"].labels[:100])
    assert accuracy(model, few) > 0.6  # chance 0.1; the documented figure is for the full protocol


def test_t_interval_of_five_values() -> None:
    # mean 0.93, s = 0.0158114, t(0.975, 4) = 2.776445: half-width 2.776445 x 0.0158114 / sqrt(5) = 0.0196324
    result = Result("full", "random", 1e-3, 1, (0.91, 0.92, 0.93, 0.94, 0.95), 1.0, {})
    mean, half_width = result.mean_and_half_width()
    assert mean == pytest.approx(0.93)
    assert half_width == pytest.approx(0.0196324, rel=1e-5)
