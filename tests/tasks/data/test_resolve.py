"""From what a study calls its data to a source."""

from __future__ import annotations

import pytest

from peftlab import registry
from peftlab.errors import DataError, OptionError
from peftlab.tasks.data.cifar10 import Cifar10
from peftlab.tasks.data.cifar100 import Cifar100
from peftlab.tasks.data.contract import DataSource
from peftlab.tasks.data.datasets import Datasets
from peftlab.tasks.data.digits import Digits
from peftlab.tasks.data.npz import Npz
from peftlab.tasks.data.resolve import source_of
from peftlab.tasks.data.tiny_imagenet import TinyImagenet
from tests.tasks.builders import write_npz_folder


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("digits", Digits()),
        ({"name": "digits"}, Digits()),
        ("cifar10", Cifar10()),
        ("cifar100", Cifar100()),
        ("tiny-imagenet", TinyImagenet()),
        ({"name": "npz", "path": "x", "label": "coarse_labels"}, Npz(path="x", label="coarse_labels")),
        ("owner/name", Datasets(id="owner/name")),
    ],
)
def test_names(spec, source):
    assert source_of(spec) == source


def test_paths_are_relative_to_the_current_directory(tmp_path, monkeypatch):
    write_npz_folder(tmp_path / "some" / "data")
    monkeypatch.chdir(tmp_path)
    assert source_of("some/data") == Npz(path="some/data")
    assert source_of("some/data/train.npz") == Npz(path="some/data/train.npz")


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("digit", "Did you mean 'digits'"),
        ("some/dta", "Did you mean 'data'"),
        ("sme/data", None),  # looks like a hub id
        ("./sme/data", "Did you mean 'some'"),
        ("some/data/train.npy", "Did you mean 'train.npz'"),
        ("/nowhere/at/all", "'nowhere' is not in /"),
    ],
)
def test_what_is_not_there_names_what_is_near(tmp_path, monkeypatch, spec, remedy):
    write_npz_folder(tmp_path / "some" / "data")
    monkeypatch.chdir(tmp_path)
    if remedy is None:
        assert source_of(spec) == Datasets(id=spec)
        return
    with pytest.raises(DataError) as caught:
        source_of(spec)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"name": "digit"}, "data"),
        ({"path": "x"}, "data"),
        ({"name": "npz"}, "data"),
        ({"name": "npz", "pth": "x"}, "data.pth"),
        ({"name": "npz", "path": 3}, "data.path"),
        ({"name": "datasets"}, "data.id"),
        ({"name": "datasets", "id": "a/b", "path": "c"}, "data.id"),
        ({"name": "datasets", "path": "c", "revision": "d"}, "data.path"),
    ],
)
def test_bad_options(spec, where):
    with pytest.raises(OptionError) as caught:
        source_of(spec)
    assert caught.value.where == where


def test_a_named_data_set_from_a_folder_must_have_its_classes(tmp_path):
    folder = write_npz_folder(tmp_path / "ten", classes=10, train=3, test=2)
    local = Cifar10(path=str(folder))
    assert len(local.read().labels) == 50
    assert local.fingerprint() == Npz(path=str(folder)).fingerprint()
    with pytest.raises(DataError, match="10 classes, but cifar100 has 100"):
        Cifar100(path=str(folder)).read()


def test_every_source_says_what_it_is():
    sources = registry.components("data")
    assert set(sources) == {"cifar10", "cifar100", "datasets", "digits", "image-folder", "npz", "tiny-imagenet"}
    for cls in sources.values():
        assert issubclass(cls, DataSource) and cls.summary()
