"""How long the demonstration takes: `peftlab run studies/digits.yaml`, which is what `make demo` runs after its set-up.

    python benchmarks/demo.py [--output FILE]

35 runs, analysis, figures, tables and report, with an empty cache, so that the machine is measured as well. Prints JSON: seconds
from the command to its end. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from _report import report
from _shipped import run_shipped

from peftlab.records.store import ResultsFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        results = run_shipped("digits", Path(place))
        seconds = time.perf_counter() - began
        runs = sum(run.results() is not None for run in ResultsFolder(results).runs("evaluation"))
        page_mb = (results / "report" / "index.html").stat().st_size / 1e6
    packages = ("torch", "transformers", "peft", "matplotlib")
    found = {"runs": runs, "seconds": round(seconds, 1), "minutes": round(seconds / 60, 2), "page_mb": round(page_mb, 2)}
    report("demo", options.output, packages, {"processors": os.cpu_count()}, found=found)


if __name__ == "__main__":
    main()
