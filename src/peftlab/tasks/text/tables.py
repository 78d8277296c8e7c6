"""Tables of texts: TSV, CSV, JSON, JSON Lines and Parquet files with named columns."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from peftlab import mistakes
from peftlab.errors import DataError, OptionError
from peftlab.tasks.data._files import hash_files
from peftlab.tasks.data.contract import ROLES
from peftlab.tasks.text.contract import RowPart, Rows, TextSource, gather

SUFFIXES = (".tsv", ".csv", ".json", ".jsonl", ".parquet")
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
csv.field_size_limit(1 << 27)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tables(TextSource):
    """One file of rows, or a folder with one file a split (``train.tsv``, ``dev.tsv``, ...).

    TSV files are read without quoting, as GLUE's are (a bare ``"`` is a character); CSV files as RFC 4180 has them, fields
    separated by commas, or by semicolons where the header has these and no comma (spreadsheets in many countries). A column
    without a name (row numbers, say) is called ``column N``. Encoding is UTF-8, with or without a byte-order mark. JSON: a list
    of objects, or one object whose ``data`` is such a list.
    """

    name: ClassVar[str] = "tables"
    priority: ClassVar[int] = 10

    path: str  #: file or folder, relative to the current directory
    train: str | None = None  #: file in the folder; default: the one called train; once one is named, only those are read
    validation: str | None = None  #: default: validation, valid, val, dev
    test: str | None = None

    @classmethod
    def accepts(cls, text: str) -> bool:
        path = Path(text).expanduser()
        if path.is_file():
            return path.suffix.lower() in SUFFIXES
        return path.is_dir() and any(file.suffix.lower() in SUFFIXES and file.stem in ROLES for file in path.iterdir())

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(path=text)

    def __post_init__(self) -> None:
        if Path(self.path).suffix.lower() in SUFFIXES and (self.train or self.validation or self.test):
            raise OptionError("one file has no splits to name", where="path", remedy="name the folder, or leave train, ... out")

    def fingerprint(self, cache: Path | None = None) -> str:
        content = hash_files({f"{split}{path.suffix}": path for split, path in self.files().items()}, cache)
        return hashlib.sha256(f"tables 1 {content}".encode()).hexdigest()

    def read(self) -> Rows:
        return gather([read_table(path, split) for split, path in self.files().items()], where=self.path)

    def files(self) -> dict[str, Path]:
        """What the data call each split -> its file.

        Raises:
            DataError: the path, or a file named, is not there; two files of one split.
        """
        root = Path(self.path).expanduser()
        if root.is_file():
            return {"train": root}
        if not root.is_dir():
            raise DataError("no such file or folder", where=self.path, remedy="check the path; it is relative to where you are")
        found: dict[str, Path] = {}
        named = self.train or self.validation or self.test
        for role in ("train", "validation", "test"):
            if (file := getattr(self, role)) is not None:
                if not (root / file).is_file():
                    raise DataError("no such file", where=str(root / file), remedy=f"correct `{role}`")
                found[role] = root / file
                continue
            if named:
                continue
            usual = [f for f in sorted(root.iterdir()) if f.suffix.lower() in SUFFIXES and ROLES.get(f.stem) == role]
            if len(usual) > 1:
                names = ", ".join(f.name for f in usual)
                raise DataError(f"several files for {role}: {names}", where=self.path, remedy=f"name one with `{role}`")
            if usual:
                found[usual[0].stem] = usual[0]
        return found


def read_table(path: Path, split: str) -> RowPart:
    """One file as columns. Values are strings in TSV and CSV, and whatever they are in the others.

    Raises:
        DataError: another kind of file; not UTF-8 (with the byte), no header, a row with too few or too many fields (with its
            line), broken JSON.
    """
    read = {".tsv": _separated, ".csv": _separated, ".json": _json, ".jsonl": _json_lines, ".parquet": _parquet}
    suffix = path.suffix.lower()
    if suffix in SPREADSHEETS:
        raise spreadsheet(str(path))
    if suffix not in read:
        raise DataError(
            f"a {path.suffix or 'file without a suffix'} is no table", where=str(path), remedy="use " + ", ".join(SUFFIXES)
        )
    columns, lines = read[suffix](path)
    return RowPart(
        split=split,
        columns=columns,
        where=lambda i: f"{path.name} {lines[i]}" if i < len(lines) else path.name,
        header=f"{path} line 1" if suffix in (".tsv", ".csv") else str(path),
    )


def spreadsheet(where: str) -> DataError:
    """The error for a file of :data:`SPREADSHEETS`."""
    remedy = "save the sheet as CSV (UTF-8) and name that file"
    return DataError("is a spreadsheet, no table of texts", where=where, remedy=remedy)


def read_text(path: Path) -> str:
    """A whole file as text, newlines as they are.

    Raises:
        DataError: it cannot be read, or is not UTF-8 (the first wrong byte is named).
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the file") from error
    except UnicodeDecodeError as error:
        wrong = f"byte {error.object[error.start]:#04x} at {error.start:,} is not UTF-8"
        likely = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise DataError(wrong, where=str(path), remedy=f"save the file as UTF-8, e.g. `iconv -f {likely} -t utf-8`") from error


Table = tuple[dict[str, list[Any]], Sequence[str]]


def _separated(path: Path) -> Table:
    rows = _fields(path)
    _, first = next(rows, (0, []))
    named = [name.strip() for name in first]
    if not any(named):
        raise DataError("is empty: the first line must name the columns", where=str(path), remedy="fill it, or name another file")
    other = next((mark for mark in (";", "\t", "|", ",") if len(named) == 1 and mark in named[0]), None)
    if other is not None:
        what = f"the columns are parted by {other!r}, not by {'tabs' if path.suffix == '.tsv' else 'commas'}"
        raise DataError(what, where=f"{path} line 1", remedy="save it with commas as .csv, or with tabs as .tsv")
    header = [name or f"column {number}" for number, name in enumerate(named, start=1)]
    if len(set(header)) < len(header):
        what = "the first line does not name the columns: two share one"
        raise DataError(what, where=f"{path} line 1", remedy="name every column once")
    columns: dict[str, list[Any]] = {name: [] for name in header}
    lines: list[str] = []
    for line, row in rows:
        if not any(row) and (len(header) > 1 or not row):
            continue  # an empty line
        if len(row) != len(header):
            few = "few" if len(row) < len(header) else "many"
            raise DataError(
                f"too {few} fields: {len(row)} where the header has {len(header)}",
                where=f"{path} line {line}",
                remedy="one field a column; in CSV quote a text that holds a comma, in TSV there can be no tab in a text",
            )
        for name, value in zip(header, row, strict=True):
            columns[name].append(value)
        lines.append(f"line {line}")
    return columns, lines


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, its fields). Only newlines end a line: texts may hold any other character that separates lines."""
    text = read_text(path)
    if path.suffix.lower() == ".tsv":
        lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
        yield from enumerate((line.split("\t") for line in lines), start=1)
        return
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"is no CSV: {error}", where=str(path), remedy="quote texts as RFC 4180 has it") from error


def _json(path: Path) -> Table:
    content = read_json(read_text(path), str(path), "correct the file")
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError("holds no list of objects", where=str(path), remedy='write [{...}, ...] or {"data": [{...}, ...]}')
    return _objects(rows, [f"row {i}" for i in range(1, len(rows) + 1)], path)


def _json_lines(path: Path) -> Table:
    rows, lines = [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        rows.append(read_json(line, f"{path} line {number}", "one object a line"))
        lines.append(f"line {number}")
    return _objects(rows, lines, path)


def read_json(text: str, where: str, remedy: str) -> Any:
    """Plain data from JSON whose objects have each field once, and whose texts can be written as UTF-8.

    Raises:
        DataError: anything else.
    """
    try:
        content = json.loads(text, object_pairs_hook=_object)
        if "\\ud" in text.lower():  # may be half of a character: "\\ud83d" without what follows it
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError("holds half of a surrogate pair: no character", where=where, remedy="correct the text") from error
    except ValueError as error:
        raise DataError(f"is no JSON: {mistakes.of_json(error)}", where=where, remedy=remedy) from error
    except RecursionError as error:
        raise DataError("is nested too deeply", where=where, remedy=remedy) from error
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One object, each field of which comes once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return found


def _objects(rows: Sequence[Any], lines: Sequence[str], path: Path) -> Table:
    """Objects that all have the same keys, as columns."""
    for row, line in zip(rows, lines, strict=True):
        if not isinstance(row, dict):
            raise DataError(f"{mistakes.kind(row)} in place of an object", where=f"{path} {line}", remedy="one object a row")
        if set(row) != set(rows[0]):
            unlike = ", ".join(sorted(set(row) ^ set(rows[0])))
            raise DataError(
                f"has other fields than the first row: {unlike}", where=f"{path} {line}", remedy="the same fields in all"
            )
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}, lines


def _parquet(path: Path) -> Table:
    import pyarrow.parquet

    try:
        with path.open("rb") as file:  # a path would be taken for a data set of many files
            table = pyarrow.parquet.read_table(file)
        return {name: table.column(name).to_pylist() for name in table.column_names}, [f"row {i + 1}" for i in range(len(table))]
    except Exception as error:  # pyarrow raises what its C++ side raises
        first = next(iter(str(error).splitlines()), type(error).__name__).rpartition("'<Buffer>': ")[2]
        raise DataError(f"is no Parquet file: {first}", where=str(path), remedy="check the file") from error
