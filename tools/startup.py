"""Median start-up time of a command in whole milliseconds: ``python tools/startup.py peftlab --help``."""

import statistics
import subprocess
import sys
import time


def main(command: list[str], repeats: int = 5) -> int:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # fills the file cache and __pycache__
    times_ms: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times_ms.append(1000 * (time.perf_counter() - start))
    print(round(statistics.median(times_ms)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
