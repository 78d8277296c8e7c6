"""The ``datasets`` library: local folders in its forms, and a hub data set as it lies in the library's own cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from peftlab.errors import DataError
from peftlab.tasks.contract import Preprocessing
from peftlab.tasks.data import _library as module
from peftlab.tasks.data.datasets import Datasets
from peftlab.tasks.data.resolve import source_of
from peftlab.tasks.image_classification import ImageClassification
from tests.tasks.builders import balanced, encoded, pixels

library = pytest.importorskip("datasets")

NAMES = ["ant", "bee", "cat"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """No network, and nothing written into the user's cache."""
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    module._hub_builder.cache_clear()
    return tmp_path / "hf"


def table(each: int = 6, seed: int = 0, image: str = "image", label: str = "label", labels=None, feature=None):
    numbers = balanced(3, each).tolist() if labels is None else labels
    cells = [{"bytes": encoded(picture), "path": None} for picture in pixels(len(numbers), seed=seed)]
    features = library.Features({image: library.Image(), label: feature or library.ClassLabel(names=NAMES)})
    return library.Dataset.from_dict({image: cells, label: numbers}, features=features)


def saved(folder: Path, **splits) -> str:
    library.DatasetDict(splits).save_to_disk(str(folder))
    return str(folder)


def test_save_to_disk(tmp_path):
    path = saved(tmp_path / "data", train=table(), validation=table(2, seed=1), test=table(3, seed=2))
    assert source_of(path) == Datasets(path=path)
    examples = Datasets(path=path).read()
    assert examples.label_names == tuple(NAMES)
    assert {role: len(rows) for role, rows in examples.roles.items()} == {"train": 18, "validation": 6, "test": 9}
    assert np.array_equal(np.asarray(examples.decode(20)), pixels(6, seed=1)[2])
    assert examples.where(20).endswith("validation row 2")


def test_a_study_on_it_runs(tmp_path):
    path = saved(tmp_path / "data", train=table(20), test=table(4, seed=2))
    task = ImageClassification(data=path)
    assert task.prepare(Preprocessing(image_size=8), tmp_path / "c").info.sizes == {"train": 54, "validation": 6, "test": 12}
    assert task.fingerprint() == ImageClassification(data=path).fingerprint()


def test_one_table_without_splits_is_train(tmp_path):
    table().save_to_disk(str(tmp_path / "data"))
    assert list(Datasets(path=str(tmp_path / "data")).read().roles) == ["train"]


def test_parquet_files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    table().to_parquet(folder / "train-00000-of-00001.parquet")
    table(2, seed=1).to_parquet(folder / "test-00000-of-00001.parquet")
    assert source_of(str(folder)) == Datasets(path=str(folder))
    examples = Datasets(path=str(folder)).read()
    assert {role: len(rows) for role, rows in examples.roles.items()} == {"train": 18, "test": 6}
    assert examples.label_names == tuple(NAMES)


def test_image_folder_with_metadata(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i, picture in enumerate(pixels(6)):
        (folder / f"{i}.png").write_bytes(encoded(picture))
    rows = "\n".join(f"{i}.png,{['wasp', 'bee'][i % 2]}" for i in range(6))
    (folder / "metadata.csv").write_text(f"file_name,insect\n{rows}\n")
    assert source_of(str(folder)) == Datasets(path=str(folder))
    examples = Datasets(path=str(folder), label="insect").read()
    assert examples.label_names == ("bee", "wasp")
    assert examples.labels.tolist() == [1, 0] * 3
    assert examples.decode(3).size == (12, 12)


def test_columns_are_found_by_type_and_can_be_named(tmp_path):
    path = saved(tmp_path / "data", train=table(image="img", label="fine_label"))
    assert len(Datasets(path=path).read().labels) == 18
    assert len(Datasets(path=path, image="img", label="fine_label").read().labels) == 18
    with pytest.raises(DataError, match="no column 'lable'") as caught:
        Datasets(path=path, label="lable").read()
    assert "fine_label" in caught.value.remedy


@pytest.mark.parametrize("feature", ["int64", "string"])
def test_labels_without_names(tmp_path, feature):
    labels = [0, 2, 1] if feature == "int64" else ["b", "c", "a"]
    path = saved(tmp_path / "data", train=table(labels=labels * 2, feature=library.Value(feature)))
    examples = Datasets(path=path).read()
    assert examples.labels.tolist() == ([0, 2, 1] if feature == "int64" else [1, 2, 0]) * 2
    assert examples.label_names == (("0", "1", "2") if feature == "int64" else ("a", "b", "c"))


def test_labels_that_are_no_labels(tmp_path):
    path = saved(tmp_path / "data", train=table(labels=[0.5, 1.0], feature=library.Value("float32")))
    with pytest.raises(DataError, match="of type float32"):
        Datasets(path=path).read()


def test_no_image_or_two_images(tmp_path):
    second = table().rename_column("image", "other").remove_columns("label")
    path = saved(tmp_path / "two", train=library.concatenate_datasets([table().rename_column("image", "first"), second], axis=1))
    with pytest.raises(DataError, match="2 columns of type Image") as caught:
        Datasets(path=path).read()
    assert caught.value.remedy == "set image: to one of first, other"
    path = saved(tmp_path / "none", train=library.Dataset.from_dict({"text": ["a"], "label": [0]}))
    with pytest.raises(DataError, match="no column of type Image"):
        Datasets(path=path).read()


def test_a_test_split_without_labels_is_left_out_and_said(tmp_path):
    path = saved(tmp_path / "data", train=table(), validation=table(2), test=table(labels=[-1] * 5))
    examples = Datasets(path=path).read()
    assert len(examples.roles["test"]) == 6 and "validation" not in examples.roles
    assert any("'test' split has no labels" in note for note in examples.notes)
    assert any("'validation' split serves as test" in note for note in examples.notes)


def test_splits_can_be_named(tmp_path):
    path = saved(tmp_path / "data", small=table(), train=table(9), held=table(2))
    assert {k: len(v) for k, v in Datasets(path=path, train="small", test="held").read().roles.items()} == {
        "train": 18,
        "test": 6,
    }
    with pytest.raises(DataError, match="no split 'hold'") as caught:
        Datasets(path=path, test="hold").read()
    assert "Did you mean 'held'" in caught.value.remedy
    path = saved(tmp_path / "odd", one=table())
    with pytest.raises(DataError, match="no train split") as caught:
        Datasets(path=path).read()
    assert caught.value.remedy == "set train: to one of one"


def test_fingerprint_is_of_the_data_not_of_the_save(tmp_path):
    first = saved(tmp_path / "a", train=table())
    second = saved(tmp_path / "b" / "c", train=table())
    other = saved(tmp_path / "d", train=table(seed=3))
    prints = [Datasets(path=path).fingerprint() for path in (first, second, other)]
    assert prints[0] == prints[1] != prints[2]
    assert Datasets(path=first, label="label").fingerprint() != prints[0]


def test_damaged_tables_are_typed_errors(tmp_path):
    path = Path(saved(tmp_path / "data", train=table()))
    (arrow,) = path.rglob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        Datasets(path=str(path)).read()
    with pytest.raises(DataError, match="no such data"):
        Datasets(path=str(tmp_path / "date")).read()


def test_corrupt_cells_are_named(tmp_path):
    made = library.Dataset.from_dict(
        {
            "image": [{"bytes": encoded(p) if i != 5 else b"junk", "path": None} for i, p in enumerate(pixels(40))],
            "label": [0, 1] * 20,
        },
        features=library.Features({"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])}),
    )
    path = saved(tmp_path / "data", train=made)
    with pytest.raises(DataError, match=r"1 of 40 images .*train row 5"):
        ImageClassification(data=path).prepare(Preprocessing(image_size=4), tmp_path / "cache")


def hub_copy(cache: Path, tmp_path: Path) -> None:
    """A hub data set as the library leaves it in its cache: ``<owner>___<name>/<config>/<version>/<commit>``."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    table().to_parquet(folder / "train-00000-of-00001.parquet")
    builder = library.load_dataset_builder("parquet", data_dir=str(folder), cache_dir=str(tmp_path / "build"))
    builder.download_and_prepare()
    built = Path(builder.cache_dir)
    target = cache / "owner___some_name" / "default" / "0.0.0" / COMMIT
    shutil.copytree(built, target)
    for arrow in target.glob("parquet-*.arrow"):
        arrow.rename(arrow.with_name(arrow.name.replace("parquet-", "some_name-")))


def test_a_hub_data_set_without_a_connection(own_cache, tmp_path):
    with pytest.raises(DataError, match="cannot be read: ConnectionError") as caught:
        Datasets(id="owner/some_name").read()
    assert "local copy" in caught.value.remedy


def test_a_hub_data_set_is_known_by_its_commit(own_cache, tmp_path):
    hub_copy(own_cache, tmp_path)
    source = Datasets(id="owner/some_name")
    assert len(source.read().labels) == 18
    assert source.builder().hash == COMMIT
    assert Datasets(id="owner/some_name", revision=COMMIT).read().label_names == tuple(NAMES)
    with pytest.raises(DataError, match=f"commit {COMMIT} is what is there"):
        Datasets(id="owner/some_name", revision="f" * 40).read()
