"""Studies too large for the machine at hand, planned in full: predicted memory and time of every configuration.

    python tools/plan_page.py [--machine TEXT] [STUDY ...]     writes docs/planned-studies.md
    python tools/plan_page.py --print [STUDY ...]              prints it

Plans are made as ``peftlab plan`` makes them, for one thread of this machine's processor, with two things replaced so that
neither a hub nor the data are needed: a backbone by a folder that names the same architecture (a plan reads no weights: shapes on
the meta device are all), and a data set by blank images, or texts of one word over and over, in the same numbers of classes and
examples; the texts are as long as the real ones on average, and one is as long as the longest.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from peftlab.api.running import cache_folder
from peftlab.planning.plan import Plan, PlannedRun, PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.study.load import validate_study

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "planned-studies.md"
STUDIES = (
    "vit-peft-matrix", "quantization", "sst2", "mrpc", "rte", "glue-ablations-gpu", "published-glue-gpu", "squad-v2", "alpaca",
    "rank-schedules-lm", "published-qlora-gpu", "published-qa-lora-gpu",
)  # fmt: skip
#: data set -> classes, training and test images, as published; the labelled validation images of Tiny ImageNet are its test
DATA: Mapping[str, tuple[int, int, int]] = {
    "cifar10": (10, 50_000, 10_000),
    "cifar100": (100, 50_000, 10_000),
    "tiny-imagenet": (200, 100_000, 10_000),
}


#: data set -> columns of text, training and test texts, as published (the labelled development texts of GLUE are its test); and
#: tokens of all columns together, on average and at most: in WordPiece, of the extracts that the CPU-sized studies use
TEXTS: Mapping[str, tuple[int, int, int, int, int]] = {
    "sst2": (1, 67_349, 872, 13, 66),
    "mrpc": (2, 3_668, 408, 53, 103),
    "rte": (2, 2_490, 277, 70, 289),
}
#: data set -> training and test paragraphs and questions, as published; tokens of a paragraph on average and at most, of a
#: question on average
QUESTIONS: Mapping[str, tuple[tuple[int, int], tuple[int, int], int, int, int]] = {
    "squad_v2": ((19_035, 130_319), (1_204, 11_873), 164, 789, 12),
}
#: data set -> examples, as published; tokens of instruction, of input where there is one, of output, on average; share with an
#: input; tokens of all at most
INSTRUCTIONS: Mapping[str, tuple[int, int, int, int, float, int]] = {"alpaca": (52_002, 12, 13, 57, 0.39, 566)}
#: backbones of texts -> what their published configurations say
MODELS: Mapping[str, PretrainedConfig] = {
    "google-bert/bert-base-uncased": BertConfig(),
    "openai-community/gpt2": GPT2Config(bos_token_id=1, eos_token_id=1),
    "princeton-nlp/Sheared-LLaMA-1.3B": LlamaConfig(
        hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=16, vocab_size=32_000,
        max_position_embeddings=4096,
    ),
    "huggyllama/llama-7b": LlamaConfig(),
    "FacebookAI/roberta-base": RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1),
    "build/backbones/deberta-v3-base": DebertaV2Config(
        vocab_size=128_100, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
        max_position_embeddings=512, type_vocab_size=0, relative_attention=True, position_buckets=256, max_relative_positions=-1,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
    ),
}  # fmt: skip


def backbone(name: str, folder: Path) -> str:
    """A folder that names the architecture of a model, and holds no weights of it."""
    path = folder / "backbones" / (name.removeprefix("timm/") if name.startswith("timm/") else Path(name).name)
    path.mkdir(parents=True, exist_ok=True)
    if name in MODELS:
        MODELS[name].save_pretrained(str(path))
        words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1, "word": 2}, unk_token="word"))
        words.pre_tokenizer = Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>").save_pretrained(path)
    else:
        (path / "config.json").write_text(json.dumps({"architecture": path.name.split(".")[0], "num_classes": 1000}))
    save_file({"none": torch.zeros(1)}, path / "model.safetensors")
    return str(path)


def _words(number: int, columns: int) -> list[str]:
    """So many words, spread over the columns."""
    return ["word " * (number // columns + (i < number % columns)) for i in range(columns)]


def _paragraph(name: str, length: int, questions: Sequence[int], asked: int) -> dict[str, Any]:
    """A paragraph of SQuAD; every third question has no answer, the others have its first word."""
    asks = [
        {
            "id": f"{name}-{i}",
            "question": "word " * asked,
            "is_impossible": i % 3 == 2,
            "answers": [] if i % 3 == 2 else [{"text": "word", "answer_start": 0}],
        }
        for i in questions
    ]
    return {"context": "word " * (length - 3) + name, "qas": asks}  # its name, three tokens, tells it from the others


def data(name: str, folder: Path) -> str:
    """A folder of blank images of one pixel, or of texts of one word, as many and in as many classes as the data set has."""
    path = folder / "data" / name
    made = path / f"{name}.json" if name in INSTRUCTIONS else path
    if made.exists():
        return str(made)
    path.mkdir(parents=True)
    if name in QUESTIONS:
        *sizes, average, longest, asked = QUESTIONS[name]
        for split, (paragraphs, questions) in zip(("train", "dev"), sizes, strict=True):
            lengths = [longest, *([average] * (paragraphs - 1))]
            held = [_paragraph(f"{split}-{i}", n, range(i, questions, paragraphs), asked) for i, n in enumerate(lengths)]
            articles = [{"title": "word", "paragraphs": [paragraph]} for paragraph in held]
            (path / f"{split}.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
        return str(path)
    if name in INSTRUCTIONS:
        examples, instruction, given, output, share, longest = INSTRUCTIONS[name]
        with_input = round(share * examples)
        rows = [
            {"instruction": "word " * instruction, "input": "word " * given * (i < with_input), "output": "word " * output}
            for i in range(examples)
        ]
        rows[0]["output"] = "word " * (longest - instruction - given)
        made.write_text(json.dumps(rows))
        return str(made)
    if name in TEXTS:
        columns, *sizes, average, longest = TEXTS[name]
        names = [f"sentence{i + 1}" for i in range(columns)] if columns > 1 else ["sentence"]
        for split, size in zip(("train", "test"), sizes, strict=True):
            lengths = [longest, *([average] * (size - 1))]
            rows = ["\t".join([*_words(length, columns), str(i % 2)]) for i, length in enumerate(lengths)]
            (path / f"{split}.tsv").write_text("\n".join(["\t".join([*names, "label"]), *rows]) + "\n")
        return str(path)
    classes, *sizes = DATA[name]
    for split, size in zip(("train", "test"), sizes, strict=True):
        np.savez(path / f"{split}.npz", images=np.zeros((size, 1, 1, 3), np.uint8), labels=np.arange(size) % classes)
    return str(path)


def planned(raw: dict[str, Any], folder: Path, options: Callable[..., PlanOptions] = PlanOptions) -> tuple[Plan, dict[str, str]]:
    """The plan, and what the study calls each backbone and data set that was replaced."""
    names: dict[str, str] = {}

    def replaced(name: str, by: Callable[[str, Path], str]) -> str:
        made = by(name, folder)
        names[made] = name.removeprefix("timm/")
        return made

    matrix = raw.get("matrix", {})
    places = [(raw, "backbone"), *((matrix["backbone"], i) for i in range(len(matrix.get("backbone", ()))))]
    for place, key in places:
        if str(place[key]).startswith("timm/") or place[key] in MODELS:
            place[key] = replaced(place[key], backbone)
    for task in (raw["task"], *matrix.get("task", ())):
        if task["data"] in {*DATA, *TEXTS}:
            task["data"] = replaced(task["data"], data)
        elif task["data"] in {*QUESTIONS, *INSTRUCTIONS}:
            task["data"] = {"name": task["data"], "path": replaced(task["data"], data)}
    return make_plan(validate_study(raw), options(cache=cache_folder(), device="cpu")), names


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is text, the others are figures."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def hours(seconds: float) -> str:
    return f"{seconds / 3600:,.0f}" if seconds >= 36_000 else f"{seconds / 3600:.2g}"


def of_backbone(runs: Sequence[PlannedRun], data_sets: Mapping[str, str]) -> str:
    """A row per arm; memory and time on each data set, which are the configurations."""
    rows = []
    for label in dict.fromkeys(run.label for run in runs):
        first = {run.task: run for run in reversed(runs) if run.label == label}
        found = [first[task] for task in data_sets]
        peaks = [f"{run.estimate.peak_mb:,.0f}" if run.estimate else "-" for run in found]
        weights = [f"{run.estimate.parts_mb['weights']:,.1f}" for run in found if run.estimate]
        times = [hours(run.predicted_s or 0.0) for run in found]
        rows.append([f"`{label}`", f"{found[0].trainable:,}", *(weights[:1] or ["-"]), *peaks, *times])
    short = data_sets.values()
    head = ["arm", f"trainable ({next(iter(short))})", "frozen weights, MB"]
    return table([*head, *(f"peak, {name}" for name in short), *(f"hours, {name}" for name in short)], rows)


def data_sets(runs: Sequence[PlannedRun], names: Mapping[str, str]) -> dict[str, str]:
    """Task of the plan -> what the study calls its data set. One path may begin another: the longest counts."""
    found = {}
    for task in dict.fromkeys(run.task for run in runs):
        paths = sorted((path for path in names if path in task), key=len)
        found[task] = names[paths[-1]] if paths else task
    return found


def section(name: str, plan: Plan, names: Mapping[str, str]) -> str:
    runs = plan.runs
    configurations = {(run.backbone, run.task, run.label) for run in runs}
    seeds = len({run.seed for run in runs})
    refused = {(run.backbone, run.task, run.label): run.refusal for run in runs if run.refusal}
    parts = [
        f"## {name}",
        f"*{plan.question}*",
        f"`studies/{name}.yaml`: {len(configurations)} configurations x {seeds} seeds = {len(runs)} runs, {_core_hours(runs)}"
        f"{f'; before them {len(plan.tuning)} tuning runs, {_core_hours(plan.tuning)}' if plan.tuning else ''}. One thread each. "
        f"{_refused(len(refused))} refused on this machine.",
    ]
    for chosen in dict.fromkeys(run.backbone for run in runs):
        of_it = [run for run in runs if run.backbone == chosen]
        parts += [f"### {names.get(chosen, chosen)}", of_backbone(of_it, data_sets(of_it, names))]
    told = [f"- {note}" for note in plan.notes]
    told += [f"- refused: {label} on {names.get(b, b)}: {reason}" for (b, _, label), reason in refused.items()]
    return "\n\n".join([*parts, *(["\n".join(told)] if told else [])])


def _core_hours(runs: Sequence[PlannedRun]) -> str:
    return f"{sum(run.predicted_s or 0.0 for run in runs) / 3600:,.0f} core-hours"


def _refused(number: int) -> str:
    return {0: "None is", 1: "One configuration is"}.get(number, f"{number} configurations are")


def page(studies: Sequence[str], folder: Path, machine: str) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "peft"))
    about = (
        f"Written by `python tools/plan_page.py` on {date.today():%Y-%m-%d}; {machine}; Python {sys.version.split()[0]}, "
        f"{packages}. Nothing on this page was run: figures are **predicted**, for this machine's processor. On a GPU weights, "
        "adapter, optimizer and activations take the same bytes and the process is not counted; the time is another, which "
        "`peftlab plan` predicts there."
    )
    columns = (
        "Peak: MB (10^6 bytes) at once, process included. Hours: of one run with its evaluations, one thread. Frozen weights: "
        "as stored while training, scales and tables included. The backbones were planned from their architecture, "
        "without their weights, and the data sets from their numbers of examples and classes: neither changes what is predicted. "
        "Of texts the tokens count as well: memory is that of the longest batch, time of an average one. How well predictions "
        "agree with what is measured: [Memory](memory.md)."
    )
    intro = "\n\n".join(("# Studies for a larger machine, planned", about, columns))
    parts = []
    for name in studies:
        raw = YAML(typ="safe").load(ROOT / "studies" / f"{name}.yaml")
        parts.append(section(name, *planned(raw, folder)))
    return "\n\n".join([intro, *parts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", default=STUDIES, metavar="STUDY", help="name of a shipped study")
    parser.add_argument("--machine", default="a processor without a GPU", help="what to call this machine on the page")
    parser.add_argument("--print", action="store_true", help="do not write the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = page(options.studies, Path(folder), options.machine)
    if options.print:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(PAGE)


if __name__ == "__main__":
    main()
