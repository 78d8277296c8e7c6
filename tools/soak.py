"""A study that is killed at random, again and again, and goes on each time; then compared with one that was left alone.

    python tools/soak.py [--kills 50] [--seed 20261123] [--minutes 30] [--stack 4] [--folder DIR] > outcome.json

Real command line, real processes, real signals: mostly SIGKILL to everything at once (what a power cut or the end of a batch job
leaves), else to the command alone (its workers find out), to one worker, or SIGTERM or SIGINT to the command. Some kills come
while it still starts or plans. Prints one JSON object; exit code 1 when anything was lost, done twice or differs in a bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from peftlab.api._orphans import orphans
from peftlab.records.environment import environment
from peftlab.records.store import ResultsFolder, RunFolder, verify

STUDY = """
study: soak
question: Does a study that is killed at random end as one that is not?
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits, train_size: 600, validation_size: 200, test_size: 300}
seeds: [0]
train: {epochs: EPOCHS, batch_size: 16, effective_batch_size: 32, learning_rate: 3e-3, evaluate_every: 2}
arms:
  full: {adapter: full}
  lora: {adapter: {name: lora, rank: 4, targets: standard, dropout: 0.1}}
  adalora: {adapter: {name: svd, rank: 4, targets: all-linear}, allocator: {name: adalora, budget: {ranks: 72}, every: 3}}
  qlora: {adapter: {name: lora, rank: 4}, quantizer: {name: bnb, bits: 4, type: nf4, double: true}}
  qa-lora: {adapter: {name: pooled, rank: 4}, quantizer: {name: groupwise, type: nf4, group_size: 16, schedule: cosine}}
tune: {learning_rate: [1e-3, 3e-3], seeds: [100], on: validation}
analysis: {metric: accuracy, baseline: full, margin: {relative: 0.03}}
"""
#: what was measured, and differs between two runs of one configuration
MEASURED_KEYS = ("time", "memory", "resumed", "notes")
MEASURED_FILES = (
    "environment.json",
    "memory.json",
    "efficiency.json",
    "merge_equivalence.json",
    "prefix.json",
    "results.json",
    "lease.json",
)
MEASURED_PARTS = ("process_mb", "time_s", "spent")  #: in any file
SETS = ("target_modules", "modules_to_save")  #: PEFT writes them in the order of the process's hashes
#: what else than a worker is killed, with its weight
KINDS = {"everything": 0.6, "command": 0.16, "SIGTERM": 0.12, "SIGINT": 0.12}
EARLY = 0.2  #: share of kills that come within the first seconds of a command's life
PATIENCE_S = 900.0


class Soak:
    """One study folder, killed and continued."""

    def __init__(
        self, folder: Path, study: Path, dice: random.Random, deadline: float, workers: float, stack: str = "off"
    ) -> None:
        self.folder, self.study, self.dice, self.deadline, self.workers = folder, study, dice, deadline, workers
        self.stack = stack
        self.log = folder.with_suffix(".log")
        self.kills: Counter[str] = Counter()
        self.exits: Counter[int] = Counter()
        self.early = 0

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "peftlab", "run", str(self.study), "--output", str(self.folder), "--jobs", "2"]
        command += ["--checkpoint-every", "0.5", "--retry-failed", "--stack", self.stack]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def storm(self, kills: int) -> None:
        """Start and kill until so many kills are done, or the study is; then let it end."""
        while self.kills.total() < kills and time.monotonic() < self.deadline:
            process = self.start()
            while self._killed_one_worker(process, kills):
                pass
            self.exits[process.wait()] += 1
            if process.returncode == 0:
                return
        process = self.start()
        self.exits[process.wait()] += 1

    def _killed_one_worker(self, process: subprocess.Popen[bytes], kills: int) -> bool:
        """One kill; whether the command lives on, so that another may come."""
        if self.kills.total() >= kills:
            return False
        kind = "worker" if self.dice.random() < self.workers else self.dice.choices([*KINDS], [*KINDS.values()])[0]
        early = kind != "worker" and self.dice.random() < EARLY
        if early:
            time.sleep(self.dice.uniform(0.0, 4.0))
        elif not self._works(process):
            return False
        else:
            time.sleep(self.dice.uniform(0.0, 4.0))
        if process.poll() is not None:
            return False
        workers = self._workers()
        if kind == "worker" and not workers:
            return True
        self.kills[kind] += 1
        self.early += early
        if kind == "worker":
            _kill(self.dice.choice(workers), signal.SIGKILL)
            return True
        if kind == "everything":
            family = [process.pid, *(child.pid for child in _family(process.pid)), *workers]
            for pid in family:
                _kill(pid, signal.SIGKILL)
        elif kind == "command":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.send_signal(signal.Signals[kind])
        return False

    def _works(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until a worker is at work."""
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < end:
            if self._workers():
                return True
            time.sleep(0.1)
        return False

    def _workers(self) -> list[int]:
        holders = [run.holder() for run in ResultsFolder(self.folder / "soak").runs()]
        return [holder.pid for holder in holders if holder is not None]


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def differences(quiet: ResultsFolder, stormy: ResultsFolder) -> list[str]:
    """What of the stormy study is lost, more, twice or other than in the quiet one, in words; :func:`left_behind` apart."""
    runs = [{run.path.relative_to(folder.path).as_posix(): run for run in folder.runs()} for folder in (quiet, stormy)]
    found = [f"{name}: lost" for name in runs[0].keys() - runs[1].keys()]
    more = runs[1].keys() - runs[0].keys() - {*left_behind(stormy)}
    found += [f"{name}: there is no such run in the quiet study" for name in more]
    for name in sorted(runs[0].keys() & runs[1].keys()):
        found += [f"{name}/{what}" for what in unlike(runs[0][name], runs[1][name])]
    chosen = [json.loads((folder.path / "tuning.json").read_text()) for folder in (quiet, stormy)]
    return found + (["tuning.json: differs"] if _computed(chosen[0]) != _computed(chosen[1]) else [])


def left_behind(stormy: ResultsFolder) -> list[str]:
    """Runs that were begun with a value chosen while a tuning run was lost with its worker, and that the study, once that was
    tried again, does not ask for any more, as ``peftlab verify`` names them. No analysis counts them beside those that it asks
    for."""
    runs = [path for path, why in orphans(stormy) if why.startswith("tuning does not choose")]
    return [path.relative_to(stormy.path).as_posix() for path in runs]


def unlike(one: RunFolder, two: RunFolder) -> list[str]:
    results = [_outcome(run) for run in (one, two)]
    if results[0] is None or results[1] is None:
        return ["results.json: lost"]
    found = [f"results.json: {key} differs" for key in results[0] if results[0][key] != results[1].get(key)]
    lines = [[line.model_dump(exclude={"time_s"}) for line in run.metrics()] for run in (one, two)]
    if len(lines[1]) != len({(line["step"], line["split"]) for line in lines[1]}):
        found.append("metrics.jsonl: a line twice")
    if lines[0] != lines[1]:
        found.append("metrics.jsonl: differs")
    for file in sorted(p for p in one.path.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".npz", ".json")):
        name = file.relative_to(one.path).as_posix()
        if name in MEASURED_FILES or name.startswith(("error", "checkpoints/", "MANIFEST")):
            continue
        if not (two.path / name).exists():
            found.append(f"{name}: lost")
        elif not _same_content(file, two.path / name):
            found.append(f"{name}: differs")
    return found


def _outcome(run: RunFolder) -> dict[str, Any] | None:
    results = run.results()
    return None if results is None else results.model_dump(mode="json", exclude=set(MEASURED_KEYS))


def _same_content(one: Path, two: Path) -> bool:
    if one.suffix == ".json":
        return _computed(json.loads(one.read_bytes())) == _computed(json.loads(two.read_bytes()))
    if one.suffix != ".npz":
        return one.read_bytes() == two.read_bytes()
    with np.load(one) as first, np.load(two) as second:
        return sorted(first.files) == sorted(second.files) and all(
            np.array_equal(first[key], second[key], equal_nan=first[key].dtype.kind == "f") for key in first.files
        )


def _computed(content: Any) -> Any:
    """Without what was measured."""
    if isinstance(content, dict):
        kept = {key: _computed(value) for key, value in content.items() if key not in MEASURED_PARTS}
        return {key: sorted(value) if key in SETS and isinstance(value, list) else value for key, value in kept.items()}
    return [_computed(value) for value in content] if isinstance(content, list) else content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="kept, and its quiet study used again; default: a temporary one")
    parser.add_argument("--workers", type=float, default=0.35, help="share of the kills that meet one worker")
    parser.add_argument("--stack", default="off", help="runs in one process while the study is killed; the quiet one has none")
    asked = parser.parse_args()
    began = time.monotonic()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    study = folder / "soak.yaml"
    study.write_text(STUDY.replace("EPOCHS", str(asked.epochs)))
    dice = random.Random(asked.seed)
    deadline = began + 60 * asked.minutes
    quiet = Soak(folder / "quiet", study, dice, deadline, asked.workers)
    if not (quiet.folder / "soak" / "report" / "index.html").exists():
        quiet.storm(0)
    if set(quiet.exits) - {0}:
        sys.exit(f"the quiet study failed: see {quiet.log}")
    rounds: list[Soak] = []
    while (done := sum(one.kills.total() for one in rounds)) < asked.kills and time.monotonic() < deadline:
        rounds.append(Soak(folder / f"stormy-{len(rounds) + 1}", study, dice, deadline, asked.workers, asked.stack))
        rounds[-1].storm(asked.kills - done)
    found = {one.folder.name: _judge(quiet, one) for one in (quiet, *rounds)}
    stormy = [ResultsFolder(one.folder / "soak") for one in rounds]
    runs = [run for results in stormy for run in results.runs()]
    outcome = {
        "tool": "soak",
        "date": time.strftime("%Y-%m-%d"),
        "seed": asked.seed,
        "epochs": asked.epochs,
        "stack": asked.stack,
        "kills": dict(sum((one.kills for one in rounds), Counter())),
        "kills_total": sum(one.kills.total() for one in rounds),
        "kills_while_starting_or_planning": sum(one.early for one in rounds),
        "exit_codes": {str(code): n for code, n in sorted(sum((one.exits for one in rounds), Counter()).items())},
        "studies": len(rounds),
        "runs": len(runs),
        "finished": sum(run.status() == "finished" for run in runs),
        "continued_from_a_checkpoint": sum(results.resumed for run in runs if (results := run.results()) is not None),
        "finished_in_a_stack": sum(bool(results.time.get("stacked")) for run in runs if (results := run.results()) is not None),
        "begun_and_no_more_asked_for": sum(len(left_behind(results)) for results in stormy),
        "problems": {name: problems for name, problems in found.items() if problems},
        "minutes": round((time.monotonic() - began) / 60, 1),
        "versions": {key: environment()[key] for key in ("peftlab", "python", "cpu", "git")},
    }
    print(json.dumps(outcome, indent=1))
    if asked.folder is None and not outcome["problems"]:
        shutil.rmtree(folder)
    return 1 if outcome["problems"] else 0


def _judge(quiet: Soak, one: Soak) -> list[str]:
    """Differences from the quiet study, and what ``peftlab verify`` finds."""
    folders = [ResultsFolder(each.folder / "soak") for each in (quiet, one)]
    problems = [f"verify: {problem}" for problem in verify(folders[1])]
    return problems + (differences(*folders) if one is not quiet else [])


if __name__ == "__main__":
    sys.exit(main())
