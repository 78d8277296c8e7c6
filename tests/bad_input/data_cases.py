"""Data: image folders, npz files, tables, SQuAD files and texts that are not what the task needs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.bad_input.case import Case, Content, study
from tests.bad_input.changes import Change, put
from tests.tasks.builders import balanced, encoded, pixels, write_class_folders

SHORT = "train_size: 12, validation_size: 3"


def images(
    name: str, build: Content, words: tuple[str, ...] = (), code: int = 3, *, data: str = "mine", options: str = ""
) -> Case:
    """``peftlab plan`` of a study on ``mine`` (a file's name may follow it)."""
    return study(name, ("data: digits", f"data: {data}{options}"), words=words, code=code, files={data: build})


def npz(name: str, words: tuple[str, ...] = (), code: int = 3, **changes: Any) -> Case:
    """A file of 30 images of 3 classes with some arrays changed, or (None) left out."""
    arrays = {"images": pixels(30), "labels": balanced(3, 10), **changes}

    def write(path: Path) -> None:
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})

    return images(name, write, words=words, code=code, data="mine.npz")


def folder(name: str, *changes: Change, words: tuple[str, ...] = (), code: int = 3, options: str = "") -> Case:
    """Three classes of six images, changed."""

    def write(path: Path) -> None:
        write_class_folders(path, each=20)
        for change in changes:
            change(path)

    return images(name, write, words=words, code=code, options=options)


def broken(name: str, change: Change) -> Case:
    """An image that only decoding tells to be none: `run` prepares all data before the first run."""
    words = ("mine/class-0/", "of 6", "images cannot be decoded", "set on_corrupt: skip")
    return dataclasses.replace(folder(name, change), command="run s.yaml --jobs 1", words=words)


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 60,000 x 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def text(
    name: str,
    content: Content,
    file: str,
    *,
    words: tuple[str, ...] = (),
    code: int = 3,
    options: str = "",
    kind: str = "text-classification",
) -> Case:
    """``peftlab plan`` of a study of texts on one file."""
    task = ("kind: image-classification, data: digits", f"kind: {kind}, data: {file}{options}")
    metric = {"question-answering": "f1", "language-modeling": "perplexity", "instruction-tuning": "loss"}.get(kind, "accuracy")
    backbone = "world/gpt2" if kind in ("language-modeling", "instruction-tuning") else "world/bert"
    edits = (task, ("bundled:vit-nano", backbone), ("metric: accuracy", f"metric: {metric}"))
    return study(name, *edits, words=words, code=code, files={file: content})


def squad(name: str, words: tuple[str, ...] = (), **changes: Any) -> Case:
    """A SQuAD file of one paragraph, its question changed."""
    question = {"id": "1", "question": "who?", "answers": [{"text": "she", "answer_start": 0}], **changes}
    context = question.pop("context", "she did it")
    data = {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": [question]}]}]}
    return text(name, json.dumps(data), "mine.json", words=words, kind="question-answering", options=", test: 0.2")


ROWS = "text,label\n" + "".join(f"the plot was {word},{label}\n" for word, label in [("good", 1), ("bad", 0)] * 20)
NO_PARQUET = ("mine.parquet: is no Parquet file", "check the file")
PNG = encoded(pixels(1)[0])

IMAGES = [
    study("no such data", ("data: digits", "data: photos"), code=3),
    study("data misspelt", ("data: digits", "data: digit"), code=3),
    study("a folder that is not there", ("data: digits", "data: ./photos"), code=3),
    study("a path of another user", ("data: digits", "data: ~nobody-here/photos"), code=3),
    study("data as a number", ("data: digits", "data: 10")),
    study("data as a list", ("data: digits", "data: [digits, cifar10]")),
    study("a source without its path", ("data: digits", "data: {name: image-folder}")),
    study("a source's option misspelt", ("data: digits", "data: {name: npz, pth: x}")),
    study("an unknown source", ("data: digits", "data: {name: image-folders, path: x}")),
    images("a file of no kind", b"hello", data="mine.dat"),
    images("an empty folder", lambda path: path.mkdir()),
    images("a folder of images without classes", lambda path: [put(f"{i}.png", PNG)(path) for i in range(3)]),
    images("a folder of text files", lambda path: [put(f"a/{i}.txt", b"x")(path) for i in range(3)]),
    folder("a single class", lambda root: [__import__("shutil").rmtree(root / f"class-{i}") for i in (1, 2)]),
    images(
        "an empty class folder in train",
        lambda path: [write_class_folders(path / "train"), write_class_folders(path / "test", classes=4)],
    ),
    images("only a test folder", lambda path: write_class_folders(path / "test")),
    broken("a zero-byte image", put("class-0/0.png", b"")),
    broken("a truncated image", put("class-0/0.png", PNG[: len(PNG) // 2])),
    broken("a text called .jpg", put("class-0/x.jpg", b"hello, this is no image\n")),
    broken("a web page called .jpg", put("class-0/x.jpg", b"<!DOCTYPE html><html>404</html>")),
    broken("a decompression bomb", put("class-0/x.png", bomb())),
    folder("a link to nowhere", lambda root: (root / "class-0" / "x.png").symlink_to(root / "gone.png")),
    folder("sizes larger than the data", code=2, options=", train_size: 1000"),
    folder("a validation split of one image", code=2, options=", validation_size: 1"),
    folder("more folds than images", code=2, options=", folds: 100"),
    npz("npz without labels", labels=None),
    npz("npz without images", images=None),
    npz("npz with other names", images=None, labels=None, x=pixels(30), y=balanced(3, 10)),
    npz("npz of float images", images=pixels(30).astype(np.float32)),
    npz("npz of channels first", images=pixels(30).transpose(0, 3, 1, 2)),
    npz("npz of float labels", labels=balanced(3, 10).astype(float)),
    npz("npz of text labels", labels=np.array(["a", "b", "c"] * 10)),
    npz("npz of objects", labels=np.array([{}] * 30, dtype=object)),
    npz("npz of a negative label", labels=np.where(np.arange(30) == 7, -1, balanced(3, 10))),
    npz(
        "npz of a label out of range", labels=np.where(np.arange(30) == 7, 9, balanced(3, 10)), label_names=np.array(list("abc"))
    ),
    npz("npz of one class", labels=np.zeros(30, dtype=int)),
    npz("npz of fewer labels", labels=balanced(3, 9)),
    npz("npz of no image", images=pixels(0), labels=balanced(3, 0)),
    npz("npz of a matrix of labels", labels=np.eye(3, dtype=int)[balanced(3, 10)]),
    images("npz of zero bytes", b"", data="mine.npz"),
    images("npz that is text", b"hello", data="mine.npz"),
    images("a table for images", ROWS, data="mine.csv"),
]
TEXTS = [
    text("an empty CSV", "", "mine.csv"),
    text("a CSV of blanks", "\n\n\n", "mine.csv"),
    text("a header only", "text,label\n", "mine.csv"),
    text("a ragged row", ROWS + "one,two,three,four\n", "mine.csv"),
    text("a row too short", ROWS + "one\n", "mine.csv"),
    text("another delimiter", ROWS.replace(",", "|"), "mine.csv"),
    text("a TSV called .csv", ROWS.replace(",", "\t"), "mine.csv"),
    text("a CSV in latin-1", ROWS.replace("plot", "Stück").encode("latin-1"), "mine.csv"),
    text("a CSV in UTF-16", ROWS.encode("utf-16"), "mine.csv"),
    text("an Excel file called .csv", b"PK\3\4" + bytes(range(256)), "mine.csv"),
    text("a quote that is not closed", ROWS + '"never closed,1\n', "mine.csv"),
    text("other column names", ROWS.replace("text,label", "sentense,lable"), "mine.csv"),
    text("the column named, misspelt", ROWS, "mine.csv", options=", text: txet"),
    text("a column that is named twice", ROWS.replace("text,label", "text,text"), "mine.csv"),
    text("an empty label", ROWS + "the plot was odd,\n", "mine.csv"),
    text(
        "a label nan",
        ROWS + "the plot was odd,nan\n",
        "mine.csv",
    ),
    text(
        "a label that is not among the names",
        ROWS.replace(",0", ",bad").replace(",1", ",good") + "x,great\n",
        "mine.csv",
        options=", label_names: [bad, good]",
    ),
    text("a label that is a fraction", '[{"text": "a", "label": 0.5}, {"text": "b", "label": 1}]', "mine.json"),
    text("one label only", ROWS.replace(",0", ",1"), "mine.csv"),
    text("two rows", "text,label\na,0\nb,1\n", "mine.csv"),
    text("a label of its own in every row", "text,label\n" + "".join(f"a b,{i}\n" for i in range(30)), "mine.csv"),
    text("a broken JSON", '[{"text": "a", "label": 0', "mine.json"),
    text("a JSON of another shape", '{"text": ["a"], "label": [0]}', "mine.json"),
    text("a JSON of numbers", "[1, 2, 3]", "mine.json"),
    text("a JSON of an empty list", "[]", "mine.json"),
    text("a JSONL with a broken line", '{"text": "a", "label": 0}\n{"text": "b", "label"\n', "mine.jsonl"),
    text("a JSONL that is one list", '[{"text": "a", "label": 0}]\n', "mine.jsonl"),
    text("a text that is a number", '[{"text": 3, "label": 0}, {"text": "b", "label": 1}]', "mine.json"),
    text("a text that is null", '[{"text": null, "label": 0}, {"text": "b", "label": 1}]', "mine.json"),
    text("a broken parquet", b"PAR1" + bytes(60) + b"PAR1", "mine.parquet", words=NO_PARQUET),
    text("a parquet of zero bytes", b"", "mine.parquet", words=NO_PARQUET),
    text("a file of another kind", ROWS, "mine.xlsx"),
    text("a text backbone's length that is too long", ROWS, "mine.csv", options=", max_length: 4096", code=2),
    text("an empty text file", "", "mine.txt", kind="language-modeling"),
    text("a text shorter than the context", "the plot was good", "mine.txt", kind="language-modeling", code=2),
    text(
        "a context beyond the model",
        "the plot was good . " * 400,
        "mine.txt",
        kind="language-modeling",
        options=", context: 4096",
        code=2,
    ),
    text(
        "a stride above the context",
        "the plot was good . " * 400,
        "mine.txt",
        kind="language-modeling",
        options=", context: 16, stride: 64",
        code=2,
    ),
    study(
        "no metric is named, and the task lacks the usual one",
        ("kind: image-classification, data: digits", "kind: language-modeling, data: mine.txt, context: 16"),
        ("bundled:vit-nano", "world/gpt2"),
        ("metric: accuracy, ", ""),
        files={"mine.txt": "the plot was good . " * 400},
    ),
    study(
        "texts on a backbone of images",
        ("kind: image-classification, data: digits", "kind: text-classification, data: mine.csv"),
        code=4,
        files={"mine.csv": ROWS},
    ),
    squad("an offset that is wrong", answers=[{"text": "she", "answer_start": 4}]),
    squad("an offset as text", answers=[{"text": "she", "answer_start": "0"}]),
    squad("an answer that is not in the text", answers=[{"text": "nobody", "answer_start": 0}]),
    squad("answers that are no list", answers="she"),
    squad("a question without id", id=None),
    squad("a context that is empty", context=""),
    text("a SQuAD file of another shape", '{"questions": []}', "mine.json", kind="question-answering"),
    text("a SQuAD file without questions", '{"data": []}', "mine.json", kind="question-answering"),
    text("instructions without responses", '[{"instruction": "a", "ouput": "b"}]', "mine.json", kind="instruction-tuning"),
    text(
        "a template of unknown fields",
        '[{"instruction": "a", "output": "b"}]',
        "mine.json",
        kind="instruction-tuning",
        options=', template: "{instrution}"',
        code=2,
    ),
]
CASES = [*IMAGES, *TEXTS]
