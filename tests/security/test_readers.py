"""Whatever bytes or structures a study or a data file holds: a study, data, or a typed error; soon, and in little room."""

from __future__ import annotations

import contextlib
import io
import json
import os
import string
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftlab.errors import DataError, PeftlabError, StudyError
from peftlab.study.load import load_study, parse_yaml, validate_study
from peftlab.study.schema import Study
from peftlab.tasks.data.npz import Npz
from peftlab.tasks.data.resolve import source_of as images_of
from peftlab.tasks.data.tiny_imagenet import TinyImagenet
from peftlab.tasks.text.contract import Rows
from peftlab.tasks.text.resolve import source_of as texts_of
from peftlab.tasks.text.squad_json import SquadJson
from peftlab.tasks.text.tables import SUFFIXES, Tables
from peftlab.tasks.text.text_files import TextFiles

quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HEADER = b"""study: s
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits}
seeds: [0]
arms:
  a: {adapter: full}
"""


# --- the study loader ------------------------------------------------------------------------------------------------------


def outcome(path: Path) -> Study | StudyError:
    try:
        return load_study(path)
    except StudyError as error:
        assert error.what and error.remedy
        return error


@quick
@given(st.binary(max_size=200), st.integers(0, len(HEADER)), st.booleans())
def test_any_bytes_in_a_study(tmp_path: Path, content: bytes, place: int, replace: bool) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(HEADER[:place] + content + HEADER[place + (len(content) if replace else 0) :])
    outcome(path)


@quick
@given(st.text(alphabet="{}[]:,-?&*!|>'\"%@`#\n\t \\ab01.~<=", max_size=120))
def test_any_yaml_punctuation(text: str) -> None:
    with contextlib.suppress(StudyError):
        parse_yaml(text)


@quick
@given(st.dictionaries(st.sampled_from([*Study.model_fields, "x"]), plain, max_size=5))
def test_any_structure_in_a_study(changes: dict[str, Any]) -> None:
    try:
        validate_study({**parse_yaml(HEADER.decode()), **changes})
    except StudyError as error:
        assert error.what


LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LAUGHS.encode(), "aliases"),
        (b"base: &b {epochs: 1}\ntrain:\n  <<: *b\n", "aliases"),
        (b"study: !!python/object/apply:os.system ['touch pwned']\n", "tags"),
        (b"study: !!binary aGk=\n", "tags"),
        (b"study: !include /etc/passwd\n", "tags"),
        (b"%TAG ! tag:yaml.org,2002:\n---\nstudy: !python/name:os.system\n", "tags"),
        (HEADER + b"seeds: [1]\n", "not valid YAML"),
        (HEADER + b"seeds: [1]\nseeds: [2]\n", "not valid YAML"),
        (b"study: a\0b\n", "not valid YAML"),
        (b"study: \xff\xfe\n", "not UTF-8"),
        ("study: é\n".encode("latin1"), "not UTF-8"),
        ("study: s\n".encode("utf-16"), "not UTF-8"),
        (HEADER.replace(b"[0]", b"[" + b"9" * 5000 + b"]"), "not valid YAML"),
        (HEADER.replace(b"[0]", b"[1e999]"), "finite"),
        (HEADER.replace(b"[0]", b"[.nan]"), "finite"),
        (HEADER.replace(b"[0]", b"[" + b"9" * 40 + b"]"), "seeds"),
        (b"[" * 200_000, "levels"),
        (b"- " * 200_000, "levels"),
        (b"{a: " * 100_000, "levels"),
        (b"[" + b"1," * 100_000 + b"]", "values"),
        (b"#" * 1_100_000, "1 MB"),
        (b"\xef\xbb\xbf" + b"#" * 1_000_001, "1 MB"),
        ("é".encode() * 600_000, "1 MB"),
        (b"---\nstudy: a\n---\nstudy: b\n", "not valid YAML"),
        (b"? {a: b}\n: c\n", "is not text"),
        (b"null: 1\n", "not text"),
        (HEADER.replace(b"study: s", b"study: ../../etc"), "is no name"),
        (HEADER.replace(b"study: s", b"study: /etc/x"), "is no name"),
        (HEADER.replace(b"study: s", b"study: 's\\n'"), "is no name"),
        (HEADER.replace(b"  a:", b"  ../a:"), "is no name"),
        (HEADER.replace(b"  a:", b"  .hidden:"), "is no name"),
        (HEADER.replace(b"  a:", b"  con/aux:"), "is no name"),
        (HEADER.replace(b"  a:", b"  " + b"a" * 82 + b":"), "is no name"),
    ],
    ids=lambda value: str(value[:24]) if isinstance(value, bytes) else None,
)
def test_tricks_of_yaml_and_of_names(tmp_path: Path, content: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_bytes(content)
    error = outcome(tmp_path / "s.yaml")
    assert isinstance(error, StudyError) and said in f"{error.what} {error.where}", error
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_a_byte_order_mark_is_no_part_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xef\xbb\xbf" + HEADER)
    assert isinstance(outcome(tmp_path / "s.yaml"), Study)


@pytest.mark.parametrize("what", ["/dev/zero", "pipe", "folder"])
def test_a_study_that_never_ends_or_never_comes(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert isinstance(outcome(Path(what) if what.startswith("/") else tmp_path / what), StudyError)


def test_a_giant_called_a_study_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "s.yaml").open("wb") as file:
        file.truncate(50 * 2**30)  # a hole: no disk is used
    tracemalloc.start()
    try:
        assert isinstance(outcome(tmp_path / "s.yaml"), StudyError)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


# --- data readers ----------------------------------------------------------------------------------------------------------


def texts(source: Any) -> Rows | DataError:
    try:
        rows = source.read()
        for name in rows.names():
            assert len(rows.column(name)) == len(rows)
        source.fingerprint()
        return rows
    except PeftlabError as error:
        assert isinstance(error, DataError) and error.what and error.remedy
        return error


VALID = {
    ".tsv": b"text\tlabel\none\t0\ntwo\t1\n",
    ".csv": b'text,label\n"one, more",0\ntwo,1\n',
    ".json": b'[{"text": "one", "label": 0}, {"text": "two", "label": 1}]',
    ".jsonl": b'{"text": "one", "label": 0}\n{"text": "two", "label": 1}\n',
}


@quick
@given(st.data(), st.sampled_from(SUFFIXES), st.binary(max_size=60), st.booleans())
def test_any_bytes_in_a_table(tmp_path: Path, data: st.DataObject, suffix: str, content: bytes, alone: bool) -> None:
    valid = VALID.get(suffix) or parquet()
    place = data.draw(st.integers(0, len(valid)))
    path = tmp_path / f"train{suffix}"
    path.write_bytes(content if alone else valid[:place] + content + valid[place + len(content) :])
    texts(Tables(path=str(path)))


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": ["one", "two"], "label": [0, 1]}), sink)
    return sink.getvalue()


@quick
@given(plain)
def test_any_structure_in_json_tables(tmp_path: Path, value: Any) -> None:
    for suffix, content in (
        (".json", json.dumps(value)),
        (".json", json.dumps({"data": [value]})),
        (".jsonl", json.dumps(value)),
    ):
        (tmp_path / f"train{suffix}").write_text(json.dumps(content))
        texts(Tables(path=str(tmp_path / f"train{suffix}")))


QUESTION = {"id": "1", "question": "who?", "answers": [{"text": "she", "answer_start": 0}], "is_impossible": False}


@quick
@given(st.sampled_from(["data", "paragraphs", "qas", "context", "id", "question", "answers", "is_impossible", "answer"]), plain)
def test_any_structure_in_squad(tmp_path: Path, place: str, value: Any) -> None:
    question = {**QUESTION, **({place: value} if place in QUESTION else {})}
    question["answers"] = [value] if place == "answer" else question["answers"]
    paragraph: dict[str, Any] = {"context": "she did", "qas": [question]}
    paragraph |= {place: value} if place in paragraph else {}
    article = {"title": "t", "paragraphs": value if place == "paragraphs" else [paragraph]}
    (tmp_path / "train.json").write_text(json.dumps({"data": value if place == "data" else [article]}))
    found = texts(SquadJson(path=str(tmp_path / "train.json")))
    if isinstance(found, Rows):
        assert all(isinstance(text, str) for name in ("id", "question", "context") for text in found.column(name))


@quick
@given(st.binary(max_size=80), st.none() | st.text(max_size=3))
def test_any_bytes_in_text_files(tmp_path: Path, content: bytes, separator: str | None) -> None:
    (tmp_path / "train.txt").write_bytes(content)
    try:
        source = TextFiles(path=str(tmp_path / "train.txt"), separator=separator)
    except PeftlabError:
        return
    texts(source)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.json", b"[" * 200_000, "nested too deeply"),
        ("train.jsonl", b'{"a":' * 200_000, "nested too deeply"),
        ("train.json", b'{"data": ' + b"[" * 200_000, "nested too deeply"),
        ("train.json", b"[" + b"9" * 5000 + b"]", "is no JSON"),
        ("train.json", b'[{"text": "\\ud83d"}]', "surrogate"),
        ("train.json", b'[{"text": "a", "text": "b"}]', "comes twice"),
        ("train.csv", b'text\n"' + b"a" * 10, "is no CSV"),
        ("train.csv", b"a\0b\n1\n", "the rows"),
        ("train.parquet", b"PAR1" + b"\xff" * 64 + b"PAR1", "is no Parquet"),
    ],
)
def test_tricks_in_tables(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = texts(Tables(path=str(tmp_path / name)))
    if said == "the rows":
        assert isinstance(found, Rows | DataError)
    else:
        assert isinstance(found, DataError) and said in found.what, found


def test_a_parquet_file_whose_texts_are_no_utf_8(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    odd = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32).tobytes()), pa.py_buffer(b"\xff\xfe")]
    )
    pyarrow.parquet.write_table(pa.table({"text": odd}), tmp_path / "train.parquet")
    assert isinstance(texts(Tables(path=str(tmp_path / "train.parquet"))), DataError)


def npz(path: Path, header: dict[str, Any], content: bytes, name: str = "images.npy") -> None:
    """An archive whose header is written by hand."""
    head = repr({"descr": "|u1", "fortran_order": False, **header}).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + content)
        labels = io.BytesIO()
        np.save(labels, np.zeros(2, dtype=np.int64))
        archive.writestr("labels.npy", labels.getvalue())


@pytest.mark.parametrize("shape", [(2, 2**20, 2**20, 3), (2, -4, 4, 3), (2, 2**62, 4, 3), (2, 4, 4, 3)])
def test_an_archive_that_promises_more_than_it_holds(tmp_path: Path, shape: tuple[int, ...]) -> None:
    npz(tmp_path / "train.npz", {"shape": shape}, b"\0" * 8)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            examples = Npz(path=str(tmp_path / "train.npz")).read()
            examples.decode(0)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


BOMB = """
import pathlib, resource, sys
from peftlab.errors import DataError
from peftlab.tasks.data.npz import Npz
import psutil, types
psutil.virtual_memory = lambda: types.SimpleNamespace(available=100_000_000)  # a small machine
try:
    Npz(path=sys.argv[1]).read()
except DataError as error:
    print(error.what)
"""


def test_kilobytes_that_unpack_to_gigabytes_are_refused_before_there_is_room_for_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("labels.npy", "w") as file:
        head = repr({"descr": "<i8", "fortran_order": False, "shape": (2**25,)}).encode().ljust(117) + b"\n"
        file.write(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
        for _ in range(2**8):
            file.write(b"\0" * 2**20)
    assert (tmp_path / "train.npz").stat().st_size < 1_000_000
    done = subprocess.run([sys.executable, "-c", BOMB, str(tmp_path / "train.npz")], capture_output=True, text=True, check=True)
    assert "needs 0.3 GB of memory, 0.1 GB are free" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["../../../outside.png", "sub/../../x.png", "/etc/hostname", "..", "", "a\0b.png"])
def test_annotations_that_lead_out_of_the_archive(tmp_path: Path, name: str) -> None:
    from PIL import Image

    root = tmp_path / "root"
    for folder in (root / "train" / "n01" / "images", root / "val" / "images" / "sub"):
        folder.mkdir(parents=True)
    for path in (root / "train" / "n01" / "images" / "a.png", root / "val" / "images" / "b.png", tmp_path / "outside.png"):
        Image.new("RGB", (4, 4)).save(path)
    (root / "val" / "val_annotations.txt").write_text(f"b.png\tn01\t0\n{name}\tn01\t0\n")
    with pytest.raises(DataError):
        TinyImagenet(path=str(root)).read()


@quick
@given(st.text(alphabet=string.printable + "\0\ud800é", max_size=30))
def test_any_word_in_place_of_data(tmp_path: Path, word: str) -> None:
    """Never a network, because no test asks a hub; a word that could be one is told to be unreachable."""
    for source_of in (images_of, texts_of):
        try:
            source_of(word)
        except PeftlabError as error:
            assert error.what
