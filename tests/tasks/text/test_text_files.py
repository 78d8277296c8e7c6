"""Plain text as a source: one file, a folder of splits, several texts in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlab.errors import DataError, OptionError
from peftlab.tasks.text.resolve import source_of
from peftlab.tasks.text.text_files import TextFiles


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_file_is_one_text(tmp_path: Path) -> None:
    path = write(tmp_path, book=" One.\r\nTwo. \n") / "book.txt"
    rows = source_of(str(path)).read()
    assert rows.column("text") == [" One.\r\nTwo. \n"]  # as it is
    assert list(rows.roles) == ["train"]


def test_a_folder_has_a_file_a_split(tmp_path: Path) -> None:
    rows = source_of(str(write(tmp_path, train="a", valid="b", test="c", notes="d"))).read()
    assert {role: [rows.column("text")[i] for i in found] for role, found in rows.roles.items()} == {
        "train": ["a"],
        "validation": ["b"],
        "test": ["c"],
    }
    assert rows.where(2) == "test.txt text 1"


def test_files_can_be_named(tmp_path: Path) -> None:
    source = TextFiles(path=str(write(tmp_path, valid="b", test="c")), train="valid.txt", test="test.txt")
    assert {role: list(found) for role, found in source.read().roles.items()} == {"train": [0], "test": [1]}


def test_a_separator_parts_texts(tmp_path: Path) -> None:
    path = write(tmp_path, stories="\nA b.\n<|endoftext|>\nC.\n<|endoftext|>\n") / "stories.txt"
    assert TextFiles(path=str(path), separator="<|endoftext|>").read().column("text") == ["A b.", "C."]


def test_fingerprints_follow_contents_and_the_separator(tmp_path: Path) -> None:
    one, two = (str(write(tmp_path / name, train="a|b", test="c")) for name in ("one", "two"))
    assert TextFiles(path=one).fingerprint() == TextFiles(path=two).fingerprint()
    assert TextFiles(path=one).fingerprint() != TextFiles(path=one, separator="|").fingerprint()
    write(Path(two), test="d")
    assert TextFiles(path=one).fingerprint() != TextFiles(path=two).fingerprint()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match="byte 0xe9 at 0 is not UTF-8"):
        TextFiles(path=str(tmp_path / "latin.txt")).read()
    with pytest.raises(DataError, match="is empty"):
        TextFiles(path=str(write(tmp_path, blank=" \n") / "blank.txt")).read()
    with pytest.raises(DataError, match=r"nothing to train on; there is blank.txt, latin.txt"):
        TextFiles(path=str(tmp_path)).read()
    with pytest.raises(DataError, match=r"several files for validation: dev.txt, val.txt"):
        TextFiles(path=str(write(tmp_path / "two", train="a", dev="b", val="c"))).read()
    with pytest.raises(DataError, match="no such file"):
        TextFiles(path=str(tmp_path), train="gone.txt").read()
    with pytest.raises(OptionError, match="separates nothing"):
        TextFiles(path="a.txt", separator="\n")
    with pytest.raises(OptionError, match="no splits to name"):
        TextFiles(path="a.txt", test="b.txt")
