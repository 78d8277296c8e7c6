"""The tool that mutates: what it changes, which tests it takes, how it judges; and the whole of it on a made-up package."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the tool forks")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import mutation  # pyright: ignore

    return mutation


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import _mutation_server  # pyright: ignore

    return _mutation_server


def test_every_area_has_sources_and_tests(tool: Any) -> None:
    assert len(tool.AREAS) == 7
    for area in tool.AREAS.values():
        assert area.source_files(ROOT) and area.test_files(ROOT)
        for pattern in (*area.sources, *area.tests):
            assert list(ROOT.glob(pattern)), pattern


SOURCE = """\
LIMIT = 3

def grows(
    x,
    by=2,
):
    if x > LIMIT and (
        by
    ):
        return (x +
                by)
    return x
"""


@pytest.mark.parametrize(("line", "lines"), [(1, [1]), (5, [3, 4, 5, 6]), (8, [7, 8, 9]), (11, [10, 11]), (12, [12])])
def test_a_line_stands_for_its_statement(tool: Any, line: int, lines: list[int]) -> None:
    assert tool.statement_lines(SOURCE, line) == lines


def measured(**tests: tuple[float, list[int]]) -> list[dict[str, Any]]:
    """What the server says: name of a test -> (seconds, lines of src/thing.py it runs); lines 1 and 3 run on import, too."""
    found = []
    for name, (seconds, lines) in tests.items():
        node = f"tests/test_{name.partition('_')[0]}.py::test_{name}"
        found.append({"seconds": {node: seconds}, "lines": {"src/thing.py": {str(line): [node] for line in lines}}})
    found.append({"seconds": {}, "lines": {"src/thing.py": {"1": [""], "3": [""]}}})
    return found


def names(chosen: list[str]) -> list[str]:
    return [test.partition("::test_")[2] for test in chosen]


def test_the_mirroring_file_comes_first_then_the_quick(tool: Any) -> None:
    tests = measured(other_slow=(2.0, [10]), quick_one=(0.1, [10]), thing_two=(1.0, [10]), elsewhere_no=(0.1, [12]))
    chosen, collect = tool.choose_tests("src/thing.py", [10, 11], tests, 10)
    assert names(chosen) == ["thing_two", "quick_one", "other_slow"] and not collect


def test_a_default_is_tested_by_whatever_runs_the_file(tool: Any) -> None:
    chosen, collect = tool.choose_tests("src/thing.py", [3, 4], measured(a_one=(0.1, [10]), b_two=(0.2, [12])), 10)
    assert names(chosen) == ["a_one", "b_two"] and collect


def test_the_budget_is_kept_beyond_three_tests(tool: Any) -> None:
    tests = measured(**{f"t{number}_x": (1.0, [10]) for number in range(9)})
    assert len(tool.choose_tests("src/thing.py", [10], tests, 5)[0]) == 5
    assert len(tool.choose_tests("src/thing.py", [10], tests, 0.5)[0]) == 3
    assert tool.choose_tests("src/thing.py", [99], tests, 5) == ([], False)


def test_the_interval_is_wilsons(tool: Any) -> None:
    """Newcombe (1998, Statistics in Medicine 17, table I, method 3): 81 of 263 gives 0.2553 to 0.3662."""
    alive = [{"file": "f", "before": "a", "after": "b", "status": status} for status in ["survived"] * 180 + ["not run"] * 2]
    dead = [{"file": "f", "before": "a", "after": "c", "status": status} for status in ["killed"] * 80 + ["timeout"]]
    found = tool.summary(alive + dead)
    assert found["interval"] == [0.2553, 0.3662] and found["score"] == round(81 / 263, 4)


def test_what_was_read_and_changes_nothing_is_left_out(tool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps([{"file": "f", "before": "a", "after": "b", "why": "the same"}]))
    monkeypatch.setattr(tool, "EQUIVALENTS", tmp_path / "e.json")
    mutants = [{"file": "f", "before": "a", "after": after, "status": "survived"} for after in "bc"]
    found = tool.summary([*mutants, {"file": "f", "before": "a", "after": "b", "status": "killed"}])
    assert (found["equivalent"], found["survived"], found["killed"], found["score"]) == (1, 1, 1, 0.5)


def test_every_equivalent_is_still_there_and_says_why(tool: Any) -> None:
    for entry in json.loads(tool.EQUIVALENTS.read_text(encoding="utf-8")):
        lines = {line.strip() for line in (ROOT / entry["file"]).read_text(encoding="utf-8").splitlines()}
        assert entry["before"] in lines, entry
        assert len(entry["why"].split()) >= 4, entry


def test_once_more_only_survivors_are_judged_and_what_was_at_first_is_kept(tool: Any) -> None:
    def mutant(after: str, status: str, **more: str) -> dict[str, Any]:
        return {"file": "f", "before": "a", "after": after, "status": status, **more}

    before = [
        mutant("1", "killed"),
        mutant("2", "survived"),
        mutant("3", "not run"),
        mutant("4", "equivalent"),
        mutant("5", "timeout"),
    ]
    area = {"places": 9, "mutants": before, "summary": {"score": 0.5}, "seconds": 7, "gone": [mutant("0", "survived")]}
    asked: list[list[str]] = []

    def judged(alive: list[dict[str, Any]]) -> dict[str, Any]:
        asked.append([each["after"] for each in alive])
        return {"places": 8, "mutants": [mutant("2", "killed", by="a new test"), mutant("4", "survived")]}

    found = tool.brought_up(area, judged)
    assert asked == [["2", "3", "4"]]
    assert [(each["after"], each["status"]) for each in found["mutants"]] == [
        ("1", "killed"), ("2", "killed"), ("4", "survived"), ("5", "timeout"),
    ]  # fmt: skip
    assert [each["after"] for each in found["gone"]] == ["0", "3"] and found["places"] == 8
    assert found["at first"] == {"score": 0.5}
    assert tool.brought_up(found | {"summary": {"score": 1.0}}, judged)["at first"] == {"score": 0.5}, "the very first"


def test_a_survivor_is_found_again_near_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("cosmic_ray", reason="only the environment of the tool has it")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import _mutants  # pyright: ignore

    loop = "for _ in range(3):\n    if _:\n        continue\n"
    (tmp_path / "f.py").write_text("# a new line\n" + 3 * loop)
    entry = {"file": "f.py", "operator": "ReplaceContinueWithBreak", "before": "continue", "after": "break"}
    for line in (3, 6, 9):
        assert [mutant.line for mutant in _mutants.found_again(entry | {"line": line}, tmp_path)] == [line + 1]
    assert _mutants.found_again(entry | {"line": 3, "before": "return"}, tmp_path) == []


def test_the_whole_has_a_mutant_at_every_place_that_has_one(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cosmic_ray", reason="only the environment of the tool has it")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import _mutants  # pyright: ignore

    sources = {"f.py": SOURCE, "g.py": "def g(x, y):\n    return x * y - 1\n"}
    places = {mutant.place for file, source in sources.items() for mutant in _mutants.mutants_of(file, source)}
    for seed in range(5):
        chosen, count = _mutants.sample(sources, tool.how_many("all"), seed)
        assert count == len(places) == len(chosen) and {mutant.place for mutant in chosen} == places
        assert len(_mutants.sample(sources, tool.how_many("4"), seed)[0]) == 4


def test_no_mutant_is_taken_for_another_of_its_size(server: Any, tmp_path: Path) -> None:
    path, seen = tmp_path / "made_up.py", []
    path.write_text("VALUE = 1\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for number in (2, 3, 4):
        with server.on_disk(path, f"VALUE = {number}\n"):
            command = [sys.executable, "-c", "import made_up; print(made_up.VALUE)"]
            done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
            seen.append(int(done.stdout))
    assert seen == [2, 3, 4] and path.read_text() == "VALUE = 1\n"


def live(source: str, path: Path) -> types.ModuleType:
    path.write_text(source)
    specification = importlib.util.spec_from_file_location("made_up", path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_living_functions_change_with_what_is_in_them(server: Any, tmp_path: Path) -> None:
    source = "class A:\n    def f(self, x):\n        return [y + 1 for y in x]\n\ndef g():\n    return lambda: 5\n"
    path = tmp_path / "made_up.py"
    module = live(source, path)
    bound, kept = module.A().f, module.g

    def compiled(text: str) -> types.CodeType:
        return compile(text, str(path), "exec")

    for old, new in (("y + 1", "y - 1"), ("lambda: 5", "lambda: 6")):
        changed = server.outermost_changes(compiled(source), compiled(source.replace(old, new)))
        assert server.exchange(changed, str(path), server.living({str(path)}))
    assert bound([3]) == [2] and kept()() == 6
    assert server.outermost_changes(compiled(source), compiled(source)) == []


def test_functions_that_the_tests_froze_are_found(tmp_path: Path) -> None:
    """Where they were not, every mutant had its tests collected anew: right, and many times slower."""
    (tmp_path / "made_up.py").write_text("def f():\n    return 5\n")
    code = (
        "import gc, sys\nsys.path[:0] = sys.argv[1:]\nimport _mutation_server, made_up\ngc.freeze()\n"
        "print([key[1:] for key in _mutation_server.living({made_up.__file__})])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "tools"), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[('f', 1)]\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("X = 1\n", "X = 2\n"),
        ("class A:\n    x: int = 1\n", "class A:\n    x: int = 2\n"),
        ("def f(x=1):\n    return x\n", "def f(x=2):\n    return x\n"),
        ("class A:\n    def f(self, x=1):\n        return x\n", "class A:\n    def f(self, x=2):\n        return x\n"),
    ],
)
def test_what_is_made_on_import_needs_an_import(server: Any, before: str, after: str) -> None:
    assert server.outermost_changes(compile(before, "f", "exec"), compile(after, "f", "exec")) is None


def test_a_child_answers_hangs_or_dies(server: Any, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    assert server.in_child(lambda: {"status": "survived"}, 60, answer) == {"status": "survived"}
    assert server.in_child(lambda: time.sleep(600), 0.2, answer)["status"] == "timeout"
    assert server.in_child(lambda: os._exit(7), 60, answer) == {"status": "killed", "by": "the process died (7)"}
    assert server.in_child(lambda: sys.exit("no"), 60, answer) == {"status": "killed", "by": "SystemExit: no"}


PACKAGE = {
    "src/made_up/sums.py": (
        "START = 5\n\ndef total(values):\n    left = len(values)\n    found = 0\n    while left > 0:\n        left -= 1\n"
        "        found += values[left]\n    return found\n\ndef loose(x):\n    return x * 2\n\ndef nobody(x):\n    return x * 3\n"
    ),
    "tests/test_sums.py": (
        "from made_up.sums import START, loose, total\n\n"
        "def test_total():\n    assert total([1, 2, 4]) == 7 and total([]) == 0\n\n"
        "def test_start():\n    assert START == 5 and total([START]) == 5\n\ndef test_loose():\n    assert loose(0) == 0\n"
    ),
}
DRIVE = """
import argparse, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import mutation
from _mutation_areas import Area
folder = Path(sys.argv[2])
options = argparse.Namespace(count=40, seed=1, budget=4.0, limit=3.0)
bench = mutation.Bench(folder / "work", root=folder / "package")
found = mutation.judge(bench, Area(("src/made_up/*.py",), ("tests/*.py",)), options, None)
print(json.dumps(found["mutants"]))
"""
AGAIN = """
import argparse, functools, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import mutation
from _mutation_areas import Area
folder = Path(sys.argv[2])
mutation.AREAS["sums"] = Area(("src/made_up/*.py",), ("tests/*.py",))
mutation.Bench = functools.partial(mutation.Bench, root=folder / "package")
options = argparse.Namespace(areas=["records", "sums"], again=folder / "report.json", output=None, folder=folder / "work")
options = argparse.Namespace(**vars(options), budget=4.0, limit=3.0, goal=0.99)
raise SystemExit(mutation.work(options))
"""


@pytest.mark.slow
def test_a_made_up_package(tool: Any, tmp_path: Path) -> None:
    """What the tests hold is killed, a loop without an end times out, a loose test and a function without one let through."""
    try:
        python = tool.environment(tmp_path / "environment")
    except subprocess.CalledProcessError:
        pytest.skip("cosmic-ray cannot be installed here")
    package = tmp_path / "package"
    for name, text in PACKAGE.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (package / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['slow', 'gpu', 'browser']\n")
    command = [str(python), "-c", DRIVE, str(ROOT / "tools"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mutants = json.loads(done.stdout)
    found: dict[str, set[str]] = {}
    for mutant in mutants:
        found.setdefault(mutant["before"], set()).add(mutant["status"])
    assert found["return x * 3"] == {"not run"}
    assert found["return x * 2"] <= {"survived", "killed"}
    assert found["START = 5"] == found["found = 0"] == found["found += values[left]"] == {"killed"}
    assert found["left -= 1"] & {"timeout", "killed"}
    killers = {mutant["by"] for mutant in mutants if mutant["status"] == "killed"}
    assert "tests/test_sums.py::test_start" in killers  # the only one that can kill a constant, which needs a new import
    assert killers <= {"tests/test_sums.py::test_total", "tests/test_sums.py::test_start"}
    assert (package / "src/made_up/sums.py").read_text() == PACKAGE["src/made_up/sums.py"]

    report = {
        "samples": [{"seed": 1, "count": 40, "areas": {"sums": {"places": 9, "mutants": mutants, "summary": {"score": 0.5}}}}]
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    mended = PACKAGE["tests/test_sums.py"].replace("import START, loose", "import START, loose, nobody")
    (package / "tests/test_sums.py").write_text(mended + "    assert (loose(5), nobody(5)) == (10, 15)\n")
    once_more = subprocess.run([*command[:2], AGAIN, *command[3:]], capture_output=True, text=True, check=False)
    assert once_more.returncode == 0, once_more.stdout + once_more.stderr
    (part,) = json.loads((tmp_path / "report.json").read_text())["samples"]
    area = part["areas"]["sums"]
    assert area["at first"] == {"score": 0.5} and area["summary"]["score"] == 1 and part["seed"] == 1
    assert [m["before"] for m in area["mutants"]] == [m["before"] for m in mutants]

    (package / "tests/test_sums.py").write_text(PACKAGE["tests/test_sums.py"].replace("== 7", "== 8"))
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "without any mutant these fail: ['tests/test_sums.py::test_total']" in refused.stderr
