"""Small real workers: each writes a real record, in its own process, as the tests ask in ``config.adapter``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from peftlab.errors import NonFinite
from peftlab.execution.protocol import Channel, Evaluated, Finished, Part, Started, Step, WorkerOptions
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.store import RunFolder


def configuration(seed: int = 0, **asked: Any) -> RunConfig:
    """A run of which ``asked`` says what its worker does."""
    return RunConfig(
        study="tests", arm="arm", label="arm", slug="arm", backbone="none", backbone_fingerprint="0", task={},
        data_fingerprint="0", adapter={"name": "test", **asked}, quantizer={"name": "none"}, train={}, seed=seed,
    )  # fmt: skip


def results(run_id: str, steps: int = 1, **more: Any) -> RunResults:
    return RunResults(
        run_id=run_id, metrics={"test": {"accuracy": 0.5}}, higher_is_better={"accuracy": True}, steps=steps, epochs=1.0,
        parameters={}, memory={}, time={}, **more,
    )  # fmt: skip


def finish_at_once(config_json: str, path: str, options: WorkerOptions, connection: Any) -> None:
    folder = RunFolder(path)
    channel = Channel(connection)
    channel.send(Started(0, 1))
    channel.send(Step(1, 1, 0.5, 1e-3))
    channel.send(Evaluated({"accuracy": 0.5}, step=1))
    folder.finish(results(folder.run_id))
    channel.send(Finished())


def work(config_json: str, path: str, options: WorkerOptions, connection: Any) -> None:
    """Count steps, one journal line each, from where the journal ends; stop at a step boundary when asked to."""
    asked = RunConfig.model_validate_json(config_json).adapter
    folder, channel = RunFolder(path), Channel(connection, step_every_s=0.0)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _frame: stopping.append(n))
    with (folder.path.parent.parent.parent / "starts.txt").open("a") as file:  # O_APPEND: one line per start, whole
        file.write(f"{folder.run_id} {os.getpid()}\n")
    if "say" in asked:
        print(asked["say"], "hf_" + "a1" * 17)
    time.sleep(asked.get("mute_s", 0.0))
    lines = folder.metrics()
    first, total = (lines[-1].step if lines else 0), asked.get("steps", 3)
    channel.send(Started(first, total))
    for step in range(first + 1, total + 1):
        if asked.get("kill_at") == step:
            os.kill(os.getpid(), asked.get("signal", signal.SIGKILL))
        if asked.get("raise_at") == step and not Path(asked.get("unless", "/none")).exists():
            raise NonFinite("the loss is not finite", where=f"step {step}", remedy="lower the learning rate")
        if asked.get("break_at") == step:
            raise ZeroDivisionError("token hf_abcdefghijklmnopqrstuvwxyz123456 was in the message")
        if asked.get("exit_at") == step:
            os._exit(3)
        time.sleep(asked.get("hang_s", 0.0) if asked.get("hang_at") == step else asked.get("step_s", 0.0))
        folder.append_metrics([{"step": step, "epoch": step / total, "split": "train", "loss": 1 / step}])
        channel.send(Step(step, total, 1 / step, 1e-3))
        if stopping:
            time.sleep(asked.get("save_s", 0.0))
            raise SystemExit(130 if stopping[0] == signal.SIGINT else 75)
    folder.finish(results(folder.run_id, steps=total))
    channel.send(Finished())


def begin_together(parts: Sequence[Part], options: WorkerOptions) -> int:
    """A stack that does a step; then it is ended from outside where its first run asks for it (``signal``), or hangs."""
    asked = RunConfig.model_validate_json(parts[0].config).adapter
    for part in parts:
        channel = Channel(part.connection, step_every_s=0.0)
        channel.send(Started(0, 3))
        channel.send(Step(1, 3, 1.0, 1e-3))
    if "signal" in asked:
        os.kill(os.getpid(), asked["signal"])
    time.sleep(600.0)
    return 0


def look_around(config_json: str, path: str, options: WorkerOptions, connection: Any) -> None:
    """What a process finds when it starts."""
    loaded = sorted({name.partition(".")[0] for name in sys.modules})
    import torch

    folder = RunFolder(path)
    seen = {
        "loaded": loaded,
        "server_threads": len(list(Path(f"/proc/{os.getppid()}/task").iterdir())),
        "torch_threads": torch.get_num_threads(),
        "variable": os.environ["OMP_NUM_THREADS"],
        "cuda_initialized": torch.cuda.is_initialized(),
        "worked": float((torch.ones(512, 64) @ torch.ones(64, 512)).mean()),
    }
    folder.write_json("seen.json", seen)
    folder.finish(results(folder.run_id))


def tell_the_node(config_json: str, path: str, options: WorkerOptions, connection: Any) -> None:
    """Which Ray node the run is on: that of the process that started it, whose session folder is its own; and that process."""
    folder = RunFolder(path)
    parents = psutil.Process().parents()
    raylets = [number for number, process in enumerate(parents) if "raylet" in process.name()]
    folder.write_json("node.json", {"node": parents[raylets[0]].pid, "process": parents[raylets[0] - 1].pid})
    folder.finish(results(folder.run_id))
