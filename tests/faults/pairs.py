"""Choices that each have a test of their own, put together at random: tiny studies of one arm, each held to the promises that
hold for every run.

    python -m tests.faults.pairs [--count 60] [--seed 1] [--minutes 30] > outcome.json

Each is planned, and a refusal is an answer. What can be planned is run and left alone, and then once more

* killed with SIGKILL twice and continued: the same to the bit;
* beside two others in one process, where they are computed together: the same to the bit;
* with plain layers and without hidden states from the disk: the same losses up to rounding, where nothing is drawn;
* exported and scored as it was read back: the metrics on record.

Two faults of three that readers of the source found lay where two choices meet. Exit code 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftlab.api.exporting import export
from peftlab.errors import PeftlabError
from peftlab.execution.local import execute
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import WorkerOptions
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import Planner
from peftlab.planning.stacking import Stacking
from peftlab.records.environment import environment
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder, verify
from peftlab.study.load import dump, validate_study
from peftlab.study.schema import Study
from tests.contracts.conftest import samples
from tests.contracts.tiny import make
from tests.faults.inject import order
from tests.tasks import texts
from tools.soak import unlike

EVERY = 2  #: steps from one checkpoint to the next
CLOSE = 2e-3  #: of a loss, between ways of computing the same
WRITTEN = 1e-3  #: of a metric, between the run's model and what was written of it
WORKER, STACK = "tests.faults.inject:main", "tests.faults.inject:stack_main"
OF_RANKS = ("lora", "svd", "pooled", "lora-xs")
#: allocators -> adapters that they act on, where not all of :data:`OF_RANKS` will do
NEEDS = {
    **dict.fromkeys(("adalora", "increlora", "top_k"), ("svd",)),
    **dict.fromkeys(("gora", "eva", "dylora"), ("lora",)),
    "sora": ("lora", "pooled"),
}
#: whose ranks move during training, so that the last weights are tested
MOVES = ("adalora", "increlora", "top_k", "threshold", "proportional", "sora", "dylora")
ADALORA = [
    {"name": "adalora", "budget": {"ranks": 20}, "initial_rank": 4, "initial_steps": 2, "final_steps": 3, "every": 2},
    {"name": "adalora", "budget": {"ranks": 14}, "initial_rank": 4, "initial_steps": 0.1, "final_steps": 0.3, "every": 1},
]
MEASURED_TOO = ("seconds",)  #: keys that say what something took, wherever they stand


class World:
    """Backbones and data, made once."""

    def __init__(self, root: Path) -> None:
        self.images = [str(make("vit", root / "vit")), str(make("timm", root / "timm")), "bundled:vit-nano"]
        makers = (texts.make_bert, texts.make_gpt2, texts.make_llama)
        bert, *causal = (str(maker(root / maker.__name__)) for maker in makers)
        self.of_texts, self.causal = [bert, *causal], causal
        judged = texts.sentences(80)
        self.labelled = str(texts.write_sst2(root / "labelled", 80, 40))
        rated = [(text, round(4 * label + len(text) % 3 / 2, 2)) for text, label in judged]
        self.rated = str(texts.write_tsv(root / "rated" / "train.tsv", rated, "sentence\tscore").parent)
        self.instructions = root / "instructions.json"
        self.instructions.write_text(json.dumps(texts.instructions(80)))
        self.stories = root / "stories"
        self.stories.mkdir()
        for seed, (name, count) in enumerate({"train": 120, "valid": 40, "test": 40}.items()):
            (self.stories / f"{name}.txt").write_text("\n".join(text for text, _ in texts.sentences(count, seed)))

    def setting(self, draw: random.Random) -> tuple[str, dict[str, Any], str]:
        """Backbone, task and metric."""
        sizes = {"train_size": 48, "validation_size": 16, "test_size": 16}
        folds = {"train_size": 48, "validation_size": 16, "folds": 3}
        kind = draw.choice(["image-classification"] * 3 + ["text-classification", "text-regression", "language-modeling"])
        if kind == "image-classification":
            augmented = {"augmentation": draw.choice(["flip", "crop", "crop-flip"])} if draw.random() < 0.3 else {}
            digits = {"kind": kind, "data": "digits", **augmented, **(folds if draw.random() < 0.25 else sizes)}
            return draw.choice(self.images), digits, "accuracy"
        if kind == "text-classification":
            judged = {"kind": kind, "data": {"name": "sst2", "path": self.labelled}, "train_size": 48, "validation_size": 16}
            return draw.choice(self.of_texts), judged, "accuracy"
        if kind == "text-regression":
            rated = {"kind": kind, "data": {"name": "tables", "path": self.rated}, "label": "score", "text": "sentence"}
            return draw.choice(self.of_texts), {**rated, **(folds if draw.random() < 0.25 else sizes)}, "rmse"
        if draw.random() < 0.5:
            data = {"name": "alpaca", "path": str(self.instructions)}
            return draw.choice(self.causal), {"kind": "instruction-tuning", "data": data, **sizes}, "loss"
        stories = {"kind": kind, "data": {"name": "text-files", "path": str(self.stories)}, "context": 16, **sizes}
        return draw.choice(self.causal), stories, "loss"


def arm(draw: random.Random) -> dict[str, Any]:
    allocators = [*(sample.spec for sample in samples("allocator") if sample.name != "adalora"), *ADALORA]
    adapters = [*(sample.spec for sample in samples("adapter"))]
    found: dict[str, Any] = {}
    if draw.random() < 0.5:
        found["allocator"] = allocator = dict(draw.choice(allocators))
        adapters = [spec for spec in adapters if spec["name"] in NEEDS.get(allocator["name"], OF_RANKS)]
        if "budget" in allocator:
            allocator["budget"] = draw.choice([{"ranks": draw.randint(8, 40)}, {"parameters": draw.choice([2000, 4000])}])
        if allocator["name"] in ("adalora", "proportional", "threshold", "top_k", "empirical") and draw.random() < 0.6:
            allocator["importance"] = draw.choice([sample.name for sample in samples("importance")])
    found["adapter"] = dict(draw.choice(adapters))
    if "heavy" in found.get("allocator", {}).get("name", "") or found.get("allocator", {}).get("name") == "selective":
        found["adapter"]["targets"] = "all-linear"
    if draw.random() < 0.45:
        found["quantizer"] = draw.choice([sample.spec for sample in samples("quantizer")])
        found["quantize"] = draw.choice(["before", "before", "before", "after"])
    return found


def train(draw: random.Random, moves: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"epochs": draw.choice([1, 1.5, 2]), "batch_size": 4, "learning_rate": 3e-3}
    choices: list[tuple[float, str, list[Any]]] = [
        (0.4, "effective_batch_size", [8, 12]),
        (0.3, "precision", ["bfloat16", "float16"]),
        (0.25, "gradient_checkpointing", [True]),
        (0.1 if moves else 0.5, "select", ["best"]),
        (0.5, "evaluate_every", [0.25, 0.5]),
        (0.3, "label_smoothing", [0.1]),
        (0.3, "clip_norm", [None, 0.05]),
        (0.3, "schedule", ["linear", "constant"]),
        (0.2, "warmup", [0.0, 0.5]),
        (0.2, "on_non_finite", ["higher-precision"]),
        (0.2, "on_out_of_memory", ["accumulate"]),
    ]
    for chance, key, levels in choices:
        if draw.random() < chance:
            found[key] = draw.choice(levels)
    if found.get("select") and draw.random() < 0.5:
        found["early_stopping"] = {"patience": draw.choice([1, 2])}
    return found


def study(world: World, seed: int) -> dict[str, Any]:
    """One arm, drawn, and a small one that shares its process."""
    draw = random.Random(seed)
    backbone, task, metric = world.setting(draw)
    drawn = arm(draw)
    moves = drawn.get("allocator", {}).get("name") in MOVES
    alike = {key: drawn[key] for key in ("quantizer", "quantize") if key in drawn}
    return {
        "study": "pairs", "backbone": backbone, "task": task, "seeds": [0, 1], "train": train(draw, moves),
        "arms": {"drawn": drawn, "beside": {"adapter": {"name": "lora", "rank": 2}, **alike}}, "analysis": {"metric": metric},
    }  # fmt: skip


@dataclasses.dataclass
class Trial:
    """One study, and the folders that its runs are made in."""

    study: Study
    runs: list[RunConfig]  #: that on trial, the same with another seed, the one beside
    steps: int
    folder: Path
    cache: Path
    draw: random.Random

    @property
    def config(self) -> RunConfig:
        return self.runs[0]

    def go(self, name: str, *runs: RunConfig, fault: dict[str, Any] | None = None, stack: int = 0, **changes: Any) -> RunFolder:
        """The run on trial in a folder of that name, after whatever was to be done there is done."""
        results = ResultsFolder(self.folder / name).open_or_create(dump(self.study))
        if fault is not None:
            order(results.path).write_text(json.dumps(fault))
        options = WorkerOptions(cache=self.cache, checkpoint_every_s=1e9, checkpoint_every_steps=EVERY, **changes)
        how: dict[str, Any] = {"target": WORKER, "stack_target": STACK, "stacking": Stacking(stack or "off")}
        execute(results, list(runs) or [self.config], options=options, listener=NullListener(), jobs=1, retry_failed=True, **how)
        return results.run(self.config)

    def broken(self, quiet: RunFolder) -> list[str]:
        """Promises that are not kept, in words; ``quiet``: the run, left alone."""
        if quiet.status() != "finished":
            return [f"alone: {quiet.status()}: {quiet.error()}"[:600]]
        found = []
        for name, check in CHECKS.items():
            try:
                found += [f"{name}: {what}" for what in check(self, quiet)]
            except Exception as error:  # nobody asked for one
                found.append(f"{name}: {''.join(traceback.format_exception(error)[-2:])}")
        return found

    def killed(self, quiet: RunFolder) -> Iterator[str]:
        for _ in range(2):
            fault = self.draw.choice(["kill", "kill", "kill_between_micro_batches"])
            self.go("killed", fault={"fault": fault, "step": self.draw.randint(1, max(1, self.steps - 1))})
        yield from self.same(quiet, self.go("killed"))

    def stacked(self, quiet: RunFolder) -> Iterator[str]:
        yield from self.same(quiet, self.go("stacked", *self.runs, stack=3), "efficiency.json")

    def same(self, quiet: RunFolder, other: RunFolder, *but: str) -> Iterator[str]:
        """What differs in their records; ``but``: files that may."""
        if other.results() is None:
            yield f"{other.status()}: {other.error()}"[:600]
            return
        for what in unlike(quiet, other):
            name = what.split(":")[0]
            files = [folder.path / name for folder in (quiet, other)]
            both = name.endswith(".json") and name != "results.json" and all(file.exists() for file in files)
            if name not in but and not (both and _timeless(files[0]) == _timeless(files[1])):
                yield what
        yield from verify(ResultsFolder(other.path.parents[2]))

    def plain(self, quiet: RunFolder) -> Iterator[str]:
        drawn = "dropout" in json.dumps(self.config.adapter) or "augmentation" in self.config.task
        if drawn or self.config.train["precision"] != "auto" or Path(self.config.backbone).name == "make_gpt2":
            return
        for name, changes in {"plain": {"fused": False}, "no prefix": {"prefix_cache_mb": 0.0}}.items():
            other = self.go(name, **changes)
            yield from _apart(_metrics(quiet, "loss"), _metrics(other, "loss"), CLOSE, name)

    def exported(self, quiet: RunFolder) -> Iterator[str]:
        """After rounding (``quantize: after``) the adapter is not the tested model, and its card says so."""
        if self.config.quantize == "after" or self.config.train["precision"] != "auto":
            return
        told = export(quiet.path.parents[2], quiet.run_id, self.folder / "exported", evaluate=True).as_dict()
        yield from _apart(told["test_of_the_run"], told["test"], WRITTEN, "adapter")


CHECKS: dict[str, Callable[[Trial, RunFolder], Iterator[str]]] = {
    "killed and continued": Trial.killed,
    "stacked": Trial.stacked,
    "other ways": Trial.plain,
    "exported": Trial.exported,
}


def _timeless(path: Path) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key not in MEASURED_TOO}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return strip(json.loads(path.read_text()))


def _metrics(run: RunFolder, key: str) -> dict[str, float | None]:
    results = run.results()
    return {} if results is None else {split: metrics.get(key) for split, metrics in results.metrics.items()}


def _apart(one: Any, two: Any, tolerance: float, what: str) -> Iterator[str]:
    for key, value in one.items():
        other = two.get(key)
        if (value is None) != (other is None) or (value is not None and abs(value - other) > tolerance * max(1.0, abs(value))):
            yield f"{what}: {key} is {other}, not {value}"


def trial(world: World, seed: int, folder: Path, cache: Path) -> tuple[str, list[str], dict[str, Any]]:
    """``refused`` or ``tried``; the reasons, or what is broken; the study.

    What only the data show (tokens of a first batch that are fewer than the directions asked for) is refused when a run begins.
    """
    raw = study(world, seed)
    try:
        parsed = validate_study(raw)
        planned = Planner(parsed, PlanOptions(cache=cache)).plan().runs
    except PeftlabError as error:
        return "refused", [str(error)], raw
    except Exception as error:  # whatever it is, a user has to be told in words
        return "tried", [f"planned: {error!r}"], raw
    of_arm = {(run.label, run.seed, run.fold): run for run in planned}
    first = next(run for run in planned if run.config is not None or run.refusal)
    if first.refusal or first.config is None:
        return "refused", [str(first.refusal)], raw
    others = [of_arm[first.label, 1, 0].config, next(run.config for run in planned if run.label.startswith("beside"))]
    runs = [first.config, *(config for config in others if config is not None)]
    made = Trial(parsed, runs, first.steps or 12, folder / str(seed), cache, random.Random(seed))
    quiet = made.go("quiet")
    failed = quiet.error()
    if failed is not None and failed.error.get("type") == "OptionError" and not quiet.metrics():
        return "refused", [failed.error["what"]], raw
    return "tried", made.broken(quiet), raw


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="studies drawn, the refused ones included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0)
    asked = parser.parse_args()
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="pairs-") as name:
        root = Path(name)
        world = World(root / "world")
        for seed in range(asked.seed, asked.seed + asked.count):
            if time.monotonic() - began > 60 * asked.minutes:
                break
            how, words, raw = trial(world, seed, root / "runs", root / "cache")
            found.append({"seed": seed, "outcome": how, "words": words, "arm": raw["arms"]["drawn"], "train": raw["train"]})
            print(seed, how, *(words if how == "tried" else ()), file=sys.stderr, flush=True)
    broken = [one for one in found if one["outcome"] == "tried" and one["words"]]
    outcome = {
        "tool": "tests.faults.pairs",
        "date": time.strftime("%Y-%m-%d"),
        "seed": asked.seed,
        **Counter(one["outcome"] for one in found),
        "broken": len(broken),
        "studies": broken,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "versions": {key: environment()[key] for key in ("peftlab", "python", "cpu", "git")},
    }
    print(json.dumps(outcome, indent=1))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
