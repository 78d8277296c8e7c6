"""Class-per-folder images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftlab.errors import DataError, PeftlabError
from peftlab.tasks.contract import Preprocessing
from peftlab.tasks.data.image_folder import ImageFolder
from peftlab.tasks.data.resolve import source_of
from peftlab.tasks.image_classification import ImageClassification
from tests.tasks.builders import encoded, pixels, write_class_folders


def test_train_and_test_folders(tmp_path):
    write_class_folders(tmp_path / "train", classes=3, each=4)
    write_class_folders(tmp_path / "val", classes=3, each=2, seed=1)
    source = source_of(str(tmp_path))
    assert source == ImageFolder(path=str(tmp_path))
    examples = source.read()
    assert examples.label_names == ("class-0", "class-1", "class-2")
    assert {role: len(rows) for role, rows in examples.roles.items()} == {"train": 12, "test": 6}
    assert examples.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0, 0, 1, 1, 2, 2]
    assert np.array_equal(np.asarray(examples.decode(5)), pixels(12)[5])
    assert examples.where(5).endswith("train/class-1/1.png")


def test_one_level_of_classes_is_split(tmp_path):
    write_class_folders(tmp_path, classes=4, each=10)
    info = ImageClassification(data=str(tmp_path), validation=0.25).info()
    assert info.sizes == {"train": 24, "validation": 8, "test": 8}


def test_a_class_called_train_is_a_class(tmp_path):
    write_class_folders(tmp_path, classes=2, each=3)
    (tmp_path / "class-0").rename(tmp_path / "train")
    (tmp_path / "class-1").rename(tmp_path / "bus")
    assert ImageFolder(path=str(tmp_path)).read().label_names == ("bus", "train")


def test_images_in_folders_below_a_class_belong_to_it(tmp_path):
    """Tiny ImageNet as it is published: train/<wnid>/images/*.JPEG."""
    write_class_folders(tmp_path / "flat", classes=2, each=3)
    for label in range(2):
        folder = tmp_path / "deep" / "train" / f"class-{label}"
        folder.mkdir(parents=True)
        shutil.move(tmp_path / "flat" / f"class-{label}", folder / "images")
        (folder / "images" / "0.png").rename(folder / "images" / "0.PNG")
    assert len(ImageFolder(path=str(tmp_path / "deep")).read().labels) == 6


def test_hidden_files_are_left_out_and_other_files_counted(tmp_path):
    write_class_folders(tmp_path / "train", classes=2, each=3)
    (tmp_path / "train" / "class-0" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / "class-0" / "notes.txt").write_text("x")
    (tmp_path / ".git").mkdir()
    examples = ImageFolder(path=str(tmp_path)).read()
    assert len(examples.labels) == 6
    assert [note.split(" (")[0] for note in examples.notes] == ["1 files without an image suffix were left out"]


def test_a_test_class_that_training_does_not_have(tmp_path):
    write_class_folders(tmp_path / "train", classes=2, each=3)
    write_class_folders(tmp_path / "test", classes=2, each=3)
    (tmp_path / "test" / "class-1").rename(tmp_path / "test" / "klass-1")
    with pytest.raises(DataError, match=r"'klass-1' of 'test' is not in train") as caught:
        ImageFolder(path=str(tmp_path)).read()
    assert "Did you mean 'class-1'" in caught.value.remedy


def test_a_folder_that_is_not_there_names_its_neighbour(tmp_path):
    (tmp_path / "flowers").mkdir()
    for make in (lambda text: source_of(text), lambda text: ImageFolder(path=text).read()):
        with pytest.raises(DataError, match="Did you mean 'flowers'"):
            make(str(tmp_path / "flower"))
    with pytest.raises(DataError, match="flowers: is empty"):
        source_of(str(tmp_path / "flowers"))
    (tmp_path / "flowers" / "notes.txt").touch()
    with pytest.raises(DataError, match="no images in a form"):
        source_of(str(tmp_path / "flowers"))
    (tmp_path / "flowers" / "rose.jpg").touch()
    with pytest.raises(DataError, match="1 image lies in the folder itself"):
        source_of(str(tmp_path / "flowers"))


def test_an_empty_split(tmp_path):
    write_class_folders(tmp_path / "train", classes=2, each=3)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="'test' has no examples"):
        ImageFolder(path=str(tmp_path)).read()


def test_a_link_in_a_circle_ends(tmp_path):
    write_class_folders(tmp_path / "train", classes=2, each=3)
    (tmp_path / "train" / "class-0" / "loop").symlink_to(tmp_path / "train", target_is_directory=True)
    assert len(ImageFolder(path=str(tmp_path)).read().labels) == 6


def test_fingerprint_follows_names_and_contents_not_the_place(tmp_path):
    first = write_class_folders(tmp_path / "a", classes=2, each=3)
    second = shutil.copytree(first, tmp_path / "b")
    assert ImageFolder(path=str(first)).fingerprint() == ImageFolder(path=str(second)).fingerprint()
    (second / "class-0" / "0.png").rename(second / "class-1" / "9.png")
    assert ImageFolder(path=str(first)).fingerprint() != ImageFolder(path=str(second)).fingerprint()


PLACES = st.tuples(
    st.sampled_from(["", "train", "test", "val", "a", "b"]),
    st.sampled_from(["", "a", "b", "train", ".c"]),
    st.sampled_from(["x.png", "y.jpg", "z.txt", ".png", "w.npz"]),
)
CONTENTS = st.one_of(st.binary(max_size=40), st.just(encoded(pixels(1)[0])), st.just(encoded(pixels(1)[0])[:200]))


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(PLACES, CONTENTS, max_size=12), skip=st.sampled_from(["fail", "skip"]))
def test_fuzz_any_tree_gives_a_task_or_a_typed_error(tmp_path, files, skip):
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for parts, content in files.items():
        path = Path(root, *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        task = ImageClassification(data={"name": "image-folder", "path": str(root)}, validation=0.5, on_corrupt=skip)
        prepared = task.prepare(Preprocessing(image_size=4), tmp_path / "cache")
        assert len(prepared.batch(prepared.splits(0).test)["labels"])
    except PeftlabError as error:
        assert error.what and error.remedy


def test_a_folder_one_level_too_high_is_said(tmp_path):
    """Every "class" holds the same folders: the real classes, or splits by unusual names. It may be meant, so it is a note."""
    for folder in ("first", "second"):
        write_class_folders(tmp_path / folder, classes=2, each=4)
    (note,) = ImageFolder(path=str(tmp_path)).read().notes
    assert "the classes are first, second" in note and "(class-0, class-1)" in note and str(tmp_path / "first") in note
    (tmp_path / "second" / "class-0").rename(tmp_path / "second" / "other")
    assert ImageFolder(path=str(tmp_path)).read().notes == ()


def test_one_class_names_the_folder_that_holds_several(tmp_path):
    write_class_folders(tmp_path / "a" / "b" / "photos", classes=3, each=4)
    with pytest.raises(DataError, match="one class only, 'b'") as caught:
        ImageFolder(path=str(tmp_path / "a")).read()
    assert f"name {tmp_path / 'a' / 'b' / 'photos'}" in caught.value.remedy
    (tmp_path / "c").mkdir()
    shutil.move(tmp_path / "a" / "b" / "photos" / "class-0", tmp_path / "c" / "class-0")
    with pytest.raises(DataError, match="one class only") as caught:
        ImageFolder(path=str(tmp_path / "c")).read()
    assert caught.value.remedy == "give it a folder for each class"


def test_images_without_class_folders_say_so(tmp_path):
    write_class_folders(tmp_path, classes=2, each=3)
    with pytest.raises(DataError, match="3 images lie in the folder itself") as caught:
        source_of(str(tmp_path / "class-1"))
    assert "if 'class-1' is one class, name the folder above it" in caught.value.remedy
