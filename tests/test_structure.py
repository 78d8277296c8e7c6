"""The structure of the source: no circles, a sentence for every file; and the tool that looks for them does find them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.structure import Code, circles, complaints, draw, files_page, layers

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "peftlab"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / "thing" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "thing"


def test_nothing_is_wrong_with_ours() -> None:
    assert complaints(Code.read(SOURCE)) == []


def test_every_folder_of_the_source_has_a_layer() -> None:
    code = Code.read(SOURCE)
    assert {code.folder(name) for name in code.files} - {"peftlab"} == {name for names in layers() for name in names}


def test_files_that_import_one_another_are_found(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        a__one='"""One."""\nfrom thing.b import two\n',
        b__two='"""Two."""\ndef late():\n    from thing.a.one import late\n',
        b__three='"""Three."""\nimport thing.a.one\n',
        c='text = "from thing.a import one"\n',
    )
    code = Code.read(source)
    assert code.imports["thing.a.one"] == {"thing.b.two"} and not code.imports["thing.c"]
    assert complaints(code) == [
        "these files import one another in a circle: thing.a.one, thing.b.two",
        "these folders import one another in a circle: a, b",
        "thing.c does not say in a docstring what it is for",
    ]


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, [["b", "c"]]),
        ({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a", "e"], "e": ["d"]}, [["a", "b", "c"], ["d", "e"]]),
        ({"a": ["a"]}, []),
    ],
)
def test_circles(arrows: dict[str, list[str]], expected: list[list[str]]) -> None:
    assert circles(arrows) == expected


def test_the_page_names_every_file_once() -> None:
    page = files_page(Code.read(SOURCE))
    for path in SOURCE.rglob("*.py"):
        if path != SOURCE / "__init__.py":
            assert page.count(f"| `{path.relative_to(SOURCE).as_posix()}` |") == 1


def test_the_picture_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(Code.read(SOURCE), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
