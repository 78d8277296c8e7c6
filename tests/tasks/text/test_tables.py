"""Tables of texts in every form, and what is wrong with them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.errors import DataError, OptionError
from peftlab.tasks.text.resolve import source_of
from peftlab.tasks.text.tables import Tables, read_table
from tests.tasks.texts import write_tsv

ROWS = [('a "quoted" word', "0"), ("a comma, a\u2028separator and a\x85 line", "1"), ("", "1"), ("ü", "0")]


def write(path: Path) -> Path:
    frame = pd.DataFrame(ROWS, columns=pd.Index(["text", "label"]))
    if path.suffix == ".tsv":
        return write_tsv(path, ROWS, "text\tlabel")
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")) + "\n")
    else:
        path.write_text(json.dumps({"data": frame.to_dict("records")}))
    return path


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".json", ".jsonl", ".parquet"])
def test_every_form_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    part = read_table(write(tmp_path / f"data{suffix}"), "train")
    assert list(zip(*part.columns.values(), strict=True)) == ROWS
    assert list(part.columns) == ["text", "label"]
    assert "3" in part.where(2) or "4" in part.where(2)
    named_at = f"data{suffix} line 1" if suffix in (".tsv", ".csv") else f"data{suffix}"
    with pytest.raises(DataError, match=rf"{re.escape(named_at)}: there is no column 'lable'\n  -> Did you mean 'label'"):
        raise part.lacks("lable")


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_csv_is_read_as_the_csv_module_wrote_it(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("x", "y"), *rows])
    part = read_table(path, "train")
    kept = [row for row in rows if any(row)]
    assert list(zip(part.columns["x"], part.columns["y"], strict=True)) == kept


def test_a_folder_with_a_file_a_split(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.tsv")
    rows = source_of(str(tmp_path)).read()
    assert {role: len(indices) for role, indices in rows.roles.items()} == {"train": 4, "validation": 4, "test": 4}
    assert rows.column("label") == ["0", "1", "1", "0"] * 3
    assert rows.where(4) == "dev.tsv line 2"
    assert len(rows) == 12 and rows.names() == ("text", "label")


def test_without_a_test_split_validation_serves_as_test_and_that_is_said(tmp_path: Path) -> None:
    write(tmp_path / "train.csv")
    write(tmp_path / "val.csv")
    rows = source_of(str(tmp_path)).read()
    assert set(rows.roles) == {"train", "test"} and "'val' split serves as test" in rows.notes[0]


def test_files_can_be_named(tmp_path: Path) -> None:
    write(tmp_path / "mine.csv")
    write(tmp_path / "theirs.jsonl")
    rows = Tables(path=str(tmp_path), train="mine.csv", test="theirs.jsonl").read()
    assert set(rows.roles) == {"train", "test"}
    with pytest.raises(DataError, match="no such file"):
        Tables(path=str(tmp_path), train="gone.csv").read()


def test_the_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        write(folder / "train.tsv")
    assert source_of(str(first)).fingerprint() == source_of(str(second)).fingerprint()
    write_tsv(second / "train.tsv", [*ROWS, ("x", "0")], "text\tlabel")
    assert source_of(str(first)).fingerprint() != source_of(str(second)).fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"text\tlabel\ngood\t1\nbad\n", "line 3.*too few fields: 1 where the header has 2"),
        ("t.tsv", b"text\tlabel\ngood\t1\tx\n", "line 2.*too many fields"),
        ("t.csv", b"text,label\na,b,1\n", "line 2.*too many fields"),
        ("t.csv", b'text,label\n"a,1\n', "is no CSV"),
        ("t.csv", b"text,text\na,1\n", "two share one"),
        ("t.csv", b"", "is empty: the first line must name the columns"),
        ("t.csv", b"a|b\n1|2\n", "line 1.*the columns are parted by '|', not by commas"),
        ("t.tsv", b"a,b\n1,2\n", "line 1.*the columns are parted by ',', not by tabs"),
        ("t.tsv", b"text\tlabel\n", "has no rows"),
        ("t.tsv", b"text\tlabel\ncaf\xe9\t1\n", "byte 0xe9 at 14 is not UTF-8"),
        ("t.json", b"{", "is no JSON"),
        ("t.json", b'{"rows": []}', "holds no list"),
        ("t.json", b'[{"a": 1}, {"b": 1}]', "row 2.*other fields than the first row: a, b"),
        ("t.jsonl", b'{"a": 1}\n[]\n', "line 2.*list in place of an object"),
        ("t.jsonl", b'{"a": 1}\n{\n', "line 2.*is no JSON"),
        ("t.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2.*the field 'a' comes twice"),
        ("t.json", b'[{"a": 1, "b": {"c": 1, "c": 2}}]', "the field 'c' comes twice"),
        ("t.parquet", b"PAR", "is no Parquet file"),
    ],
)
def test_bad_files_say_what_and_where(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"(?s){message}"):
        source_of(str(tmp_path / name)).read()


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbftext,label\r\na,1\r\n")
    assert read_table(tmp_path / "t.csv", "train").columns == {"text": ["a"], "label": ["1"]}


def test_paths_that_are_wrong(tmp_path: Path) -> None:
    write(tmp_path / "train.csv")
    with pytest.raises(DataError, match="no such data"):
        source_of(str(tmp_path / "trian.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no texts in a form"):
        source_of(str(tmp_path / "empty"))
    write(tmp_path / "train.tsv")
    with pytest.raises(DataError, match="several files for train"):
        source_of(str(tmp_path)).read()
    with pytest.raises(OptionError, match="one file has no splits"):
        Tables(path=str(tmp_path / "train.csv"), test="x.csv")


def test_columns_of_a_parquet_file_that_share_a_name(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match="is no Parquet file: Multiple matches"):
        read_table(tmp_path / "d.parquet", "train")


def test_a_spreadsheet_in_other_countries(tmp_path: Path) -> None:
    """Semicolons, commas in the texts, a byte-order mark, Windows line ends, an upper-case suffix, row numbers, empty rows."""
    content = '\ufeff;Frage;Thema\r\n1;"wer, wie; was";a\r\n\r\n2;warum?;b\r\n;;\r\n'
    (tmp_path / "T.CSV").write_bytes(content.encode())
    (part,) = source_of(str(tmp_path / "T.CSV")).read().parts
    assert part.columns == {"column 1": ["1", "2"], "Frage": ["wer, wie; was", "warum?"], "Thema": ["a", "b"]}
    assert part.where(1) == "T.CSV line 4"


def test_a_comma_in_the_header_keeps_semicolons_in_the_texts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b,label\nx;y,1\n")
    assert read_table(tmp_path / "t.csv", "train").columns == {"a;b": ["x;y"], "label": ["1"]}


def test_what_a_spreadsheet_writes_otherwise_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("text,label\na,1\n".encode("utf-16"))
    with pytest.raises(DataError, match="not UTF-8") as caught:
        source_of(str(tmp_path / "t.csv")).read()
    assert "iconv -f utf-16" in caught.value.remedy
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match="spreadsheet") as caught:
        source_of(str(tmp_path / "t.xlsx"))
    assert "save the sheet as CSV" in caught.value.remedy
