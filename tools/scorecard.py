"""What peftlab claims, the command that shows each claim, and what it printed: ``make scorecard`` writes docs/scorecard.md.

    python tools/scorecard.py                  run the quick commands, read benchmarks and study pages again, write the page
    python tools/scorecard.py --read           read benchmarks and study pages again, run nothing, write the page
    python tools/scorecard.py --tests [FOLDER] run the test rows (of these folders of tests), a pytest call a folder
    python tools/scorecard.py --junit FILE ... read the test rows from reports of whole runs (pytest --junitxml=FILE)
    python tools/scorecard.py --only ID        run or read this row alone; repeatable
    python tools/scorecard.py --all            list every row with its kind and verdict; runs nothing

docs/scorecard/claims.yaml holds the claims, goals.yaml the goals beside which some are measured, results.json what was printed.
A row is of one kind, the key under which its command stands: ``quick`` (run each time), ``tests`` (pytest nodes), ``benchmark``
(takes long; its dated JSON is read) and ``study`` (takes hours; the page made from its records is read).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parent))
from _scorecard_page import page

from peftlab.records.environment import cpu_model

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "scorecard"
BENCHMARKS = "benchmarks/results"
KINDS = ("quick", "tests", "benchmark", "study")
SHOWN, MISSED, UNREACHABLE, PENDING = "shown", "missed", "not reachable here", "not measured yet"
UNKEPT = "output not kept"  #: the figure stands on a page alone, so that reading it there shows nothing
#: the small study whose results folder `{study}` stands for in quick rows
SMALL = (
    'peftlab run studies/digits.yaml --set "seeds=[0,1,2]" --set train.max_steps=8 --only full --only probe '
    '--only "lora[rank=8]" --output {results}'
)
LONGEST = 180  #: characters of an excerpt
EPYC = "2 cores of an AMD EPYC, 24 GB, no GPU; Python 3.11.7, torch 2.14.1"  #: of benchmarks that do not name theirs


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """One row: what is claimed on which page, and how it is shown."""

    id: str
    page: str
    claim: str
    kind: str
    command: str
    more: Mapping[str, Any]  #: what to look for, bounds, other places that state it, reasons


def claims() -> list[Claim]:
    """Rows of claims.yaml, in its order."""
    found = []
    for name, rows in YAML(typ="safe", pure=True).load((DATA / "claims.yaml").read_text(encoding="utf-8")).items():
        for row in rows:
            kinds = [kind for kind in KINDS if kind in row]
            if len(kinds) != 1:
                raise ValueError(f"{row.get('id')}: one of {', '.join(KINDS)} is needed, got {kinds}")
            command = " ".join(str(row[kinds[0]]).split())
            found.append(Claim(row["id"], name, " ".join(row["claim"].split()), kinds[0], command, row))
    return found


def goals() -> list[dict[str, Any]]:
    """Rows of goals.yaml: benchmark, peer, reach, then, and the row and value of claims.yaml that measures it."""
    return YAML(typ="safe", pure=True).load((DATA / "goals.yaml").read_text(encoding="utf-8"))


def recorded() -> dict[str, dict[str, Any]]:
    path = DATA / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# --- judging what was printed ------------------------------------------------------------------------------------------------


def judge(row: Mapping[str, Any], values: Mapping[str, Any]) -> str | None:
    """Why the values are not what is claimed, or None."""
    for word, keeps in (("at_most", lambda a, b: a <= b), ("at_least", lambda a, b: a >= b), ("equals", lambda a, b: a == b)):
        bounds = row.get(word, {})
        for name, value in values.items():
            bound = bounds.get(name) if isinstance(bounds, Mapping) else bounds
            for one in value if isinstance(value, list) else [value]:
                if bound is not None and not keeps(one, bound):
                    return f"{name} {one}, claimed {word.replace('_', ' ')} {bound}".strip()
    return None


def outcome(
    claim: Claim, printed: str, values: Mapping[str, Any], problem: str | None, date: str, machine: str
) -> dict[str, Any]:
    problem = problem or judge(claim.more, values)
    why = claim.more.get("why", problem or "") if problem else claim.more.get("note", "")
    found = {"verdict": MISSED if problem else SHOWN, "printed": printed[:LONGEST], "why": " ".join(str(why).split())}
    return {**found, "values": dict(values), "date": date, "machine": machine}


def told(claim: Claim, verdict: str) -> dict[str, Any]:
    """A row that is not run or read here, with the reason that claims.yaml gives."""
    why = " ".join(str(claim.more["unreachable" if verdict == UNREACHABLE else "pending"]).split())
    return {"verdict": verdict, "printed": "", "why": why, "values": {}, "date": today(), "machine": this_machine()}


def number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def searched(row: Mapping[str, Any], text: str) -> tuple[str, dict[str, Any], str | None]:
    """(excerpt, named groups as numbers, what is missing) of the patterns in ``find``."""
    patterns = [row["find"]] if isinstance(row["find"], str) else row["find"]
    seen, values = [], {}
    for pattern in patterns:
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            return " ... ".join(seen), values, f"not found: {pattern}"
        seen.append(", ".join(g for g in match.groups() if g) if match.groups() else match[0])
        values |= {name: number(value) for name, value in match.groupdict().items()}
    return " ... ".join(" ".join(part.split()) for part in seen), values, None


# --- the four kinds ----------------------------------------------------------------------------------------------------------


def words(command: str, places: Mapping[str, str]) -> list[str]:
    """The command as this environment starts it: its own Python, and the programs beside it."""
    for name, path in places.items():
        command = command.replace(f"{{{name}}}", path)
    first, *others = shlex.split(command)
    others = [sys.executable if word == "python" else word for word in others]
    if first == "peftlab":
        return [sys.executable, "-m", "peftlab", *others]
    beside = Path(sys.executable).parent / first
    return [sys.executable if first == "python" else str(beside) if beside.is_file() else first, *others]


class Shell:
    """Quick commands in one folder of their own; the same command is run once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: dict[str, tuple[int, str]] = {}

    def places(self) -> dict[str, str]:
        results = self.folder / "results"
        return {"tmp": str(self.folder), "results": str(results), "study": str(results / "digits")}

    def run(self, command: str) -> tuple[int, str]:
        if "{study}" in command:
            self.run(SMALL)
        if command not in self.done:
            code, text = 0, ""
            for part in command.split(" && "):
                code, printed = self._run(words(part, self.places()))
                text += printed
                if code:
                    break
            self.done[command] = (code, self.shareable(text))
        return self.done[command]

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        settings = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
        environment = {**os.environ, **settings, "NO_MKDOCS_2_WARNING": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.returncode, done.stdout

    def shareable(self, text: str) -> str:
        for path, name in ((self.folder, "FOLDER"), (ROOT, "."), (Path.home(), "~")):
            text = text.replace(str(path), name)
        return text


def quick(claim: Claim, shell: Shell) -> dict[str, Any]:
    code, text = shell.run(claim.command)
    expected = claim.more.get("exit", 0)
    if code != expected:
        return outcome(claim, text.strip()[-LONGEST:], {}, f"exit code {code}, not {expected}", today(), this_machine())
    printed, values, problem = searched(claim.more, text)
    return outcome(claim, printed, values, problem, today(), this_machine())


def tested(rows: Iterable[Claim], reports: Sequence[Path] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results of test rows: those that JUnit ``reports`` of pytest hold, else one pytest call for each folder of tests."""
    rows = list(rows)
    nodes = list(dict.fromkeys(node for claim in rows for node in claim.command.split()))
    seen: dict[str, list[tuple[str, str]]] = {node: [] for node in nodes}
    by_file: dict[str, list[str]] = {}
    for node in nodes:
        by_file.setdefault(module_of(node), []).append(node)

    folders = [node for node in nodes if not node.partition("::")[0].endswith(".py")]

    def read(report: Path) -> None:
        for case in ET.parse(report).iter("testcase"):
            module = case.attrib["classname"]
            for node in (*by_file.get(module, ()), *folders):
                if belongs(module, case.attrib["name"], node):
                    seen[node].append(state(case))

    for report in reports:
        read(report)
    with tempfile.TemporaryDirectory() as folder:
        for number_, group in enumerate(dict.fromkeys(folder_of(node) for node in nodes) if not reports else ()):
            report = Path(folder) / f"{number_}.xml"
            chosen = [node for node in nodes if folder_of(node) == group]
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen]
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "MPLBACKEND": "Agg",
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_OFFLINE": "1",
            }
            subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
            if report.is_file():
                read(report)
    for claim in rows:
        found = [one for node in claim.command.split() for one in seen[node]]
        bad = [why for what, why in found if what == "failed"] + [f"{n}: not run" for n in claim.command.split() if not seen[n]]
        skipped = [why for what, why in found if what == "skipped"]
        passed = sum(what == "passed" for what, _ in found)
        printed = ", ".join(f"{n} {w}" for n, w in ((passed, "passed"), (len(skipped), "skipped"), (len(bad), "failed")) if n)
        row = outcome(claim, printed, {}, bad[0] if bad else None, today(), this_machine())
        if not bad and not passed:
            row |= {"verdict": UNREACHABLE, "why": claim.more.get("unreachable", skipped[0] if skipped else "")}
        yield claim.id, row


def folder_of(node: str) -> str:
    parts = Path(node.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 else "."


def module_of(node: str) -> str:
    """As JUnit names it."""
    return node.partition("::")[0].removesuffix(".py").replace("/", ".")


def belongs(module: str, name: str, node: str) -> bool:
    test = node.partition("::")[2]
    if not node.partition("::")[0].endswith(".py"):  # a folder of tests
        return module.startswith(f"{module_of(node)}.")
    return module == module_of(node) and (not test or name.partition("[")[0] == test)


def state(case: ET.Element) -> tuple[str, str]:
    for child in case:
        if child.tag in ("failure", "error"):
            return "failed", f"{case.attrib['name']}: {child.attrib.get('message', '')[:100]}"
        if child.tag == "skipped":
            return "skipped", child.attrib.get("message", "")
    return "passed", ""


def read_benchmark(claim: Claim) -> dict[str, Any]:
    """Values by their paths (``found > ViT > *``) in the JSON of a run that is committed."""
    paths = [ROOT / BENCHMARKS / name for name in files_of(claim)]
    if not all(path.is_file() for path in paths):
        return told(claim, PENDING)
    contents, date = [json.loads(path.read_text(encoding="utf-8")) for path in paths], paths[0].name[:10]
    values: dict[str, Any] = {}
    for name, way in claim.more["values"].items():
        try:
            values[name] = spread([one for content in contents for one in along(content, way.split(" > "))])
        except (KeyError, IndexError, TypeError, ValueError):
            return outcome(claim, "", {}, f"{paths[0].name} has no {way}", date, EPYC)
    printed = "; ".join(f"{name} {in_words(value)}".strip() for name, value in values.items())
    return outcome(claim, printed, values, None, date, machine_of(contents[0]))


def files_of(claim: Claim) -> list[str]:
    """Of a benchmark that was repeated all its files, so that the worst of them counts."""
    return [claim.more["file"]] if isinstance(claim.more["file"], str) else list(claim.more["file"])


def along(content: Any, way: Sequence[str]) -> Iterator[Any]:
    if not way:
        yield content
    elif way[0] == "*":
        for one in content.values() if isinstance(content, Mapping) else content:
            yield from along(one, way[1:])
    else:
        yield from along(content[int(way[0])] if isinstance(content, list) else content[way[0]], way[1:])


def spread(values: list[Any]) -> Any:
    """One value as it is, of several the smallest and the largest."""
    if len(values) == 1:
        return len(values[0]) if isinstance(values[0], list | dict) else values[0]
    return [min(values), max(values)]


def in_words(value: Any) -> str:
    return (
        f"{in_words(value[0])} to {in_words(value[1])}"
        if isinstance(value, list)
        else f"{value:,}"
        if type(value) is int
        else str(value)
    )


def machine_of(content: Any) -> str:
    """CPU and versions as a benchmark wrote them, in words; never a host."""
    first = content[0] if isinstance(content, list) else content
    named = first.get("cpu") or first.get("processor") or {**first.get("environment", {}), **first.get("versions", {})}.get("cpu")
    return (
        EPYC
        if not named or "EPYC" in named
        else f"{named}; torch {first.get('versions', {}).get('torch', '')}".removesuffix("; torch ")
    )


def read_study(claim: Claim) -> dict[str, Any]:
    """What a committed page says; its machine stands on the page, the date is that of its last change."""
    path = ROOT / claim.more["file"]
    text = path.read_text(encoding="utf-8")
    printed, values, problem = searched(claim.more, text)
    machine = re.search(r"^- machine: (.+?)(?:; one thread.*)?$", text, re.MULTILINE)
    date = str(claim.more.get("date") or changed(path))
    found = outcome(claim, printed, values, problem, date, machine[1] if machine else EPYC)
    unkept = "unkept" in claim.more and found["verdict"] == SHOWN
    return found | {"verdict": UNKEPT, "why": " ".join(claim.more["unkept"].split())} if unkept else found


@cache
def changed(path: Path) -> str:
    done = subprocess.run(
        ["git", "log", "-1", "--format=%as", "--", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or today()


@cache
def this_machine() -> str:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
        python = sys.version.split()[0]
        return f"{os.cpu_count()} cores, {cpu_model()}{memory}; Python {python}, torch {importlib.metadata.version('torch')}"
    return cpu_model()


def today() -> str:
    return datetime.date.today().isoformat()


# --- the command -------------------------------------------------------------------------------------------------------------


def once(claim: Claim, shell: Shell) -> dict[str, Any]:
    if "unreachable" in claim.more and claim.kind != "tests":
        return told(claim, UNREACHABLE)
    if claim.kind == "quick":
        return quick(claim, shell)
    if claim.kind == "tests":
        return dict(tested([claim]))[claim.id]
    return read_benchmark(claim) if claim.kind == "benchmark" else read_study(claim)


def write(results: Mapping[str, dict[str, Any]]) -> None:
    rows = claims()
    kept = {claim.id: results[claim.id] for claim in rows if claim.id in results}
    (DATA / "results.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (ROOT / "docs" / "scorecard.md").write_text(page(rows, goals(), kept, SMALL), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--tests", nargs="*", metavar="FOLDER")
    parser.add_argument("--junit", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--only", action="append", default=[], metavar="ID")
    given = parser.parse_args(arguments)
    rows, results = claims(), recorded()
    if given.all:
        for claim in rows:
            print(
                f"{claim.id:32} {claim.kind:10} {results.get(claim.id, {}).get('verdict', '-'):20} {claim.claim}"[
                    : shutil.get_terminal_size((140, 24)).columns
                ]
            )
        return 0
    if unknown := set(given.only) - {claim.id for claim in rows}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; --all lists them")
    with tempfile.TemporaryDirectory() as folder:
        shell = Shell(Path(folder))
        if given.junit:
            results |= dict(tested([c for c in rows if c.kind == "tests"], given.junit))
        elif given.tests is not None:
            wanted = [
                c for c in rows if c.kind == "tests" and (not given.tests or folder_of(c.command.split()[0]) in given.tests)
            ]
            results |= dict(tested(wanted))
        else:
            kinds = ("benchmark", "study") if given.read else ("quick", "benchmark", "study")
            for claim in rows:
                if claim.id in given.only or (not given.only and claim.kind in kinds):
                    results[claim.id] = once(claim, shell)
                    print(
                        f"{claim.id}: {results[claim.id]['verdict']}  {results[claim.id]['printed']}", file=sys.stderr, flush=True
                    )
    write(results)
    missed = [claim.id for claim in rows if results.get(claim.id, {}).get("verdict") == MISSED]
    print(f"docs/scorecard.md: {len(rows)} rows, missed: {', '.join(missed) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
