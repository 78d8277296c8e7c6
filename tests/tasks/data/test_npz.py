"""Reading ``.npz`` files: the two formats, and what is wrong with them."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from peftlab.errors import DataError, PeftlabError
from peftlab.tasks.contract import Preprocessing
from peftlab.tasks.data.npz import Npz
from peftlab.tasks.image_classification import ImageClassification
from tests.tasks.builders import balanced, encoded, pixels, write_jpeg_npz, write_npz_folder


def test_a_folder_of_pixel_arrays(tmp_path):
    write_npz_folder(tmp_path, classes=3, train=4, test=2)
    examples = Npz(path=str(tmp_path)).read()
    train, test = np.load(tmp_path / "train.npz"), np.load(tmp_path / "test.npz")
    assert examples.label_names == ("class 0", "class 1", "class 2")
    assert np.array_equal(examples.labels, np.concatenate([train["labels"], test["labels"]]))
    assert np.array_equal(examples.decode(5), train["images"][5])
    assert np.array_equal(examples.decode(13), test["images"][1])
    assert examples.where(13).endswith("test.npz row 1")


def test_a_single_file_is_all_train(tmp_path):
    path = write_jpeg_npz(tmp_path / "everything.npz")
    examples = Npz(path=str(path)).read()
    assert list(examples.roles) == ["train"] and len(examples.labels) == 30
    assert examples.decode(3).size == (16, 16)
    assert ImageClassification(data=str(path), validation=0.25).info().sizes == {"train": 18, "validation": 6, "test": 6}


def test_other_labels_bring_their_own_names(tmp_path):
    labels = balanced(4, 3)
    for split in ("train", "test"):
        np.savez(
            tmp_path / f"{split}.npz",
            images=pixels(12),
            labels=labels,
            label_names=np.array(list("abcd")),
            coarse_labels=labels // 2,
            coarse_label_names=np.array(["x", "y"]),
        )
    assert Npz(path=str(tmp_path)).read().label_names == ("a", "b", "c", "d")
    coarse = Npz(path=str(tmp_path), label="coarse_labels")
    assert coarse.read().label_names == ("x", "y") and coarse.read().labels.max() == 1
    assert coarse.fingerprint() != Npz(path=str(tmp_path)).fingerprint()


def test_names_that_come_twice_are_told_apart_by_their_wnids(tmp_path):
    """ImageNet has two classes called crane: the bird n02012849 and the machine n03126707."""
    np.savez(
        tmp_path / "train.npz",
        images=pixels(6),
        labels=balanced(3, 2),
        names=np.array(["crane", "crane", "maillot"]),
        wnids=np.array(["n02012849", "n03126707", "n03710637"]),
    )
    assert Npz(path=str(tmp_path)).read().label_names == ("crane (n02012849)", "crane (n03126707)", "maillot (n03710637)")


GOOD = {"images": pixels(6), "labels": balanced(3, 2)}
FILE = encoded(pixels(1)[0])
BUFFER = {"jpeg": np.frombuffer(FILE * 2, dtype=np.uint8), "offsets": np.array([0, len(FILE), 2 * len(FILE)]), "labels": [0, 1]}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": balanced(3, 2)}, "has no images"),
        ({"images": pixels(6)}, "no array 'labels'"),
        ({"images": pixels(6), "label": balanced(3, 2)}, "Did you mean 'label'"),
        ({**GOOD, "images": pixels(5)}, "5 images but 6 labels"),
        ({**GOOD, "images": pixels(6).astype(np.float32)}, "images are float32"),
        ({**GOOD, "images": pixels(6).transpose(0, 3, 1, 2)}, "channels last"),
        ({**GOOD, "images": np.zeros((6, 0, 4, 3), dtype=np.uint8)}, "images are uint8"),
        ({**GOOD, "labels": balanced(3, 2).astype(np.float64)}, "labels is float64"),
        ({**GOOD, "labels": np.eye(6, dtype=np.int64)}, r"labels is int64 \[6, 6\]"),
        ({**GOOD, "labels": np.array([0, 1, 2, 0, 1, -1])}, r"train.npz row 5: label -1 is outside 0 .. 2 \(1 such"),
        ({**GOOD, "labels": np.array([0, 1, 2, 0, 1, 2**64 - 1], dtype=np.uint64)}, "labels holds 18446744073709551615"),
        ({**GOOD, "labels": np.array([0, 1, 2, 0, 1, 2**40])}, "label 1099511627776 with 6 examples"),
        ({**GOOD, "label_names": np.array(["a", "b"])}, r"label 2 is outside 0 .. 1 \(2 such labels"),
        ({**GOOD, "label_names": np.array([1, 2, 3])}, "label_names is int64"),
        ({**GOOD, "label_names": np.array(["a", "b", "a"])}, "'a' is the name of two classes"),
        ({"images": pixels(0), "labels": balanced(3, 0)}, "has no examples"),
        ({**GOOD, "labels": np.array([0, 1, None, 0, 1, 2], dtype=object)}, "cannot be read"),
        ({**BUFFER, "offsets": np.array([0, 5])}, "2 offsets for 2 labels"),
        ({**BUFFER, "offsets": np.array([0, 9, 5])}, "row 1: offsets 9 .. 5"),
        ({**BUFFER, "offsets": np.array([0, 5, 10**6])}, "do not lie in order"),
        ({**BUFFER, "offsets": np.array([-4, 5, 9])}, "offsets -4 .. 5"),
        ({**BUFFER, "offsets": np.array([0.0, 5.0, 9.0])}, "offsets is float64"),
        ({**BUFFER, "jpeg": np.zeros((4, 4), dtype=np.uint8)}, r"jpeg is uint8 \[4, 4\]"),
    ],
)
def test_what_is_wrong_is_said_before_training(tmp_path, arrays, message):
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        Npz(path=str(tmp_path)).read()
    assert caught.value.remedy and caught.value.where


def test_files_that_disagree_about_the_classes(tmp_path):
    write_npz_folder(tmp_path)
    np.savez(tmp_path / "test.npz", **GOOD, label_names=np.array(["x", "y", "z"]))
    with pytest.raises(DataError, match="different label names"):
        Npz(path=str(tmp_path)).read()


def test_two_splits_for_one_purpose(tmp_path):
    write_npz_folder(tmp_path)
    for name in ("val", "validation"):
        np.savez(tmp_path / f"{name}.npz", **GOOD)
    with pytest.raises(DataError, match="second validation split"):
        Npz(path=str(tmp_path)).read()


def test_a_test_split_alone_trains_nothing(tmp_path):
    np.savez(tmp_path / "test.npz", **GOOD)
    with pytest.raises(DataError, match=r"no train split \(found: test\)"):
        Npz(path=str(tmp_path)).read()


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", images=pixels(2), labels=np.array([Evil(), Evil()], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        Npz(path="train.npz").read()
    Path("train.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="cannot be read"):
        Npz(path="train.npz").read()
    assert not Path("unpickled").exists()


def test_a_file_that_is_no_archive(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, pixels(2))
    for content in (b"", b"PK\x03\x04", b"hello", buffer.getvalue()):
        (tmp_path / "train.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            Npz(path=str(tmp_path)).read()


def test_a_header_that_promises_more_than_there_is(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (6, 2**20, 2**20, 3)})
    labels = io.BytesIO()
    np.save(labels, balanced(3, 2))
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"\x00" * 64)
        archive.writestr("labels.npy", labels.getvalue())
    with pytest.raises(DataError, match=r"'images': .* bytes promised, 192 there"):
        ImageClassification(data=str(tmp_path), test=0.5, validation=0.4).prepare(Preprocessing(image_size=4), tmp_path / "cache")


ANY_ARRAY = hnp.arrays(
    dtype=st.sampled_from([np.uint8, np.int64, np.uint64, np.float32, np.bool_, "<U3", "S2", "datetime64[s]"]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
KEYS = st.sampled_from(["images", "labels", "jpeg", "offsets", "label_names", "names", "wnids", "other"])


def only_typed_errors(folder: Path, on_corrupt: str = "fail") -> None:
    """Reads, prepares and serves whatever lies there; anything that is not a PeftlabError fails the test."""
    try:
        task = ImageClassification(data={"name": "npz", "path": str(folder)}, validation=0.5, on_corrupt=on_corrupt)
        task.info()
        prepared = task.prepare(Preprocessing(image_size=4), folder / "cache")
        splits = prepared.splits(1)
        assert len(prepared.batch(splits.train)["labels"]) == len(splits.train)
        event("prepared")
    except PeftlabError as error:
        assert error.what and error.remedy
        event(error.what[:20])


FUZZ = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(arrays=st.dictionaries(KEYS, ANY_ARRAY, max_size=5))
def test_fuzz_any_arrays(tmp_path, arrays):
    np.savez(tmp_path / "train.npz", **arrays)
    only_typed_errors(tmp_path)


@FUZZ
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 3, 3, 3])),
    labels=st.lists(st.integers(0, 2), min_size=20, max_size=20),
    extra=st.sampled_from([0, 0, 0, 1, -1]),
    wrong=st.sampled_from([None, None, -1, 3, 2**40]),
)
def test_fuzz_nearly_right_arrays(tmp_path, shape, labels, extra, wrong):
    numbers = np.array(labels[: shape[0] + extra], dtype=np.int64)
    if wrong is not None and len(numbers):
        numbers[-1] = wrong
    np.savez(tmp_path / "train.npz", images=np.full(shape, 7, dtype=np.uint8), labels=numbers, label_names=np.array(list("abc")))
    only_typed_errors(tmp_path)


@FUZZ
@given(data=st.data())
def test_fuzz_damaged_images(tmp_path, data):
    arrays = dict(np.load(write_jpeg_npz(tmp_path / "train.npz", classes=2, each=8)))
    arrays["jpeg"] = arrays["jpeg"].copy()
    for _ in range(data.draw(st.integers(0, 4))):
        arrays["jpeg"][data.draw(st.integers(0, len(arrays["jpeg"]) - 1))] = data.draw(st.integers(0, 255))
    np.savez(tmp_path / "train.npz", **arrays)
    only_typed_errors(tmp_path, data.draw(st.sampled_from(["fail", "skip"])))


@FUZZ
@given(data=st.data())
def test_fuzz_damaged_bytes(tmp_path, data):
    content = bytearray(write_jpeg_npz(tmp_path / "train.npz", classes=2, each=4).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    keep = data.draw(st.integers(0, len(content)))
    (tmp_path / "train.npz").write_bytes(content[: keep if data.draw(st.booleans()) else len(content)])
    only_typed_errors(tmp_path)
