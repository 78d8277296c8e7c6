"""What is named to ``predict`` beside texts themselves: files of every kind, and words that are meant to name one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftlab.api._named_files import file_of
from peftlab.api._predict_images import image_batches
from peftlab.api._predict_texts import texts_of
from peftlab.errors import DataError
from peftlab.tasks.contract import Preprocessing

FILES = ("questions.csv", "sheet.xlsx", "notes.yaml", "plain", "my own file.csv")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FILES:
        (tmp_path / name).write_text("text,label\nfine,1\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)


def named(word: str) -> Path | None:
    return file_of(word, (".csv", ".txt"), "give texts")


@pytest.mark.parametrize(
    ("word", "what", "remedy"),
    [
        ("", "an empty text", "give texts"),
        (" \n", "an empty text", "give texts"),
        (".", "a folder is no input of this model", "give texts"),
        ("folder", "a folder is no input of this model", "give texts"),
        ("notes.yaml", "a .yaml file is no input of this model", "give texts"),
        ("plain", "a file without a suffix is no input of this model", "give texts"),
        ("sheet.xlsx", "is a spreadsheet, no table of texts", "save the sheet as CSV"),
        ("questoins.csv", "there is no such file", "Did you mean 'questions.csv'?"),
        ("Questions.xlsx", "there is no such file", "Did you mean 'questions.csv'?"),
        ("questions.csvv", "there is no such file", "Did you mean 'questions.csv'?"),
        ("my own fiel.csv", "there is no such file", "Did you mean 'my own file.csv'?"),
        ("other.txt", "there is no such file", "check the path"),
        ("foldre/questions.csv", "there is no such file", "'foldre' is not in"),
    ],
)
def test_what_is_no_input_is_told(word: str, what: str, remedy: str) -> None:
    with pytest.raises(DataError) as caught:
        named(word)
    assert caught.value.what == what and remedy in caught.value.remedy


@pytest.mark.parametrize("word", ["questions", "and/or", "e.g.", "https://a.org/b.html", "a text on questions.csv", "fine" * 200])
def test_other_words_are_texts(word: str) -> None:
    assert named(word) is None


def test_a_file_is_itself_whatever_its_letters(tmp_path: Path) -> None:
    (tmp_path / "LOUD.CSV").write_text("text\nfine\n")
    (tmp_path / "loud.TXT").write_text("good\n\nbad\n")
    assert named("questions.csv") == Path("questions.csv")
    names, texts = texts_of(["LOUD.CSV", "loud.TXT", "a text"], ["text"], needed=1)
    assert texts == [("fine",), ("good",), ("bad",), ("a text",)]
    assert names == ["LOUD.CSV line 2", "loud.TXT line 1", "loud.TXT line 3", "a text"]


def test_a_document_of_documents_is_no_table_of_texts(tmp_path: Path) -> None:
    books = {"data": [{"title": "a", "chapters": [{"heading": "c", "pages": []}]}]}
    (tmp_path / "nested.json").write_text(json.dumps(books))
    with pytest.raises(DataError, match=r"nested\.json: is no table of texts: 'chapters' holds a list\n") as caught:
        texts_of(["nested.json"], ["Question asked"], needed=1)
    assert '[{"Question asked": "a text"}, ...]' in caught.value.remedy
    with pytest.raises(DataError, match="there is no column 'Title'"):  # nearly one that is there
        texts_of(["nested.json"], ["Title"], needed=1)
    with pytest.raises(DataError, match=r"questions\.csv line 1: there is no column 'Text'"):
        texts_of(["questions.csv"], ["Text"], needed=1)


def test_the_nested_json_of_squad_is_a_table_of_its_questions(tmp_path: Path) -> None:
    asked = [{"id": f"q{i}", "question": f"{i}?", "is_impossible": True} for i in range(2)]  # nobody answers before asking
    squad = {"data": [{"title": "a", "paragraphs": [{"context": "c", "qas": asked}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    names, texts = texts_of(["squad.json"], ["question", "context"], needed=2)
    assert texts == [("0?", "c"), ("1?", "c")] and names == ["squad.json question q0", "squad.json question q1"]
    with pytest.raises(DataError, match="there is no column 'sentence'"):
        texts_of(["squad.json"], ["sentence"], needed=1)


def test_pairs_come_in_tables() -> None:
    with pytest.raises(DataError, match="the model labels pairs of texts") as caught:
        texts_of(["one", "two"], ["first", "second"], needed=2)
    assert "with the columns 'first' and 'second'" in caught.value.remedy and ".txt" not in caught.value.remedy


def test_an_image_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    form = Preprocessing(image_size=8, interpolation="bilinear", crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(DataError, match=r"cta\.png: there is no such file or folder\n.*Did you mean 'cat\.png'\?"):
        next(image_batches(["cta.png"], form, 1, []))
