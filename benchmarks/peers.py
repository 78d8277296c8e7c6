"""Training steps, peak memory and whole studies of ours beside those of others.

    python benchmarks/peers.py [--part step|memory|study] [--output FILE] [--repeats N] [--only TEXT] [--targets NAME]
        [--dora] [--seeds N] [--tiny]

``step``: one LoRA step of rank 8 in a real run of ours (every probe and hook in place) against PEFT in a plain loop and against
full fine-tuning in eager PyTorch; ViT-Tiny at 224 px and a MiniLM with texts of 32 tokens. Every side has a process and one
thread of its own; they take turns, one step each. Time is that of the processor, so that other work on the machine counts less.

``memory``: the largest resident size of the same processes, each alone, from the start to the end. Where little memory is free a
run of ours gives every block back at once (training/memory.py); ``scarce`` are such a run, and PEFT's loop with the same setting.

``study``: a whole study, ViT-Tiny at 96 px on CIFAR-10, six arms and five seeds, data and evaluation included: ``peftlab run``
with two workers against one process that loops Hugging Face's Trainer with PEFT (_peers_study.py). Wall clock; wants a quiet
machine.

Prints JSON; every ratio is ours over the other's.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _peers_sides import PACKAGES, STEPS, Side, minilm, sentences, serve
from _peers_study import compare_studies
from _report import report
from _vit import vit_tiny

WARM_UP = 6  #: steps; the first five of ours measure memory, one is there for the heap
DROPOUT = 0.05
PIXELS, IMAGES = 224, 16
TOKENS, TEXTS = 32, 32
#: side -> what is its own
SIDES: dict[str, dict[str, Any]] = {
    "full": {"who": "full"},
    "peft": {"who": "peft"},
    "peft dropout": {"who": "peft", "dropout": DROPOUT},
    "peft scarce": {"who": "peft", "scarce": True},
    "ours": {"who": "ours"},
    "ours dropout": {"who": "ours", "dropout": DROPOUT},
    "ours scarce": {"who": "ours", "scarce": True},
}
#: ratio -> sides; ``scarce``: blocks are given back at once, as our runs do where little memory is free
RATIOS = {
    "ours scarce / peft": ("ours scarce", "peft"),
    "ours scarce / peft scarce": ("ours scarce", "peft scarce"),
    "ours scarce / ours": ("ours scarce", "ours"),
    "ours / peft": ("ours", "peft"),
    "ours / peft, dropout": ("ours dropout", "peft dropout"),
    "ours / full": ("ours", "full"),
    "ours / full, dropout": ("ours dropout", "full"),
    "peft / full": ("peft", "full"),
}


class Process:
    """A side's process, seen from here."""

    def __init__(self, side: Side) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(side, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until the model is there and the first step is done."""
        try:
            self.connection.recv()
        except EOFError:
            raise SystemExit("a side ended before its first step; its error stands above") from None

    def step(self) -> dict[str, float]:
        self.connection.send("step")
        return self.connection.recv()

    def stop(self) -> float:
        """The largest resident size, in MB."""
        self.connection.send("stop")
        peak = self.connection.recv()["peak_mb"]
        self.process.join()
        return peak


def measure_steps(sides: dict[str, Side], repeats: int) -> dict[str, Any]:
    """Medians of all sides, and ratios within turns."""
    processes = {name: Process(side) for name, side in sides.items()}
    for process in processes.values():
        process.ready()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(WARM_UP + repeats):
        for name, process in processes.items():
            taken = process.step()["cpu_s"]
            if turn >= WARM_UP:
                seconds[name].append(taken)
    for process in processes.values():
        process.stop()
    return {
        "step_s": {name: round(statistics.median(taken), 4) for name, taken in seconds.items()},
        "step_s_range": {name: [round(min(taken), 4), round(max(taken), 4)] for name, taken in seconds.items()},
        "ratios": {name: spread(seconds[a], seconds[b]) for name, (a, b) in RATIOS.items() if a in seconds and b in seconds},
    }


def spread(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Of the ratios within a turn: median and quartiles."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"median": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}  # pyright: ignore


def measure_memory(sides: dict[str, Side], repeats: int) -> dict[str, Any]:
    """Peaks in processes that run alone, and what they hold between two steps."""
    peaks, between = {}, {}
    for name, side in sides.items():
        process = Process(side)
        process.ready()
        for _ in range(WARM_UP + repeats):
            between[name] = round(process.step()["resident_mb"], 1)
        peaks[name] = round(process.stop(), 1)
    found = {name: round(peaks[a] / peaks[b], 3) for name, (a, b) in RATIOS.items() if a in peaks and b in peaks}
    return {"peak_mb": peaks, "between_steps_mb": between, "ratios": found}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """What is trained, the same on every side."""
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--targets", default="standard", choices=("standard", "fused", "all-linear"))
    parser.add_argument("--dora", action="store_true", help="with DoRA's magnitudes, on every side that adapts")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on every side")
    parser.add_argument("--pixels", type=int, default=PIXELS, help="edge of the ViT's images; a study's are 96")
    parser.add_argument("--images", type=int, default=IMAGES, help="of a batch of the ViT")
    parser.add_argument("--weights", type=Path, help="folder of a ViT-Tiny; default: random weights (a study wants real ones)")
    parser.add_argument("--encoder", type=Path, default=Path("build/backbones/minilm"))
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")


def settings_of(folder: Path, options: argparse.Namespace) -> dict[str, Callable[..., Side]]:
    """Setting -> what makes a side of it."""
    pixels, images, tokens, rows = (32, 2, 8, 2) if options.tiny else (options.pixels, options.images, TOKENS, TEXTS)
    shared: dict[str, Any] = {"targets": options.targets, "checkpointing": options.checkpointing, "dora": options.dora}
    found: dict[str, Callable[..., Side]] = {}
    if options.only in (name := f"ViT-Tiny, {pixels} px, batch {images}"):
        backbone, _ = vit_tiny(options.weights, folder)
        found[name] = functools.partial(Side, backbone=backbone, data="", pixels=pixels, batch=images, **shared)
    if options.only in (name := f"MiniLM, {tokens} tokens, batch {rows}"):
        encoder = minilm(options.encoder, folder)
        texts = sentences(encoder, folder, tokens)
        found[name] = functools.partial(Side, backbone=encoder, data=texts, pixels=0, batch=rows, **shared)
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("step", "memory", "study"), default="step")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, help="of a study; default 5")
    add_settings(parser)
    options = parser.parse_args(arguments)
    if WARM_UP + options.repeats + 1 >= STEPS:
        parser.error(f"--repeats: a run has {STEPS} steps")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.part == "study":
            found = compare_studies(options.weights, options.data, folder, tiny=options.tiny, seeds=options.seeds)
        else:
            measure = measure_steps if options.part == "step" else measure_memory
            found = {
                setting: measure({name: made(**own) for name, own in SIDES.items()}, options.repeats)
                for setting, made in settings_of(folder, options).items()
            }
    settings = {
        "part": options.part,
        "targets": options.targets,
        "dora": options.dora,
        "gradient_checkpointing": options.checkpointing,
        "repeats": options.repeats,
    }
    threads = 2 if options.part == "study" else 1
    return report("peers", options.output, PACKAGES, settings, threads=threads, found=found)


if __name__ == "__main__":
    main()
