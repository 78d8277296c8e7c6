"""Tiny ImageNet as its archive unpacks; images are noise, the layout is the published one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from peftlab.errors import DataError
from peftlab.tasks.data.resolve import source_of
from peftlab.tasks.data.tiny_imagenet import TinyImagenet
from tests.tasks.builders import encoded, pixels

IMAGES = pixels(600, size=4)
WNIDS = [f"n{number:08d}" for number in range(200)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t3\t3\n")
        for number in range(2):
            (folder / f"{wnid}_{number}.JPEG").write_bytes(encoded(IMAGES[2 * label + number]))
        lines.append(f"val_{label}.JPEG\t{WNIDS[199 - label]}\t0\t0\t3\t3")  # not in the order of the classes
    for split, first in (("val", 400), ("test", 0)):
        (root / split / "images").mkdir(parents=True)
        for number in range(200):
            (root / split / "images" / f"{split}_{number}.JPEG").write_bytes(encoded(IMAGES[first + number]))
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    return root


def test_the_published_archive_is_read_as_it_is(archive: Path) -> None:
    source = source_of(str(archive))
    assert source == TinyImagenet(path=str(archive)) == source_of({"name": "tiny-imagenet", "path": str(archive)})
    examples = source.read()
    assert examples.label_names == tuple(WNIDS)
    assert {role: len(rows) for role, rows in examples.roles.items()} == {"train": 400, "test": 200}
    assert examples.labels.tolist() == [label for label in range(200) for _ in range(2)] + list(range(199, -1, -1))
    test = examples.roles["test"]
    assert np.array_equal(np.asarray(examples.decode(int(test[7]))), IMAGES[407])
    assert examples.where(int(test[7])).endswith("val/images/val_7.JPEG")
    assert any("no labels" in note for note in examples.notes) and any("serves as test" in note for note in examples.notes)


def test_labels_are_part_of_the_fingerprint(archive: Path) -> None:
    before = TinyImagenet(path=str(archive)).fingerprint()
    table = archive / "val" / "val_annotations.txt"
    table.write_text(table.read_text().replace(f"val_0.JPEG\t{WNIDS[199]}", f"val_0.JPEG\t{WNIDS[0]}"))
    assert TinyImagenet(path=str(archive)).fingerprint() != before


@pytest.mark.parametrize(
    ("old", "new", "said", "line"),
    [
        (f"val_2.JPEG\t{WNIDS[197]}", "val_2.JPEG\tn99999999", "'n99999999' is not in train", ":3"),
        ("val_2.JPEG", "val_1.JPEG", "named twice", ":3"),
        ("val_2.JPEG", "gone.JPEG", "not there", ":3"),
        (f"val_199.JPEG\t{WNIDS[0]}\t0\t0\t3\t3\n", "", "'val_199.JPEG' has no line", ""),
    ],
)
def test_annotations_that_do_not_fit_name_their_line(archive: Path, old: str, new: str, said: str, line: str) -> None:
    table = archive / "val" / "val_annotations.txt"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=said) as caught:
        TinyImagenet(path=str(archive)).read()
    assert caught.value.where.endswith(f"val_annotations.txt{line}")
