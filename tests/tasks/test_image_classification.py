"""The image classification task on small data written here, and on digits."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from peftlab import registry
from peftlab.errors import DataError, OptionError
from peftlab.tasks.contract import Preprocessing
from peftlab.tasks.image_classification import ImageClassification
from tests.tasks.builders import balanced, encoded, pixels, write_class_folders, write_jpeg_npz, write_npz_folder
from tests.tasks.samples import Sample

SMALL = Preprocessing(image_size=16)


def random_logits(prepared, batch, generator):
    return torch.randn(len(batch["labels"]), prepared.info.outputs, generator=generator)


SAMPLES = [
    Sample(spec={"kind": "image-classification", "data": "digits"}, preprocessing=SMALL, outputs=random_logits),
    Sample(
        spec={"kind": "image-classification", "data": "digits", "folds": 3, "augmentation": "crop"},
        preprocessing=SMALL,
        outputs=random_logits,
    ),
    Sample(
        spec={
            "kind": "image-classification",
            "data": {"name": "digits"},
            "validation": 0.2,
            "train_size": 100,
            "test_size": 50,
            "augmentation": "crop-flip",
        },
        preprocessing=SMALL,
        outputs=random_logits,
    ),
]


def prepare(folder: Path, cache: Path, preprocessing: Preprocessing = SMALL, **options):
    return ImageClassification(data=str(folder), **options).prepare(preprocessing, cache)


def test_is_created_from_a_study():
    task = registry.create("task", {"kind": "image-classification", "data": "digits", "image_size": 32}, key="kind")
    assert task == ImageClassification(data="digits", image_size=32)
    assert task.input_kind == "image"


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"image_size": 0}, "image_size"),
        ({"crop": 1.5}, "crop"),
        ({"validation": 0.0}, "validation"),
        ({"validation": 1.0}, "validation"),
        ({"train_size": 0}, "train_size"),
        ({"folds": 1}, "folds"),
        ({"folds": 3, "test": 0.2}, "test"),
        ({"validation": 0.1, "validation_size": 30}, "validation_size"),
        ({"augmentation": "mixup"}, "augmentation"),
        ({"on_corrupt": "ignore"}, "on_corrupt"),
    ],
)
def test_bad_options_are_refused_where_they_stand(options, where):
    with pytest.raises(OptionError) as caught:
        registry.create("task", {"kind": "image-classification", "data": "digits", **options}, key="kind")
    assert caught.value.where == f"task.{where}"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"train_size": 2000}, "train_size"),
        ({"test_size": 400}, "test_size"),
        ({"validation_size": 400}, "validation_size"),
        ({"test": 0.3}, "test"),
        ({"validation": 0.001}, "validation"),
        ({"validation": 0.9999}, "validation"),
        ({"folds": 1798}, "folds"),
    ],
)
def test_sizes_and_shares_that_do_not_work_out_are_refused_before_training(options, where):
    with pytest.raises(OptionError) as caught:
        ImageClassification(data="digits", **options).info()
    assert caught.value.where == where
    assert caught.value.remedy


def test_the_share_named_in_the_remedy_works():
    with pytest.raises(OptionError) as caught:
        ImageClassification(data="digits", validation=0.001).info()
    share = float(caught.value.remedy.split()[1])
    assert ImageClassification(data="digits", validation=share).info().sizes["validation"] >= 10


def test_sizes_are_what_they_say(tmp_path):
    folder = write_npz_folder(tmp_path / "data", classes=4, train=50, test=20)
    assert ImageClassification(data=str(folder)).info().sizes == {"train": 180, "validation": 20, "test": 80}
    subset = ImageClassification(data=str(folder), train_size=40, validation=0.2, test_size=12)
    assert subset.info().sizes == {"train": 40, "validation": 10, "test": 12}
    counted = ImageClassification(data=str(folder), train_size=40, validation_size=8)
    assert counted.info().sizes == {"train": 40, "validation": 8, "test": 80}


def test_only_the_examples_in_use_are_decoded_and_kept(tmp_path):
    folder = write_npz_folder(tmp_path / "data", classes=4, train=50, test=20)
    prepared = prepare(folder, tmp_path / "cache", train_size=36, test_size=12)
    arrays = [np.load(path, mmap_mode="r") for path in (tmp_path / "cache" / "images").glob("*.npy")]
    assert {len(array) for array in arrays} == {36 + 4 + 12}
    outside = np.setdiff1d(np.arange(280), np.concatenate([prepared.splits(0)[s] for s in ("train", "validation", "test")]))
    with pytest.raises(IndexError):
        prepared.batch(outside[:1])


def test_batches_are_normalised_pixels(tmp_path):
    folder = write_npz_folder(tmp_path / "data")
    preprocessing = Preprocessing(image_size=12, mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.4))
    prepared = prepare(folder, tmp_path / "cache", preprocessing)
    indices = prepared.splits(1).train
    batch = prepared.batch(indices)
    expected = np.load(folder / "train.npz")["images"][indices].astype(np.float64) / 255
    expected = (expected - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    assert batch["pixel_values"].dtype == torch.float32 and batch["pixel_values"].is_contiguous()
    np.testing.assert_allclose(batch["pixel_values"].numpy(), expected.transpose(0, 3, 1, 2), atol=2e-6)
    assert batch["labels"].tolist() == np.load(folder / "train.npz")["labels"][indices].tolist()


@pytest.mark.parametrize("kind", ["flip", "crop", "crop-flip"])
def test_augmentation_happens_in_training_only(tmp_path, kind):
    folder = write_npz_folder(tmp_path / "data")
    prepared = prepare(folder, tmp_path / "cache", augmentation=kind)
    indices = prepared.splits(0).train
    plain = prepared.batch(indices)["pixel_values"]
    first = prepared.batch(indices, torch.Generator().manual_seed(1))["pixel_values"]
    other = prepared.batch(indices, torch.Generator().manual_seed(2))["pixel_values"]
    assert not torch.equal(plain, first) and not torch.equal(first, other)
    assert torch.equal(plain, prepare(folder, tmp_path / "cache").batch(indices, torch.Generator())["pixel_values"])


def test_loss_is_cross_entropy(tmp_path):
    prepared = prepare(write_npz_folder(tmp_path / "data"), tmp_path / "cache")
    batch = prepared.batch(prepared.splits(0).train[:7])
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    by_hand = -torch.log_softmax(logits, 1)[torch.arange(7), batch["labels"]].mean()
    torch.testing.assert_close(prepared.loss(logits, batch), by_hand)
    smooth = functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
    torch.testing.assert_close(prepared.loss(logits, batch, 0.1), smooth)
    assert prepared.loss(logits.bfloat16(), batch).dtype == torch.float32


def test_an_image_size_that_differs_from_the_backbones_is_refused(tmp_path):
    with pytest.raises(OptionError, match="64 pixels"):
        ImageClassification(data="digits", image_size=64).prepare(SMALL, tmp_path)


def test_crop_overrides_the_backbones(tmp_path):
    folder = write_npz_folder(tmp_path / "data")
    indices = np.arange(5)
    whole = prepare(folder, tmp_path / "cache").batch(indices)
    cut = prepare(folder, tmp_path / "cache", crop=0.5).batch(indices)
    same = prepare(folder, tmp_path / "cache", Preprocessing(image_size=16, crop=0.5)).batch(indices)
    assert not torch.equal(whole["pixel_values"], cut["pixel_values"])
    assert torch.equal(same["pixel_values"], cut["pixel_values"])


def test_an_own_validation_split_is_kept_unless_a_share_is_asked_for(tmp_path):
    folder = write_npz_folder(tmp_path / "data", train=20, test=5)
    np.savez(folder / "val.npz", images=pixels(9, seed=9), labels=balanced(3, 3), label_names=[f"class {i}" for i in range(3)])
    fixed = ImageClassification(data=str(folder)).prepare(SMALL, tmp_path / "cache")
    assert np.array_equal(fixed.splits(0).validation, fixed.splits(1).validation)
    assert fixed.info.sizes == {"train": 60, "validation": 9, "test": 15}
    drawn = ImageClassification(data=str(folder), validation=0.2).prepare(SMALL, tmp_path / "cache")
    assert not np.array_equal(drawn.splits(0).validation, drawn.splits(1).validation)
    assert drawn.info.sizes == {"train": 55, "validation": 14, "test": 15}
    assert np.array_equal(drawn.splits(0).test, fixed.splits(0).test)


def test_val_without_test_serves_as_test_and_says_so(tmp_path):
    info = ImageClassification(data=str(write_npz_folder(tmp_path / "data", held_out="val"))).info()
    assert info.sizes["test"] == 12
    assert any("'val' split serves as test" in note for note in info.notes)


def test_copies_of_training_images_in_test_are_counted(tmp_path):
    folder = write_npz_folder(tmp_path / "data", classes=2, train=10, test=5)
    train, test = np.load(folder / "train.npz"), dict(np.load(folder / "test.npz"))
    test["images"] = test["images"].copy()
    test["images"][:3] = train["images"][4:7]
    np.savez(folder / "test.npz", **test)
    task = ImageClassification(data=str(folder))
    assert any("3 of 10 test images are also in train" in text for text in task.prepare(SMALL, tmp_path / "c").info.warnings)
    folds = ImageClassification(data=str(folder), folds=2).prepare(SMALL, tmp_path / "c").info.warnings
    assert any("3 images are copies of others" in text for text in folds)


def test_a_class_missing_in_test_is_a_warning_and_in_train_an_error(tmp_path):
    folder = write_npz_folder(tmp_path / "data", classes=3)
    np.savez(folder / "test.npz", images=pixels(6), labels=np.array([0, 0, 0, 1, 1, 1]))
    assert any(
        "1 class has no test example ('class 2')" in text for text in ImageClassification(data=str(folder)).info().warnings
    )
    names = np.array(["a", "b", "c"])
    np.savez(folder / "train.npz", images=pixels(20), labels=balanced(2, 10), label_names=names)
    np.savez(folder / "test.npz", images=pixels(6), labels=balanced(3, 2), label_names=names)
    with pytest.raises(DataError, match=r"no training example \('c'\)"):
        ImageClassification(data=str(folder)).info()


def test_a_class_with_one_training_example_cannot_be_split(tmp_path):
    folder = write_npz_folder(tmp_path / "data", classes=3)
    np.savez(folder / "train.npz", images=pixels(21), labels=np.array([0] * 10 + [1] * 10 + [2]))
    with pytest.raises(DataError, match="one training example"):
        ImageClassification(data=str(folder)).info()


def test_one_class_is_no_task(tmp_path):
    with pytest.raises(DataError, match="nothing to tell apart"):
        ImageClassification(data=str(write_npz_folder(tmp_path / "data", classes=1))).info()


def corrupt_folder(root: Path) -> Path:
    write_class_folders(root / "train", classes=2, each=12)
    write_class_folders(root / "test", classes=2, each=4, seed=1)
    whole = encoded(pixels(1)[0])
    (root / "train" / "class-0" / "3.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "class-1" / "5.png").write_bytes(b"no image at all")
    return root


def test_corrupt_images_are_named_and_counted(tmp_path):
    folder = corrupt_folder(tmp_path / "data")
    with pytest.raises(DataError) as caught:
        prepare(folder, tmp_path / "cache")
    text = str(caught.value)
    assert "2 of 32 images" in text and "class-0/3.png" in text and "class-1/5.png" in text and "on_corrupt: skip" in text


def test_skipped_images_are_reported_and_never_served(tmp_path):
    folder = corrupt_folder(tmp_path / "data")
    prepared = prepare(folder, tmp_path / "cache", on_corrupt="skip", validation=0.2)
    assert any("2 corrupt images were skipped ('" in text and "3.png" in text for text in prepared.info.warnings)
    assert sum(prepared.info.sizes.values()) == 30
    served = np.concatenate([prepared.splits(s)[split] for s in range(5) for split in ("train", "validation", "test")])
    assert len(np.unique(served)) == 30
    with pytest.raises(DataError, match="2 of 32"):  # what skipping left in the cache does not hide them from others
        prepare(folder, tmp_path / "cache")


def test_nothing_left_after_skipping_is_an_error(tmp_path):
    folder = write_class_folders(tmp_path / "data" / "train", classes=2, each=5).parent
    write_class_folders(folder / "test", classes=2, each=2)
    for path in (folder / "test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="test split is empty"):
        prepare(folder, tmp_path / "cache", on_corrupt="skip", validation=0.4)


def test_jpeg_buffer_with_a_damaged_image(tmp_path):
    path = write_jpeg_npz(tmp_path / "all.npz")
    arrays = dict(np.load(path))
    arrays["jpeg"] = arrays["jpeg"].copy()
    arrays["jpeg"][arrays["offsets"][7] : arrays["offsets"][8]] = 0
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"1 of 30 images .* row 7"):
        prepare(path, tmp_path / "cache")


def test_a_diverged_model_gets_its_numbers(tmp_path):
    prepared = prepare(write_npz_folder(tmp_path / "data"), tmp_path / "cache")
    batch = prepared.batch(prepared.splits(0).test)
    logits = functional.one_hot(batch["labels"], 3).float() * 5
    logits[0] = math.nan
    logits[1, 0] = math.inf
    meter = prepared.meter()
    meter.update(logits, batch)
    assert math.isnan(meter.compute()["loss"]) and math.isnan(meter.compute()["calibration_error"])
    assert meter.compute()["accuracy"] == pytest.approx(10 / 12)
    assert meter.predictions()["prediction"][:2].tolist() == [-1, -1]
    assert meter.details()["not_finite"] == 2


def test_a_folder_that_moved_has_the_same_fingerprint_and_a_changed_one_has_not(tmp_path):
    first = write_npz_folder(tmp_path / "a")
    second = write_npz_folder(tmp_path / "elsewhere" / "b")
    assert ImageClassification(data=str(first)).fingerprint() == ImageClassification(data=str(second)).fingerprint()
    time.sleep(0.01)
    np.savez(second / "test.npz", images=pixels(12, seed=7), labels=balanced(3, 4))
    assert ImageClassification(data=str(first)).fingerprint() != ImageClassification(data=str(second)).fingerprint()
