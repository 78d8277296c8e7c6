"""Every claim of the scorecard has a command that exists and a result, and the page is what its tool makes of them."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import typer

from peftlab import cli
from tests.documented import misread

ROOT = Path(__file__).parents[1]
#: beside our own tools, what a quick row may call (pinned development tools and what every system has)
PROGRAMS = {"lint-imports", "ruff", "mkdocs", "wc", "ls", "cmp", "echo", "du"}


@cache
def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("scorecard", ROOT / "tools" / "scorecard.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


CLAIMS = tool().claims()


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")}


def test_ids_are_unique_and_there_are_claims_of_every_kind() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS) >= 120
    assert {claim.kind for claim in CLAIMS} == set(tool().KINDS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_every_claim_has_a_command_that_exists(claim) -> None:
    if claim.kind == "tests":
        for node in claim.command.split():
            path, _, name = node.partition("::")
            assert (ROOT / path).exists(), f"{node}: no such file"
            assert not name or name in functions_of(ROOT / path), f"{node}: no such test"
        return
    for part in claim.command.split(" && "):
        existing(re.sub(r"\{\w+\}", "FOLDER", part))
    if claim.kind == "study":
        assert (ROOT / claim.more["file"]).is_file()
    if claim.kind == "benchmark":
        for name in tool().files_of(claim):
            file = ROOT / tool().BENCHMARKS / name
            assert file.is_file() or claim.more.get("pending"), f"{name} is not there, and the row gives no reason"
    if claim.kind == "quick":
        assert claim.more.get("find") or claim.more.get("unreachable"), "nothing is looked for in what is printed"


def existing(command: str) -> None:
    first, *others = shlex.split(command.removeprefix("time "))
    if first == "python" and others[0] == "-m":
        module = others[1].replace(".", "/")
        assert others[1] == "pytest" or any((ROOT / base / f"{module}.py").is_file() for base in (".", "src")), command
    elif first == "python":
        assert (ROOT / others[0]).is_file(), command
    elif first == "peftlab":
        assert not (said := misread(typer.main.get_command(cli.app), others, True)), f"{command}: {said}"
    elif first == "make":
        assert re.search(rf"^{others[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), command
    else:
        assert first in PROGRAMS, command
    for word in others:
        if word.startswith(("studies/", "tests/", "src/")):
            assert (ROOT / word).exists(), command


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_no_row_is_empty(claim) -> None:
    found = tool().recorded().get(claim.id)
    assert found, f"no result: run `python tools/scorecard.py --only {claim.id}`"
    assert found["verdict"] in (tool().SHOWN, tool().MISSED, tool().UNREACHABLE, tool().PENDING, tool().UNKEPT)
    assert found["printed"] if found["verdict"] == tool().SHOWN else found["why"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"]) and found["machine"]


def test_the_page_is_what_the_tool_makes_of_the_data() -> None:
    made = tool().page(CLAIMS, tool().goals(), tool().recorded(), tool().SMALL)
    assert (ROOT / "docs" / "scorecard.md").read_text(encoding="utf-8") == made, "run `python tools/scorecard.py --read`"
    for claim in CLAIMS:
        assert f"| {claim.claim}" in made


def test_no_result_is_of_a_claim_that_is_gone() -> None:
    assert set(tool().recorded()) <= {claim.id for claim in CLAIMS}


def test_every_goal_names_a_row_and_a_value_of_it() -> None:
    rows = {claim.id: claim for claim in CLAIMS}
    for goal in tool().goals():
        more = rows[goal["row"]].more
        named = {*more.get("values", {}), *re.findall(r"\?P<(\w+)>", str(more.get("find", "")))}
        assert goal["value"] in named or "unreachable" in more, goal


# --- the tool itself ---------------------------------------------------------------------------------------------------------


def claim_of(kind: str, command: str, **more: object):
    return tool().Claim("an-id", "README.md", "something holds", kind, command, more)


def test_what_is_printed_is_found_counted_and_judged(tmp_path: Path) -> None:
    shell = tool().Shell(tmp_path)
    command = "python -c 'print(\"took 1,234 ms in FOLDER\")'"
    good = tool().once(claim_of("quick", command, find=r"took (?P<ms>[\d,]+) ms", at_most=2000), shell)
    assert (good["verdict"], good["printed"], good["values"]) == ("shown", "1,234", {"ms": 1234.0})
    slow = tool().once(claim_of("quick", command, find=r"took (?P<ms>[\d,]+) ms", at_most={"ms": 1000}), shell)
    assert (slow["verdict"], slow["why"]) == ("missed", "ms 1234.0, claimed at most 1000")
    silent = tool().once(claim_of("quick", command, find="nothing of the kind"), shell)
    assert (silent["verdict"], silent["why"]) == ("missed", "not found: nothing of the kind")
    failed = tool().once(claim_of("quick", "python -c 'raise SystemExit(3)'", find="x"), shell)
    assert failed["verdict"] == "missed" and failed["why"] == "exit code 3, not 0"


def test_the_folder_and_the_home_are_not_in_what_is_printed(tmp_path: Path) -> None:
    shell = tool().Shell(tmp_path)
    found = tool().once(claim_of("quick", "python -c 'import sys; print(sys.argv[1])' {tmp}/a", find=".+"), shell)
    assert found["printed"] == "FOLDER/a"


def test_a_benchmark_is_read_by_its_path_or_told_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool(), "ROOT", tmp_path)
    (tmp_path / tool().BENCHMARKS).mkdir(parents=True)
    content = {"cpu": "Some Processor", "rows": [{"ours / theirs": 0.5}, {"ours / theirs": 0.7}], "problems": {}}
    (tmp_path / tool().BENCHMARKS / "2026-01-02-x.json").write_text(json.dumps(content))
    values = {"ratio": "rows > * > ours / theirs", "first": "rows > 0 > ours / theirs", "problems": "problems"}
    row = claim_of("benchmark", "x", file="2026-01-02-x.json", values=values, at_most={"ratio": 0.6}, why="it is hard")
    found = tool().read_benchmark(row)
    assert found["values"] == {"ratio": [0.5, 0.7], "first": 0.5, "problems": 0}
    assert (found["verdict"], found["why"], found["date"], found["machine"]) == (
        "missed",
        "it is hard",
        "2026-01-02",
        "Some Processor",
    )
    absent = tool().read_benchmark(claim_of("benchmark", "x", file="2026-01-03-x.json", values={}, pending="not yet"))
    assert (absent["verdict"], absent["why"]) == ("not measured yet", "not yet")
    other = tool().read_benchmark(claim_of("benchmark", "x", file="2026-01-02-x.json", values={"a": "rows > 5 > b"}))
    assert other["verdict"] == "missed" and "has no rows > 5 > b" in other["why"]


def test_the_worst_of_repeated_benchmarks_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool(), "ROOT", tmp_path)
    (tmp_path / tool().BENCHMARKS).mkdir(parents=True)
    names = ["2026-01-02-x.json", "2026-01-03-x.json"]
    for name, times in zip(names, (1.1, 0.8), strict=True):
        (tmp_path / tool().BENCHMARKS / name).write_text(json.dumps({"times": times}))
    found = tool().read_benchmark(claim_of("benchmark", "x", file=names, values={"times": "times"}, at_least=1))
    assert (found["verdict"], found["values"]) == ("missed", {"times": [0.8, 1.1]})


def test_a_figure_that_only_its_page_states_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool(), "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("it takes 7 s\n")
    row = {"file": "page.md", "find": r"takes (?P<s>\d) s", "date": "2026-01-02", "unkept": "nobody kept it"}
    found = tool().read_study(claim_of("study", "x", **row))
    assert (found["verdict"], found["why"], found["values"]) == ("output not kept", "nobody kept it", {"s": 7.0})
    assert tool().read_study(claim_of("study", "x", **row, at_most=5))["verdict"] == "missed"


def test_a_case_belongs_to_its_file_or_its_function() -> None:
    belongs = tool().belongs
    assert belongs("tests.a.test_b", "test_c[1]", "tests/a/test_b.py::test_c")
    assert belongs("tests.a.test_b", "test_c", "tests/a/test_b.py")
    assert not belongs("tests.a.test_b", "test_cd", "tests/a/test_b.py::test_c")
    assert not belongs("tests.a.test_bc", "test_c", "tests/a/test_b.py")
    assert belongs("tests.a.test_b", "test_c", "tests/a") and not belongs("tests.ab.test_b", "test_c", "tests/a")


def test_tests_that_all_skip_are_not_reachable_and_not_shown() -> None:
    found = dict(tool().tested([claim_of("tests", "tests/gpu/test_together.py::test_stacked_runs_get_what_they_get_alone")]))
    verdict = found["an-id"]["verdict"]
    import torch

    assert verdict == (tool().SHOWN if torch.cuda.is_available() else tool().UNREACHABLE)


@pytest.mark.parametrize(("value", "answer"), [(0.9, "**no**"), ([0.5, 0.8], "yes"), (0.4, "yes, and then")])
def test_of_several_values_the_worst_decides_over_a_goal(value, answer: str) -> None:
    from _scorecard_page import reached  # pyright: ignore

    assert reached({"reach": 0.8, "then": 0.4}, value) == answer


def test_more_may_be_better() -> None:
    from _scorecard_page import reached  # pyright: ignore

    assert reached({"reach": 4, "more_is_better": True}, [3.5, 9]) == "**no**"
    assert reached({"reach": 4, "then": 8, "more_is_better": True}, 8) == "yes, and then"
