"""Very many tiny runs on a Ray cluster of several nodes on this machine, of which one dies: is anything lost, or done twice?

    python tools/ray_many.py [--runs 500] [--nodes 3] [--minutes 20] [--copies] [--folder DIR] > outcome.json

Real training runs of a few steps each. When a third of them is done, one node with all its processes is killed at once and
another one joins. ``--copies``: nodes work on copies of the run folders, which are sent back, as where no disk is shared. Prints
one JSON object; exit code 1 when a run is lost, recorded twice, or was begun more often than machines failed under it. When the
minutes are over, runs save and stop; ``--folder`` keeps the study there, and the same command goes on with it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from peftlab.execution.progress import Ending, NullListener
from peftlab.execution.protocol import Message, Moved, Started, WorkerOptions
from peftlab.execution.ray.engine import RayEngine
from peftlab.execution.ray.machines import Machines
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import Planner
from peftlab.records.environment import cpu_model
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, verify
from peftlab.study.load import parse_yaml, validate_study
from tests.execution.clusters import Cluster, variables

STUDY = """
study: many
question: Is anything lost or done twice among very many runs on several machines?
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits, train_size: 64, validation_size: 16, test_size: 32}
seeds: [SEEDS]
train: {max_steps: 2, batch_size: 16, learning_rate: 3e-3}
arms:
  probe: {adapter: linear-probe}
  lora: {adapter: {name: lora, rank: 2}}
analysis: {metric: accuracy, baseline: probe}
"""


class Watcher(NullListener):
    """Counts, and kills a node once enough has ended."""

    def __init__(self, cluster: Cluster, victim: Any, kill_after: int) -> None:
        self.cluster, self.victim, self.kill_after = cluster, victim, kill_after
        self.begun: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.over: Counter[str] = Counter()
        self.killed_s: float | None = None
        self.began = time.monotonic()

    def message(self, config: RunConfig, message: Message) -> None:
        self.begun[config.run_id] += isinstance(message, Started) and message.step == 0
        self.moved[config.run_id] += isinstance(message, Moved)
        if isinstance(message, Moved):
            print(f"{time.monotonic() - self.began:.0f} s: {message.why}", file=sys.stderr, flush=True)

    def ended(self, ending: Ending) -> None:
        self.over[ending.config.run_id] += 1
        number = sum(self.over.values())
        if number % 10 == 0:
            print(f"{number} ended in {time.monotonic() - self.began:.0f} s", file=sys.stderr, flush=True)
        if number == self.kill_after:
            self.victim.kill()
            self.cluster.add()
            self.killed_s = time.monotonic() - self.began


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--copies", action="store_true")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray-many-") as place, variables():
        cluster = Cluster()
        try:
            nodes = []
            for _ in range(asked.nodes):
                nodes.append(cluster.add())
                cluster.wait()
            outcome = execute((asked.folder or Path(place)).absolute(), cluster, nodes[0], asked)
        finally:
            cluster.close()
    print(json.dumps(outcome, indent=1))
    return 0 if outcome["sound"] else 1


def execute(place: Path, cluster: Cluster, victim: Any, asked: argparse.Namespace) -> dict[str, Any]:
    seeds = ", ".join(str(seed) for seed in range(asked.runs // 2))
    text, cache = STUDY.replace("SEEDS", seeds), place / "cache"
    folder = ResultsFolder(place / "results" / "many").open_or_create(text)
    plan = Planner(validate_study(parse_yaml(text)), PlanOptions(cache=cache)).plan()
    configs = [run.config for run in plan.runs if run.config is not None]
    engine = RayEngine(machines=Machines(address=cluster.address, folder=folder.path), cache=cache, share=not asked.copies)
    print(*engine.open(), sep="\n", file=sys.stderr, flush=True)
    listener = Watcher(cluster, victim, len(configs) // 3)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))  # save and stop
    signal.alarm(int(asked.minutes * 60))
    began = time.monotonic()
    outcome = engine.execute(folder, configs, plan, WorkerOptions(cache=cache), listener, retry_failed=False)
    wall_s = time.monotonic() - began
    signal.alarm(0)
    engine.close()
    finished = [run.run_id for run in folder.runs() if run.results() is not None]
    again = {run_id: n for run_id, n in listener.begun.items() if n > 1 + listener.moved[run_id]}
    problems = verify(folder)
    wanted = {config.run_id for config in configs}
    told = {ending.config.run_id for ending in outcome.endings if ending.how in ("finished", "reused")}
    lost = told - set(finished) | ({*wanted} - set(finished) if not outcome.interrupted else set())
    return {
        "tool": "ray_many",
        "date": time.strftime("%Y-%m-%d"),
        "runs": len(wanted),
        "nodes": asked.nodes,
        "copies": asked.copies,
        "outcome": outcome.counts,
        "interrupted": outcome.interrupted,
        "node_killed_after_s": listener.killed_s and round(listener.killed_s, 1),
        "moved": sum(listener.moved.values()),
        "not_begun_or_stopped_when_time_was_over": len(wanted - set(finished) - lost),
        "lost": len(lost),
        "recorded_twice": len(finished) - len(set(finished)),
        "told_twice": sum(n > 1 for n in listener.over.values()),
        "begun_again_without_a_machine_failing": len(again),
        "problems_found_by_verify": problems,
        "wall_s": round(wall_s, 1),
        "load_of_the_machine": [round(value, 1) for value in os.getloadavg()],
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "ray": engine.machines.nodes[0].watched["ray"],
        "sound": not lost and len(finished) == len(set(finished)) and not again and not problems,
    }


if __name__ == "__main__":
    sys.exit(main())
