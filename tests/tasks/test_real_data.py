"""The extracts that lie beside the repository, if they do: sizes and statistics from their description."""

from __future__ import annotations

import numpy as np
import pytest

from peftlab.tasks.contract import Preprocessing
from peftlab.tasks.image_classification import ImageClassification
from tests.tasks.builders import SHARED

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the data extracts are not beside the repository")

SMALL = Preprocessing(image_size=32)


def test_cifar10():
    task = ImageClassification(data={"name": "cifar10", "path": str(SHARED / "cifar10")}, train_size=2000)
    info = task.info()
    assert info.sizes == {"train": 2000, "validation": 222, "test": 2000}
    assert info.chance["accuracy"] == info.majority["accuracy"] == 0.1
    assert info.label_names[:3] == ("airplane", "automobile", "bird")
    everything = ImageClassification(data=str(SHARED / "cifar10"))
    assert everything.info().sizes == {"train": 9000, "validation": 1000, "test": 2000}


def test_cifar10_pixels(tmp_path):
    """Published channel means and deviations of CIFAR-10; the extract is a sample of 10,000 images."""
    prepared = ImageClassification(data=str(SHARED / "cifar10")).prepare(SMALL, tmp_path)
    splits = prepared.splits(0)
    assert np.bincount(prepared.batch(splits.validation)["labels"].numpy()).tolist() == [100] * 10
    images = prepared.batch(splits.train)["pixel_values"] * 0.5 + 0.5
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.004)
    assert images.std((0, 2, 3)).tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=0.004)
    assert not any("pixel by pixel" in text for text in prepared.info.warnings)


def test_cifar100_fine_and_coarse():
    assert ImageClassification(data=str(SHARED / "cifar100")).info().outputs == 100
    coarse = ImageClassification(data={"name": "npz", "path": str(SHARED / "cifar100"), "label": "coarse_labels"}).info()
    assert coarse.outputs == 20 and "aquatic_mammals" in coarse.label_names


def test_tiny_imagenet(tmp_path):
    prepared = ImageClassification(data={"name": "tiny-imagenet", "path": str(SHARED / "tiny_imagenet")}).prepare(SMALL, tmp_path)
    assert prepared.info.sizes == {"train": 1800, "validation": 200, "test": 1000}
    assert prepared.info.label_names[0] == "goldfish, Carassius auratus"
    assert prepared.info.chance["accuracy_top5"] == 5 / 200
    assert any("'val' split serves as test" in note for note in prepared.info.notes)
    batch = prepared.batch(prepared.splits(0).test)
    assert batch["pixel_values"].shape == (1000, 3, 32, 32)


def test_hymenoptera_folds(tmp_path):
    task = ImageClassification(data=str(SHARED / "hymenoptera"), folds=5)
    prepared = task.prepare(Preprocessing(image_size=32, crop=0.9), tmp_path)
    sizes = [len(prepared.splits(0, fold).test) for fold in range(5)]
    assert sum(sizes) == 244 + 90 and max(sizes) - min(sizes) <= 1
    assert prepared.info.label_names == ("ants", "bees")
