"""What a command that loaded torch takes after its last word, with the last collection of garbage and without.

    python benchmarks/exit_time.py [--output FILE] [--repeats N]

`peftlab plan studies/digits.yaml` in a process of its own: seconds of the processor from the end of the command to the end of the
process. ``collected`` undoes what the command line does about it (``gc.freeze`` at exit, cli/__init__.py). Prints JSON.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _report import report

STUDY = Path(__file__).parents[1] / "studies" / "digits.yaml"
COMMAND = """
import atexit, gc, os, sys, time
if sys.argv.pop(1) == "collected":
    gc.freeze = lambda: None
from peftlab.cli import main
try:
    main()
finally:
    sys.stderr.write(f"\\n{time.process_time()}\\n")
"""


def after(side: str, folder: Path) -> float:
    """Seconds of the processor after the command."""
    command = [sys.executable, "-c", COMMAND, side, "plan", str(STUDY), "--output", str(folder / "results")]
    environment = {**os.environ, "PEFTLAB_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    told = process.stderr.read().split()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("\n".join(told))
    return used.ru_utime + used.ru_stime - float(told[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {"collected": [], "frozen": []}
    with tempfile.TemporaryDirectory() as folder:
        after("frozen", Path(folder))  # measures the machine, and fills the caches
        for _ in range(options.repeats):
            for side, seconds in taken.items():
                seconds.append(after(side, Path(folder)))
    found = {side: {"median_s": round(statistics.median(s), 3), "all_s": [round(v, 3) for v in s]} for side, s in taken.items()}
    report("exit_time", options.output, ("torch", "peft", "transformers"), {"repeats": options.repeats}, found=found)


if __name__ == "__main__":
    main()
