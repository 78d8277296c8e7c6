"""Questions about paragraphs, in the nested JSON of SQuAD."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from peftlab import mistakes
from peftlab.errors import DataError
from peftlab.tasks.data._files import hash_files
from peftlab.tasks.data.contract import ROLES
from peftlab.tasks.text.contract import RowPart, Rows, TextSource, gather
from peftlab.tasks.text.tables import read_json, read_text

_PEEK = 1 << 16  #: bytes in which the layout shows


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SquadJson(TextSource):
    """SQuAD's own files: one, or a folder with ``train.json`` and ``dev.json`` (or ``train-v2.0.json``, ``dev-v2.0.json``).

    ``{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}],
    "is_impossible"}]}]}]}``; without ``is_impossible`` (version 1.1), a question without answers has none.
    """

    name: ClassVar[str] = "squad-json"
    priority: ClassVar[int] = 5

    path: str  #: file or folder, relative to the current directory

    @classmethod
    def accepts(cls, text: str) -> bool:
        path = Path(text).expanduser()
        if path.is_dir():
            return any(_is_nested(file) for file in path.iterdir() if file.suffix == ".json" and _split(file) in ROLES)
        return path.suffix == ".json" and path.is_file() and _is_nested(path)

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(path=text)

    def fingerprint(self, cache: Path | None = None) -> str:
        content = hash_files({f"{split}.json": path for split, path in self.files().items()}, cache)
        return hashlib.sha256(f"squad json 1 {content}".encode()).hexdigest()

    def read(self) -> Rows:
        return gather([read_nested(path, split) for split, path in self.files().items()], where=self.path)

    def files(self) -> dict[str, Path]:
        """What the data call each split -> its file.

        Raises:
            DataError: no such path, no file of a usual name, two files of one split.
        """
        root = Path(self.path).expanduser()
        if root.is_file():
            return {"train": root}
        if not root.is_dir():
            raise DataError("no such file or folder", where=self.path, remedy="check the path; it is relative to where you are")
        found: dict[str, Path] = {}
        for file in sorted(root.glob("*.json")):
            split = _split(file)
            if split in found:
                raise DataError(f"two files of {split}: {found[split].name}, {file.name}", where=self.path, remedy="keep one")
            if split in ROLES:
                found[split] = file
        if not found:
            raise DataError("there is no train.json", where=self.path, remedy="name a folder with train.json and dev.json")
        return found


def read_nested(path: Path, split: str, *, answered: bool = True) -> RowPart:
    """One file as columns ``id``, ``title``, ``context``, ``question`` and ``answers`` ({text: [...], answer_start: [...]}).

    Args:
        answered: whether questions must come with their answers; otherwise there is no column of answers.

    Raises:
        DataError: not UTF-8, no JSON, another layout; a question whose answers contradict ``is_impossible``.
    """
    content = read_json(read_text(path), str(path), "correct the file")
    columns: dict[str, list[Any]] = {"id": [], "title": [], "context": [], "question": [], "answers": []}
    try:
        for row in _questions(content):
            for name in columns:
                columns[name].append(row[name])
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else str(error)
        after = f" after question {columns['id'][-1]}" if columns["id"] else ""
        raise DataError(
            f"is not SQuAD's layout: {missing}{after}", where=str(path), remedy='see "squad-json" in `peftlab list text`'
        ) from error
    given, ids = columns.pop("answers"), columns["id"]
    if answered:
        columns["answers"] = [_answers(found, f"{path.name} {name}") for name, found in zip(ids, given, strict=True)]
    return RowPart(
        split=split, columns=columns, where=lambda i: f"{path.name} question {ids[i]}" if ids else path.name, header=str(path)
    )


def _answers(found: dict[str, Any], where: str) -> dict[str, list[Any]]:
    if found["answers"] is None:
        raise DataError("the question has no `answers`", where=where, remedy="give them, or an empty list")
    if found["is_impossible"] is not None and bool(found["answers"]) == found["is_impossible"]:
        what = "is_impossible, but has answers" if found["answers"] else "not is_impossible, but has no answers"
        raise DataError(what, where=where, remedy="correct either")
    return {key: [answer.get(key) for answer in found["answers"]] for key in ("text", "answer_start")}


def _questions(content: Any) -> Iterator[dict[str, Any]]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                given = {key: asked.get(key) for key in ("answers", "is_impossible")}
                texts = {key: asked[key] for key in ("id", "question")} | {"context": paragraph["context"]}
                if odd := next((key for key, value in texts.items() if not isinstance(value, str)), None):
                    raise TypeError(f"{odd} is {mistakes.kind(texts[odd])} in place of a text")
                answers = given["answers"] if given["answers"] is not None else []
                if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
                    raise TypeError("answers is no list of objects")
                yield {**texts, "title": article.get("title", ""), "answers": given}


def _split(path: Path) -> str:
    return path.stem.split("-v")[0]


def _is_nested(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_PEEK)
    except OSError:
        return False
    return b'"paragraphs"' in head and b'"data"' in head
