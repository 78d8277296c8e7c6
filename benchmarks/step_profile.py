"""Where the time of a training step goes: PEFT in a plain loop, ours with plain layers, ours fused.

    python benchmarks/step_profile.py [--output FILE] [--steps 4] [--only TEXT] [--targets NAME] [--dropout 0.05] [--tiny]

The sides are those of peers.py, each in a process of its own, one after the other. torch's profiler tells the time within each
operation (without those it calls); what lies outside of them is Python: the loop, hooks, batches and autograd's own bookkeeping.
Prints JSON: milliseconds of a step by kind of operation. It is wall-clock time, so on a busy machine compare shares, not times.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from _peers_sides import PACKAGES, Side, run_ours, run_plain
from _report import report
from peers import WARM_UP, add_settings, settings_of

#: kind -> what names of operations begin with, behind "aten::"; the first kind that fits counts
KINDS: dict[str, tuple[str, ...]] = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "mkldnn_convolution", "convolution"),
    "attention": ("_scaled_dot_product", "scaled_dot_product", "_softmax", "softmax"),
    "activations": ("gelu", "tanh", "relu"),
    "norms": ("native_layer_norm", "layer_norm"),
    "dropout": ("bernoulli", "native_dropout", "dropout", "rand", "uniform", "index_fill", "cumsum", "log1p"),
    "copies": ("copy_", "cat", "stack", "clone", "contiguous", "fill_", "zero_"),
    "sums and scalings": ("add", "mul", "div", "sub", "sum", "neg"),
    "optimizer and clipping": ("_fused_adamw", "_foreach", "linalg_vector_norm"),
}
SIDES: dict[str, dict[str, Any]] = {
    "peft": {"who": "peft"},
    "ours, plain layers": {"who": "ours", "fused": False},
    "ours, fused layers": {"who": "ours"},
}


class Profiled:
    """Stands where a run asks whether to stop: lets it warm up, profiles so many steps, stops it."""

    number = None

    def __init__(self, steps: int) -> None:
        from torch.profiler import ProfilerActivity, profile

        self.steps, self.calls, self.began = steps, 0, 0.0
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def check(self) -> None: ...

    def __call__(self) -> bool:
        self.calls += 1
        if self.calls == WARM_UP:
            self.profile.start()
            self.began = time.perf_counter()
        if self.calls < WARM_UP + self.steps:
            return False
        self.wall_s = time.perf_counter() - self.began
        self.profile.stop()
        return True

    def by_kind(self) -> dict[str, float]:
        """Milliseconds of a step, largest first."""
        found = dict.fromkeys([*KINDS, "other operations"], 0.0)
        for event in self.profile.key_averages():
            if event.key.startswith("aten::"):
                found[_kind(event.key.removeprefix("aten::"))] += event.self_cpu_time_total / 1000 / self.steps
        step_ms = 1000 * self.wall_s / self.steps
        found["outside of operations"] = max(0.0, step_ms - sum(found.values()))
        return {kind: round(ms, 1) for kind, ms in sorted(found.items(), key=lambda item: -item[1])} | {"step": round(step_ms, 1)}


def _kind(operation: str) -> str:
    return next((kind for kind, names in KINDS.items() if operation.startswith(names)), "other operations")


def serve(side: Side, steps: int, connection: Connection) -> None:
    """A side's process."""
    import torch

    torch.set_num_threads(1)
    profiled = Profiled(steps)
    with tempfile.TemporaryDirectory() as folder:
        if side.who == "ours":
            run_ours(side, Path(folder), profiled)
        else:
            run_plain(side, profiled)
    connection.send(profiled.by_kind())


def measure(side: Side, steps: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(side, steps, theirs), daemon=True)
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.05)
    add_settings(parser)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        found = {
            f"{setting}, dropout {options.dropout:g}": {
                side: measure(made(dropout=options.dropout, **how), options.steps) for side, how in SIDES.items()
            }
            for setting, made in settings_of(Path(name), options).items()
        }
    settings = {"targets": options.targets, "unit": "milliseconds a step", "steps": options.steps}
    return report("step_profile", options.output, PACKAGES, settings, found=found)


if __name__ == "__main__":
    main()
