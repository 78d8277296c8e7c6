"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from peftlab.registry import PACKAGES
from peftlab.study.load import parse_yaml, validate_study

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "peftlab"
#: the frame's own word for the absence of a component (the default of ``quantizer`` in study/schema.py)
ABSENT = "none"
#: a person is meant to read a file in one go
MOST_LINES = 400
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEAVY = ("torch", "torchvision", "transformers", "peft", "timm", "datasets")


def modules(package: str) -> list[str]:
    """Dotted names of all modules below a package (or the module itself), without importing any."""
    path = SOURCE.parent / Path(*package.split("."))
    if path.with_suffix(".py").is_file():
        return [package]
    files = sorted(path.rglob("*.py"))
    names = [".".join(f.relative_to(SOURCE.parent).with_suffix("").parts) for f in files]
    return [name.removesuffix(".__init__") for name in names]


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def tracked_files() -> list[Path]:
    """Files under version control; all text files where there is no git."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode == 0:
        return [ROOT / name for name in git.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [p for folder in ("src", "tests", "docs", "studies", "tools") for p in (ROOT / folder).rglob("*") if p.is_file()]


@pytest.mark.parametrize("package", ["errors", "registry", "records", "study", "analysis", "report", "cli"])
def test_imports_no_torch(package: str) -> None:
    names = modules(f"peftlab.{package}")
    assert names
    code = (
        f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        f"print(*[heavy for heavy in {HEAVY!r} if heavy in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def component_names() -> dict[str, set[Path]]:
    """Name of a component -> its files, read from the sources (``name: ClassVar[str] = "lora"``)."""
    found: dict[str, set[Path]] = {}
    for package in PACKAGES.values():
        folder = SOURCE.parent / Path(*package.split("."))
        for path in sorted(folder.glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.ClassDef):
                    continue
                for line in node.body:
                    if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id == "name"):
                        continue
                    if isinstance(line.value, ast.Constant):
                        found.setdefault(str(line.value.value), set()).add(path)
    return found


def compared_strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every string constant that a comparison, ``in`` or ``match`` looks for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        else:
            continue
        for side in sides:
            parts = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
            for part in parts:
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield node.lineno if isinstance(node, ast.Compare) else node.value.lineno, part.value


def own_words(tree: ast.AST) -> set[str]:
    """Strings of the ``Literal[...]`` types that a file declares: its own vocabulary, where ``none`` may mean no augmentation."""
    literals = (node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal")
    return {part.value for node in literals for part in ast.walk(node.slice) if isinstance(part, ast.Constant)}


def test_no_component_is_named_in_a_condition_outside_its_file() -> None:
    names = component_names()
    assert {"uniform", "none"} <= set(names)
    contracts = {path.parent: own_words(tree) for path, tree in trees() if path.name == "contract.py"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} compares with {text!r}"
        for path, tree in trees()
        for line, text in compared_strings(tree)
        if text in names.keys() - {ABSENT}
        and path not in names[text]
        and text not in own_words(tree) | contracts.get(path.parent, set())
    ]
    assert not wrong, "\n".join(wrong)


def test_the_component_check_sees_every_form() -> None:
    code = 'a == "lora"\nb in ("lora", "svd")\nmatch c:\n    case "full":\n        pass'
    assert [text for _, text in compared_strings(ast.parse(code))] == ["lora", "lora", "svd", "full"]


def test_components_do_not_import_their_siblings() -> None:
    """Methods stand alone. (Sources of backbones and data are not methods: a bundled backbone is a transformers folder.)"""
    methods = {
        SOURCE / folder for folder in ("adapters", "allocators", "allocators/importance", "quantizers", "probes", "trackers")
    }
    files = {path for paths in component_names().values() for path in paths if path.parent in methods}
    dotted = {".".join(p.relative_to(SOURCE.parent).with_suffix("").parts): p for p in files}
    wrong = []
    for path in sorted(files):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in dotted and dotted[node.module].parent == path.parent:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}")
    assert not wrong, "\n".join(wrong)


def test_no_global_random_numbers() -> None:
    """Generators are passed: ``np.random.rand``, ``random.random``, ``torch.manual_seed`` and their kin are not called."""
    allowed = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "Random", "fork_rng"}
    wrong = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            if owner in ("np.random", "numpy.random", "random") and node.func.attr not in allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {owner}.{node.func.attr}")
    assert not wrong, "\n".join(wrong)


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    long = [f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in lengths.items() if lines > MOST_LINES]
    assert not long, "\n".join(long)


def test_no_path_of_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:" + "work|root|home/(?!user\\b|me\\b|somebody\\b)[a-z]+|Users/[a-z]+" + r")/[\w.]+")
    wrong = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not wrong, "\n".join(wrong)


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield document, match[1]


def documented_commands() -> list[tuple[str, str]]:
    found = []
    for document, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split(" #")[0].strip()
            if command:
                found.append((str(document.relative_to(ROOT)), command))
    return found


def test_the_documents_have_commands() -> None:
    commands = {command for document, command in documented_commands() if document == "README.md"}
    assert {"make demo", "make test"} <= commands


@pytest.mark.parametrize(("document", "command"), documented_commands())
def test_documented_command_exists(document: str, command: str) -> None:
    """Targets and named files of every ``bash`` block are real; ``test_documented_commands.py`` reads what peftlab is told."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program = Path(words[0]).name if words else ""
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert set(words[1:]) <= targets
    elif program in ("python", "bash") and not words[1].startswith("-"):
        written = f'title="{words[1]}"' in (ROOT / document).read_text(encoding="utf-8")  # a block of the page itself
        assert written or (ROOT / words[1]).is_file()
    for word in words:
        if word.startswith("studies/"):
            assert (ROOT / word).is_file(), f"{document} names {word}"


def test_documented_studies_are_valid() -> None:
    found = 0
    for document, block in blocks("yaml"):
        if block.startswith("study:"):
            validate_study(parse_yaml(block, where=str(document)), where=str(document))
            found += 1
    assert found >= 2


def test_pins_agree() -> None:
    specification = importlib.util.spec_from_file_location("pins", ROOT / "tools" / "pins.py")
    assert specification and specification.loader
    pins = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(pins)
    assert pins.problems(pins.read_constraints((ROOT / "constraints.txt").read_text(encoding="utf-8"))) == []


def test_links_inside_the_documents_lead_somewhere() -> None:
    wrong = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")) and not (document.parent / target).exists():
                wrong.append(f"{document.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


def documented_keys() -> dict[str, set[tuple[str, str]]]:
    """Section of docs/study-file.md -> {(key, default)}."""
    found: dict[str, set[tuple[str, str]]] = {}
    section = ""
    for line in (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif row := re.match(r"\| `([a-z_0-9]+)` \| `?([^|`]+)`? \|", line):
            found.setdefault(section, set()).add((row[1], row[2].strip()))
    return found


def as_documented(default: object) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if default in ("", {}, ()):
        return "empty"
    return str(default)


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("Top level", "Study"),
        ("Train", "Train"),
        ("Arms", "Arm"),
        ("Tune", "Tune"),
        ("Search", "Racing"),
        ("Require", "Require"),
        ("Analysis", "Analysis"),
    ],
)
def test_every_key_of_a_study_is_documented_with_its_default(section: str, name: str) -> None:
    """Defaults that are frames of their own (``train``, ``analysis``) are documented by their own tables."""
    from pydantic import BaseModel

    from peftlab.study import schema

    keys = documented_keys()[section]
    fields = getattr(schema, name).model_fields
    assert {key for key, _ in keys} == set(fields)
    for key, shown in keys:
        field = fields[key]
        if field.is_required():
            assert shown == "required", key
        elif not isinstance(field.default, BaseModel):
            assert shown == as_documented(field.default), key


def test_documented_grids_expand_as_written() -> None:
    from peftlab.study.expand import cells

    text = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `((?:rank|targets): .+)` \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) >= 7
    for options, labels in rows:
        study = f"study: s\nbackbone: b\ntask: {{kind: t}}\nseeds: [0]\narms: {{lora: {{adapter: {{name: lora, {options}}}}}}}"
        found = [cell.label for cell in cells(validate_study(parse_yaml(study)))]
        assert found == re.findall(r"`([^`]+)`", labels), options


def test_every_option_of_the_image_task_is_documented() -> None:
    from peftlab.registry import component

    fields = dataclasses.fields(component("task", "image-classification"))  # pyright: ignore[reportArgumentType]
    assert {key for key, _ in documented_keys()["Task"]} == {field.name for field in fields}


PARAMETRIZED = """
import pytest

@pytest.fixture(scope="module", params=["one", "other"])
def models(request):
    return request.param

@pytest.mark.parametrize("number", range(20))
def test_it(models, number):
    pass
"""


def test_in_a_random_order_what_tests_share_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "test_shared.py").write_text(PARAMETRIZED, encoding="utf-8")
    random = ["--random-order-bucket=module", "--random-order-seed=1"]
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", *random, "--collect-only", "-q", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    told = re.findall(r"test_it\[(one|other)-(\d+)\]", listed)
    kinds, numbers = [kind for kind, _ in told], [int(number) for _, number in told]
    assert len(told) == 40 and len([kind for before, kind in zip(["", *kinds], kinds, strict=False) if kind != before]) == 2
    assert numbers[:20] != sorted(numbers[:20]) and numbers[20:] != sorted(numbers[20:]), "still shuffled"
