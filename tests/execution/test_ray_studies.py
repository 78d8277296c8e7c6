"""Whole studies on a Ray cluster through the command line, and a cluster that goes away as a whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftlab.records.store import ResultsFolder, verify
from tests.execution.clusters import NEEDS_RAY, VARIABLES, Cluster, variables
from tests.execution.targets import configuration
from tests.execution.test_worker import same_record

pytestmark = [pytest.mark.slow, NEEDS_RAY]
ROOT = Path(__file__).parents[2]
STUDY = """
study: both
question: Is it the same on a cluster?
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits, train_size: 160, validation_size: 40, test_size: 40}
seeds: [0, 1]
train: {epochs: 1, batch_size: 16, warmup: 0.1}
arms:
  probe: {adapter: linear-probe}
  lora: {adapter: {name: lora, rank: 4, dropout: 0.1}}
tune: {sampler: halving, learning_rate: [1e-3, 3e-3, 1e-2, 3e-2], seeds: [100], on: validation}
analysis: {metric: accuracy, baseline: probe}
"""
#: ``python -c RUNNER FOLDER CACHE ADDRESS CONFIG...``: an execution in a process of its own; prints events as JSON lines
RUNNER = """
import sys
from pathlib import Path
from peftlab.execution import processes
from peftlab.execution.progress import JsonListener
from peftlab.execution.protocol import WorkerOptions
from peftlab.execution.ray.engine import RayEngine
from peftlab.execution.ray.machines import Machines
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
processes.PRELOAD = ("peftlab.execution.child", "tests.execution.targets")
folder, cache = ResultsFolder(sys.argv[1]), Path(sys.argv[2])
configs = [RunConfig.model_validate_json(text) for text in sys.argv[4:]]
machines = Machines(address=sys.argv[3], folder=folder.path, patience_s=120)
engine = RayEngine(machines=machines, cache=cache, target="tests.execution.targets:work")
engine.open()
outcome = engine.execute(folder, configs, None, WorkerOptions(cache=cache), JsonListener(), retry_failed=False)
engine.close()
sys.exit(outcome.exit_code)
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with variables():
        made = Cluster()
        try:
            made.add()
            made.wait()
            yield made
        finally:
            made.close()


def peftlab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **VARIABLES, "PYTHONPATH": str(ROOT / "src"), "PEFTLAB_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "peftlab", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=550, check=False)


def records(folder: Path) -> dict[str, Any]:
    return {f"{run.path.parent.parent.name}/{run.path.parent.name}/{run.run_id}": run for run in ResultsFolder(folder).runs()}


def test_a_tuned_study_is_bit_equal_on_both_engines_and_either_reuses_what_the_other_did(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "both.yaml").write_text(STUDY)
    on_ray = ["run", "both.yaml", "--engine", "ray", "--address", cluster.address, "--no-shared-disk"]
    done = peftlab(tmp_path, *on_ray, "--output", "far")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Ray: 2 nodes" in done.stderr and "finished in" in done.stderr
    assert peftlab(tmp_path, "run", "both.yaml", "--output", "near").returncode == 0
    far, near = records(tmp_path / "far" / "both"), records(tmp_path / "near" / "both")
    assert far.keys() == near.keys() and len(far) >= 2 * 4 + 2 * 2
    for name in far:
        if name.startswith("runs/"):
            same_record(far[name], near[name])
    chosen = [re.sub(r'"time_s": [0-9.]+', "", (tmp_path / place / "both/tuning.json").read_text()) for place in ("far", "near")]
    assert chosen[0] == chosen[1]
    assert verify(tmp_path / "far" / "both") == []
    again = peftlab(tmp_path, "run", "both.yaml", "--output", "far", "--json")
    assert json.loads(again.stdout)["runs"] == {"reused": 4}
    refused = peftlab(tmp_path, *on_ray, "--output", "far", "--place", "lora=nowhere")
    assert refused.returncode == 2 and "no node has the resource 'nowhere'" in refused.stderr


def test_a_cluster_that_is_restarted_as_a_whole_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "tests").open_or_create("study: tests\n")
    configs = [configuration(seed, steps=60, step_s=0.1) for seed in range(2)]
    arguments = [str(folder.path), str(tmp_path / "cache"), cluster.address, *(c.model_dump_json() for c in configs)]
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    noise: list[str] = []
    assert runner.stdout is not None and runner.stderr is not None
    threading.Thread(target=lambda: noise.append(runner.stderr.read()), daemon=True).start()  # pyright: ignore
    told: list[dict[str, Any]] = []
    for line in runner.stdout:
        if line.startswith("{"):
            told.append(json.loads(line))
            if told[-1]["event"] == "step" and told[-1]["step"] >= 10 and not cluster.head.killed:
                for node in cluster.nodes:
                    node.kill()
                break
    cluster.start_head()
    cluster.add()
    told += [json.loads(line) for line in runner.stdout if line.startswith("{")]
    assert runner.wait(60) == 0, "".join(noise)[-3000:]
    assert told[-1]["counts"] == {"finished": 2}
    assert [e["why"] for e in told if e["event"] == "moved"], "it is said what happened"
    assert max(e["step"] for e in told if e["event"] == "started") >= 5, "it went on, and did not begin again"
    assert all([line.step for line in folder.run(config).metrics()] == list(range(1, 61)) for config in configs)
    assert verify(folder) == []
