"""Tokens per second of packing and bucketing against padding, on real lengths of texts.

    python benchmarks/text_throughput.py [--output FILE] [--data ../shared/data] [--encoder build/backbones/minilm] [--steps 8]

Every side trains the same model (LoRA of rank 8, one thread) on the same examples, in the batches of 8 that it makes of them: out
of an epoch of 256 examples those steps that stand evenly spaced when its batches are ordered by size. The sides take turns in one
process, step by step; time is that of the processor, so that other work on the machine counts less. Tokens per second are those
of the whole sample, and only tokens of texts count, not padding. SST-2's sentences and SQuAD's paragraphs go through an encoder,
Alpaca's prompts with responses through a small GPT-2 and a small Llama with random weights (6 blocks, 384 wide) and GPT-2's
tokenizer. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import report

from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients
from peftlab.training.schedule import Schedule

BATCH, EXAMPLES = 8, 256
LORA = {"name": "lora", "rank": 8, "targets": "standard"}
PADDED = {"bucketing": False}
#: side -> options of the task; the first is padded on to the maximum
ENCODER = {"padded to the maximum": PADDED, "padded to the longest": PADDED, "bucketed": {"bucketing": True}}
CAUSAL = {name: {**options, "packing": False} for name, options in ENCODER.items()} | {
    "packed": {"packing": True, "bucketing": False},
    "packed and bucketed": {"packing": True, "bucketing": True},
}
FILL = {"labels": -100}  #: what padding is, where it is not 0


class Side:
    """A model with its optimizer and its batches."""

    def __init__(self, backbone: str, task: dict[str, Any], maximum: int | None, steps: int, cache: Path) -> None:
        parts = Ingredients.of(backbone=backbone, task=task, adapter=LORA, allocator=None, quantizer={"name": "none"})
        self.task = parts.task.prepare(parts.preprocessing(), cache)
        adapted = parts.build(self.task.info.outputs, 0)
        self.module, self.outputs = adapted.module.train(), adapted.backbone.outputs
        self.optimizer = torch.optim.AdamW([p for p in self.module.parameters() if p.requires_grad], lr=1e-4)
        indices = self.task.splits(0).train
        schedule, lengths = Schedule.of(Train(epochs=1, batch_size=BATCH), len(indices)), self.task.lengths(indices)
        batches = [self.task.batch(schedule.micro_batches(step, indices, 0, lengths)[0]) for step in range(schedule.total)]
        if maximum is not None:
            batches = [{name: _wider(tensor, maximum, FILL.get(name, 0)) for name, tensor in batch.items()} for batch in batches]
        self.epoch = batches
        ordered = sorted(batches, key=lambda batch: batch["input_ids"].numel())
        places = (np.arange(steps) + 0.5) * len(ordered) / steps
        self.batches = [ordered[int(place)] for place in places]

    def step(self, number: int) -> float:
        """Seconds of the processor."""
        batch, began = self.batches[number], time.process_time()
        self.task.loss(self.outputs(self.module, self.task.inputs(batch)), batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - began


def _wider(tensor: torch.Tensor, length: int, fill: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[1]), value=fill) if tensor.ndim == 2 else tensor


def _tokens(batch: dict[str, torch.Tensor]) -> int:
    return int((batch["attention_mask"] > 0).sum())


def measure(backbone: str, task: dict[str, Any], sides: dict[str, Any], steps: int, cache: Path) -> dict[str, Any]:
    made = {
        name: Side(backbone, task | options, task["max_length"] if number == 0 else None, steps, cache)
        for number, (name, options) in enumerate(sides.items())
    }
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for side in made.values():
        side.step(0)  # the first sets up memory
    for number in range(steps):
        for name, side in made.items():
            seconds[name].append(side.step(number))
    rate = {name: sum(map(_tokens, side.batches)) / sum(seconds[name]) for name, side in made.items()}
    lengths = made["bucketed"].task.lengths(made["bucketed"].task.splits(0).train)
    assert lengths is not None
    return {
        "tokens_of_an_example": {
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "maximum": task["max_length"],
        "tokens_per_s": {name: round(value, 1) for name, value in rate.items()},
        "step_s_median": {name: round(statistics.median(taken), 3) for name, taken in seconds.items()},
        "text_share_of_an_epoch": {
            name: round(sum(map(_tokens, side.epoch)) / sum(batch["input_ids"].numel() for batch in side.epoch), 3)
            for name, side in made.items()
        },
        "times": {base: {name: round(value / rate[base], 2) for name, value in rate.items()} for base in list(made)[:2]},
    }


def paragraphs(data: Path, folder: Path) -> str:
    """SQuAD's paragraphs as a table; labels are of no matter here."""
    content = json.loads((data / "text/squad_v2/train.json").read_text(encoding="utf-8"))
    texts = [paragraph["context"] for article in content["data"] for paragraph in article["paragraphs"]]
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(texts)]
    (folder / "paragraphs.json").write_text(json.dumps(rows), encoding="utf-8")
    return str(folder / "paragraphs.json")


def causal_models(data: Path, folder: Path) -> dict[str, str]:
    """Small models with random weights and GPT-2's tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    files = data / "tokenizers/gpt2"
    tokenizer = Tokenizer(models.BPE.from_file(str(files / "vocab.json"), str(files / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    size, end = tokenizer.get_vocab_size(), tokenizer.token_to_id("<|endoftext|>")
    ends: dict[str, Any] = {"bos_token_id": end, "eos_token_id": end}
    made: dict[str, Any] = {
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=384, n_layer=6, n_head=6, **ends)),
        "llama": LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=384,
                intermediate_size=1024,
                num_hidden_layers=6,
                num_attention_heads=6,
                max_position_embeddings=1024,
                **ends,
            )
        ),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder / name)
    return {name: str(folder / name) for name in made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--encoder", default="build/backbones/minilm")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"train_size": EXAMPLES, "validation_size": 8, "test_size": 8}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sentences = {"name": "sst2", "path": str(options.data / "text/sst2")}
        texts = {"SST-2 sentences": (sentences, 128), "SQuAD paragraphs": (paragraphs(options.data, folder), 384)}
        for what, (data, maximum) in texts.items():
            task = {"kind": "text-classification", "data": data, "max_length": maximum, **sizes}
            found[f"{what}, MiniLM"] = measure(options.encoder, task, ENCODER, options.steps, folder)
        answers = {"name": "alpaca", "path": str(options.data / "text/alpaca/alpaca.json")}
        for model, backbone in causal_models(options.data, folder).items():
            task = {"kind": "instruction-tuning", "data": answers, "max_length": 512, **sizes}
            found[f"Alpaca, {model}"] = measure(backbone, task, CAUSAL, options.steps, folder)
    report("text_throughput", options.output, ("torch", "transformers", "peft"), {"batch": BATCH}, results=found)


if __name__ == "__main__":
    main()
