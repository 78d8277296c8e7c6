"""How long `peftlab analyze` and `peftlab report` take, and how large the page is, on as many records as asked for.

The records of a real results folder are repeated with other seeds and learning rates (benchmarks/_stretch.py)::

    python benchmarks/report_speed.py [results/digits] [--records 2000] [--output FILE.json]

Prints one JSON object: records, arms, seconds (also of the processors) of reading and analysing, and of the report with its
analysis; megabytes of the page. Without a folder the demonstration is run first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _report import report
from _shipped import run_shipped
from _stretch import stretch

from peftlab.analysis.analyze import analyze
from peftlab.report.build import build_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "stretched"
        records = stretch(asked.folder or run_shipped("digits", Path(place)), folder, asked.records, asked.seeds)
        findings, analyze_s, analyze_cpu_s = _timed(lambda: analyze(folder))
        page, report_s, report_cpu_s = _timed(lambda: build_report(folder))
        report(
            "report_speed",
            asked.output,
            ("torch", "matplotlib", "pandas"),
            {"records": records, "processors": os.cpu_count()},
            threads=os.cpu_count() or 1,
            arms=len(findings.arms),
            analyze_s=round(analyze_s, 2),
            analyze_cpu_s=round(analyze_cpu_s, 2),
            report_with_analysis_s=round(report_s, 2),
            report_with_analysis_cpu_s=round(report_cpu_s, 2),
            page_mb=round(page.stat().st_size / 1e6, 2),
        )


def _timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, seconds, seconds of the processors, of the report's second process too: what a busy machine changes least)."""
    begin, busy = time.perf_counter(), _busy()
    result = call()
    return result, time.perf_counter() - begin, _busy() - busy


def _busy() -> float:
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
