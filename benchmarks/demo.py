"""From nothing to a report: what README tells a newcomer to type, timed.

    python benchmarks/demo.py [--no-setup] [--output FILE]

``make setup`` in a fresh clone of the commit that is checked out (what it downloads is not counted apart), then ``make demo``:
35 runs, analysis, figures, tables and report, with an empty cache, so that the machine is measured as well. ``--no-setup``: the
demo alone, in the environment at hand. Prints JSON: seconds of both, and GB (10^9 bytes) of the disk: of the environment, and of
torch with the GPU libraries in it. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import report
from _shipped import run_shipped

ROOT = Path(__file__).parents[1]


def from_nothing(place: Path) -> dict[str, Any]:
    clone, results = place / "clone", place / "results"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    found: dict[str, Any] = {"setup_s": seconds_of(["make", "setup"], clone)}
    libraries = next((clone / ".venv").glob("lib/python*/site-packages"))
    found["venv_gb"] = on_disk_gb(clone / ".venv")
    found["torch_gb"] = round(sum(on_disk_gb(libraries / name) for name in ("torch", "nvidia", "triton")), 2)
    environment = {"PEFTLAB_CACHE": str(place / "cache")}
    found["seconds"] = seconds_of(["make", "demo", f"DEMO_OUTPUT={results}"], clone, environment)
    return found | counted(results / "digits")


def on_disk_gb(folder: Path) -> float:
    return round(sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e9, 2)


def demo_alone(place: Path) -> dict[str, Any]:
    began = time.perf_counter()
    results = run_shipped("digits", place)
    return {"seconds": round(time.perf_counter() - began, 1), **counted(results)}


def seconds_of(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr, env={**os.environ, **(environment or {})})
    return round(time.perf_counter() - began, 1)


def counted(results: Path) -> dict[str, Any]:
    runs = len(list((results / "runs").glob("*/*/results.json")))
    return {"runs": runs, "page_mb": round((results / "report" / "index.html").stat().st_size / 1e6, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--no-setup", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = demo_alone(Path(place)) if options.no_setup else from_nothing(Path(place))
    found["minutes"] = round(found["seconds"] / 60, 2)
    report("demo", options.output, ("torch", "transformers", "peft", "matplotlib"), {"processors": os.cpu_count()}, found=found)


if __name__ == "__main__":
    main()
