"""Our statistics over tasks against rliable's (Agarwal et al. 2021), which is installed into an environment of its own for that.

    python tools/rliable_check.py              a fresh environment in a temporary folder, removed afterwards
    python tools/rliable_check.py --keep DIR   the environment is made in DIR, and taken as it is if it is there

Inter-quartile mean, probability of improvement and performance profiles have to be equal; ends of bootstrap intervals differ by
chance, and have to lie within 5 % of the interval's width (or one step of what is counted). Exit codes: 0 they agree; 1 they
do not; 2 rliable could not be installed, so that nothing was compared. rliable 1.2 wants arch below 8, and that pandas below 3:
one reason why it is no dependency of peftlab.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.analysis.over_tasks import improvement, interquartile_mean, stratified_bootstrap
from peftlab.analysis.profiles import band, profile

ARMS, TASKS, SEEDS = ("lora", "full", "probe"), 4, 6
LEVELS = np.linspace(0.5, 1.0, 11)
OURS, THEIRS = 20_000, 5_000  #: bootstrap draws
CLOSE = 0.05  #: of an interval's width: four standard errors of the ends
PACKAGES = ("arch<8", "pandas<3", "absl-py")  #: what is imported of rliable's dependencies; seaborn only draws
SIDE = """
import json, sys
import numpy as np
from rliable import library, metrics
given = json.load(sys.stdin)
scores = {arm: np.array(table) for arm, table in given["scores"].items()}
levels, draws = np.array(given["levels"]), given["draws"]
np.random.seed(1)
def both(table, function, reps):
    points, intervals = library.get_interval_estimates(table, function, reps=reps)
    return {key: [np.ravel(points[key]).tolist(), *np.asarray(intervals[key]).tolist()] for key in points}
pairs = {f"{a},{b}": (scores[a], scores[b]) for a in scores for b in scores if a < b}
found = {
    "inter-quartile mean": both(scores, lambda x: np.array([metrics.aggregate_iqm(x)]), draws),
    "improvement": both(pairs, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), draws),
}
points, intervals = library.create_performance_profile(scores, levels, reps=draws)
found["profile"] = {arm: [points[arm].tolist(), *np.asarray(intervals[arm]).tolist()] for arm in scores}
json.dump(found, sys.stdout)
"""
Table = dict[str, dict[str, list[list[float]]]]


def invented() -> dict[str, np.ndarray]:
    """Accuracies [seeds, tasks] of each arm, to two digits so that some tie."""
    random = np.random.default_rng(2021)
    level, skill = np.linspace(0.6, 0.9, TASKS), {"lora": 0.02, "full": 0.03, "probe": -0.05}
    return {arm: np.round(level + skill[arm] + 0.03 * random.standard_normal((SEEDS, TASKS)), 2) for arm in ARMS}


def ours(scores: dict[str, np.ndarray]) -> Table:
    """Statistic -> arm (or pair) -> values, lower ends, upper ends."""
    random = np.random.default_rng(1)
    tasks = {arm: list(table.T) for arm, table in scores.items()}
    found: Table = {"inter-quartile mean": {}, "improvement": {}, "profile": {}}
    for arm, runs in tasks.items():
        ends = stratified_bootstrap(interquartile_mean, [runs], random, draws=OURS)
        found["inter-quartile mean"][arm] = [[float(interquartile_mean(runs))], [ends[0]], [ends[1]]]
        low, high = band(runs, LEVELS, random, resamples=OURS)
        found["profile"][arm] = [profile(runs, LEVELS).tolist(), low.tolist(), high.tolist()]
    for a in tasks:
        for b in tasks:
            if a < b:
                ends = stratified_bootstrap(improvement, [tasks[a], tasks[b]], random, draws=OURS)
                found["improvement"][f"{a},{b}"] = [[float(improvement(tasks[a], tasks[b]))], [ends[0]], [ends[1]]]
    return found


def python_of(folder: Path) -> Path:
    """The interpreter of the environment in ``folder``, which has rliable. Raises CalledProcessError where it cannot be made."""
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import rliable.library"], capture_output=True, check=False).returncode:
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for packages in (PACKAGES, ("--no-deps", "rliable")):
            subprocess.run([*pip, *packages], capture_output=True, text=True, check=True)
    return python


def theirs(python: Path, scores: dict[str, np.ndarray]) -> tuple[str, Table]:
    """rliable's version, and the same table of it."""
    version = "from importlib.metadata import version; print(version('rliable'), 'with arch', version('arch'))"
    said = subprocess.run([python, "-I", "-c", version], capture_output=True, text=True, check=True).stdout.strip()
    given = {"scores": {arm: table.tolist() for arm, table in scores.items()}, "levels": LEVELS.tolist(), "draws": THEIRS}
    done = subprocess.run([python, "-I", "-c", SIDE], input=json.dumps(given), capture_output=True, text=True, check=True)
    return said, json.loads(done.stdout)


def compare(mine: Table, other: Table) -> bool:
    """Prints a line per statistic and arm; whether all agree."""
    agree = True
    print(f"{'statistic':20} {'of':12} {'ours':>8} {'rliable':>8} {'our interval':>18} {'theirs':>18}  values / ends differ")
    for statistic, table in mine.items():
        step = 1 / (SEEDS * TASKS) if statistic == "profile" else 1 / (2 * SEEDS**2 * TASKS) if statistic == "improvement" else 0
        for key in table:
            a, b = np.array(table[key]), np.array(other[statistic][key])
            exact = float(np.abs(a[0] - b[0]).max())
            width = np.maximum(b[2] - b[1], a[2] - a[1])
            off = np.abs(a[1:] - b[1:]).max(axis=0)
            fine = exact < 1e-12 and bool((off <= np.maximum(CLOSE * width, step) + 1e-12).all())
            agree &= fine
            at = int(off.argmax())  # of a profile, the level at which the ends lie farthest apart
            shown = [f"{x[0][at]:8.4f}" for x in (a, b)] + [f"{x[1][at]:8.4f} to {x[2][at]:.4f}" for x in (a, b)]
            verdict = f"{exact:.0e} / {off[at]:.4f}" + ("" if fine else "  DISAGREE")
            print(f"{statistic:20} {key:12} {shown[0]} {shown[1]} {shown[2]:>18} {shown[3]:>18}  {verdict}")
    return agree


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the environment here, or take it from here")
    options = parser.parse_args(arguments)
    scores: Any = invented()
    with tempfile.TemporaryDirectory(prefix="rliable-") as temporary:
        try:
            python = python_of(options.keep or Path(temporary) / "environment")
            version, found = theirs(python, scores)
        except subprocess.CalledProcessError as error:
            said = str(error.stderr or "").strip().splitlines()
            print(f"rliable cannot be installed or does not run here: {said[-1] if said else error}")
            return 2
    print(f"rliable {version}: {len(scores)} arms, {TASKS} tasks, {SEEDS} seeds; {OURS} draws here, {THEIRS} there")
    agree = compare(ours(scores), found)
    print("they agree" if agree else "they DISAGREE")
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
