"""Do the tests bite? Small changes are made to a sample of the sources, and the tests that run the changed line have to notice.

    python tools/mutation.py                             every area, 60 mutants each, into build/mutation
    python tools/mutation.py statistics --count 100 --seed 2 --output FILE.json
    python tools/mutation.py records --count all         a mutant at every place: no sample, but the whole
    python tools/mutation.py statistics --again FILE.json   only what survived there, also in a file of several samples

Areas, sources and tests are in `_mutation_areas.py`, what counts as a mutant in `_mutants.py`, and which survivors change
nothing in `mutation_equivalents.json`. cosmic-ray and coverage are put into an environment of their own (`--environment`), which
sees the packages of this one. Exit codes: 0 every area reached --goal, 1 one did not, 2 nothing was judged (tests fail without a
mutant, or a mutant that changes nothing was "killed"). Works on a copy of the repository; POSIX only (it forks).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _mutation_areas import AREAS, Area
from _mutation_bench import ARGUMENTS, ROOT, Bench, choose_tests, environment, statement_lines

EQUIVALENTS = ROOT / "tools" / "mutation_equivalents.json"
KILLED = ("killed", "timeout")


def judge(bench: Bench, area: Area, options: argparse.Namespace, only: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Draws the sample of an area (or takes ``only`` these), runs it, and says what became of each mutant."""
    bench.about(area.source_files(bench.copy))
    measured = bench.measure(area.test_files(bench.copy))
    found, specs, places = prepare(bench, area, options, measured, only)
    unchanged = {file: (bench.copy / file).read_text(encoding="utf-8") for file in area.source_files(bench.copy)}
    specs = [spec | {"id": f"nothing {spec['id']}", "source": unchanged[spec["file"]]} for spec in nothing_changed(specs)] + specs
    for spec in specs:
        said = [spec["source"], *spec["tests"], *(bench.known(file).name for file in area.test_files(bench.copy))]
        spec["key"] = hashlib.sha256("\0".join(said).encode()).hexdigest()[:20]
    answers = bench.results()
    left = [spec for spec in specs if spec["key"] not in answers]
    modules = list(dict.fromkeys(name for each in measured for name in each["modules"]))
    if left:
        bench.call("run", {"arguments": ARGUMENTS, "modules": modules, "folder": str(bench.folder), "mutants": left})
    answers = bench.results()
    for spec in specs:
        said = answers[spec["key"]]
        if not isinstance(spec["id"], str):
            found[spec["id"]] |= said
        elif said["status"] != "survived":
            print(f"not judged: a mutant that changes nothing was {said['status']} by {said['by']}", file=sys.stderr)
            raise SystemExit(2)
    return {"places": places, "mutants": list(found.values())}


def prepare(
    bench: Bench, area: Area, options: argparse.Namespace, measured: list[dict[str, Any]], only: list[dict[str, Any]] | None
) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]], int]:
    """Number -> what is known of a mutant before it runs; how to run those that a test runs; how many places there are."""
    from _mutants import changed_lines, found_again, sample

    sources = {file: (bench.copy / file).read_text(encoding="utf-8") for file in area.source_files(bench.copy)}
    mutants, places = sample(sources, options.count if only is None else 0, options.seed)
    if only is not None:
        mutants = [mutant for entry in only for mutant in found_again(entry, bench.copy)]
    seconds = {test: each["seconds"][test] for each in measured for test in each["seconds"]}
    found, specs = {}, []
    for number, mutant in enumerate(mutants):
        before, after = changed_lines(mutant, bench.copy)
        found[number] = {"file": mutant.file, "line": mutant.line, "operator": mutant.operator, "before": before, "after": after}
        lines = statement_lines(sources[mutant.file], mutant.line)
        tests, collect = choose_tests(mutant.file, lines, measured, options.budget)
        found[number] |= {"status": "not run", "by": "", "tests": len(tests)}
        if tests:
            limit = options.limit + 10 * sum(seconds[test] for test in tests)
            spec = {"id": number, "file": mutant.file, "source": mutant.apply(sources[mutant.file]), "tests": tests}
            specs.append(spec | {"collect": collect, "limit": limit})
    return found, specs, places


def nothing_changed(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mutants that stand for their files in the trial that everything passes unchanged: of each way of running it, two."""
    ways = ([spec for spec in specs if spec["collect"] is way] for way in (False, True))
    return [spec for way in ways for spec in (way[:1] + way[-1:])]


def summary(mutants: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and the score with its Wilson interval; a mutant that no test runs has survived."""
    from statsmodels.stats.proportion import proportion_confint

    equivalents = {(e["file"], e["before"], e["after"]): e["why"] for e in json.loads(EQUIVALENTS.read_text(encoding="utf-8"))}
    for mutant in mutants:
        why = equivalents.get((mutant["file"], mutant["before"], mutant["after"]))
        if why and mutant["status"] in ("survived", "not run", "equivalent"):
            mutant |= {"status": "equivalent", "why": why}
    counts = Counter(mutant["status"] for mutant in mutants)
    killed = sum(counts[status] for status in KILLED)
    judged = len(mutants) - counts["equivalent"]
    low, high = proportion_confint(killed, judged, method="wilson") if judged else (0.0, 1.0)
    score = {"score": round(killed / judged, 4) if judged else None, "interval": [round(float(low), 4), round(float(high), 4)]}
    return {"sampled": len(mutants), **{s: counts[s] for s in (*KILLED, "survived", "not run", "equivalent", "broken")}, **score}


def table(areas: dict[str, Any]) -> str:
    """The scores as lines of Markdown."""
    lines = [
        "| area | places | sampled | killed | timed out | survived | equivalent | score (95 % Wilson) |",
        "|---|" + "---:|" * 7,
    ]
    for name, area in areas.items():
        s = area["summary"]
        low, high = s["interval"]
        alive = s["survived"] + s["not run"] + s["broken"]
        numbers = f"{area['places']} | {s['sampled']} | {s['killed']} | {s['timeout']} | {alive} | {s['equivalent']}"
        lines.append(f"| {name} | {numbers} | {100 * (s['score'] or 0):.0f} % ({100 * low:.0f} to {100 * high:.0f}) |")
    return "\n".join(lines)


def how_many(said: str) -> int | None:
    """Of ``--count``; None is a mutant at every place."""
    return None if said == "all" else int(said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", default=list(AREAS), help=f"of {', '.join(AREAS)}")
    parser.add_argument("--count", type=how_many, default=60, help="mutants of each area, or all: one at every place")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--budget", type=float, default=4.0, help="processor seconds of tests against one mutant")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a mutant may take beyond ten times its tests")
    parser.add_argument("--goal", type=float, default=0.85)
    parser.add_argument("--again", type=Path, help="run only what survived in this file, and bring it up to date")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "mutation" / "mutation.json")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation" / "work")
    parser.add_argument("--environment", type=Path, default=ROOT / "build" / "mutation" / "environment")
    options = parser.parse_args()
    if importlib.util.find_spec("cosmic_ray") is None:
        python = environment(options.environment.absolute())
        return subprocess.run([python, *sys.argv], check=False).returncode
    if unknown := [name for name in options.areas if name not in AREAS]:
        parser.error(f"there is no area {unknown}; areas are {', '.join(AREAS)}")
    return work(options)


def work(options: argparse.Namespace) -> int:
    target = options.again or options.output
    kept: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {"areas": {}}
    bench = Bench(options.folder.absolute())
    scores = []
    for part in kept["samples"] if options.again and "samples" in kept else [kept]:
        if options.again:
            options.count, options.seed = part["count"], part["seed"]
        for name in [name for name in options.areas if name in part["areas"] or not options.again]:
            begun = time.monotonic()
            if options.again:
                found = brought_up(part["areas"][name], lambda alive, name=name: judge(bench, AREAS[name], options, alive))
            else:
                found = judge(bench, AREAS[name], options, None)
            found["summary"] = summary(found["mutants"])
            found["seconds"] = round(time.monotonic() - begun)
            part["areas"][name] = found
            scores.append(found["summary"]["score"] or 0)
            if not options.again:
                kept |= {"seed": options.seed, "count": options.count}
                kept |= {"machine": platform.machine(), "python": platform.python_version()}
            kept["date"] = time.strftime("%Y-%m-%d")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(kept, indent=1) + "\n")
            print(table({name: found}).splitlines()[-1], flush=True)
            for mutant in found["mutants"]:
                if mutant["status"] not in (*KILLED, "equivalent"):
                    print(
                        f"  {mutant['status']}: {mutant['file']}:{mutant['line']}\n"
                        f"    - {mutant['before']}\n    + {mutant['after']}"
                    )
    return 0 if all(score >= options.goal for score in scores) else 1


def brought_up(area: dict[str, Any], judged: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> dict[str, Any]:
    """An area of a report after ``judged`` saw once more what was not killed in it; what is not in the code any more is gone."""
    alive = [mutant for mutant in area["mutants"] if mutant["status"] not in KILLED]
    found = judged(alive)
    now = {key(mutant): mutant for mutant in found["mutants"]}
    gone = [mutant for mutant in alive if key(mutant) not in now]
    left = [now.get(key(mutant), mutant) if mutant in alive else mutant for mutant in area["mutants"] if mutant not in gone]
    first = area.get("at first", area["summary"])
    return area | {"places": found["places"], "mutants": left, "gone": area.get("gone", []) + gone, "at first": first}


def key(mutant: dict[str, Any]) -> str:
    return f"{mutant['file']}|{mutant['before']}|{mutant['after']}"


if __name__ == "__main__":
    raise SystemExit(main())
