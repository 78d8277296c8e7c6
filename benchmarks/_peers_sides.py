"""The sides of ``peers.py``: training steps of ours and of others, each in a process of its own that waits for its turn.

Ours is a real run (execution/worker.py, with every probe and hook that a run has) that is held between two steps. The others are
what a competent user writes: inputs already tensors in memory, a loop of forward, backward, clipping and fused AdamW.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 400  #: of the run that a side is in the middle of
CLASSES = 10
PACKAGES = ("torch", "transformers", "peft", "timm", "accelerate")  #: whose versions a report names
LEARNING_RATE, DECAY, CLIP = 1e-3, 0.01, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a comparison."""

    who: str  #: ours, peft (a plain loop) or full (a plain loop that trains everything)
    backbone: str  #: folder
    data: str  #: of texts: a table that ours reads; empty for images
    pixels: int
    batch: int
    targets: str = "standard"
    dropout: float = 0.0
    dora: bool = False
    checkpointing: bool = False
    fused: bool = True  #: of ours
    scarce: bool = False  #: memory is given back at once


class Turns:
    """The child's end: holds the loop between two steps until the parent asks for the next one."""

    number = None  #: of a signal, as a worker's stop flag has it

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.began = (0.0, 0.0)

    def check(self) -> None:
        """Whether to stop while a cache is made: never."""

    def __call__(self) -> bool:
        """Report the step that is done; whether to stop."""
        cpu, wall = time.process_time(), time.perf_counter()
        self.connection.send({"cpu_s": cpu - self.began[0], "wall_s": wall - self.began[1], "resident_mb": _status("VmRSS")})
        try:
            asked = self.connection.recv()
        except EOFError:  # the parent is gone
            return True
        if asked == "stop":
            self.connection.send({"peak_mb": _status("VmHWM")})
            return True
        self.began = (time.process_time(), time.perf_counter())
        return False


def _status(entry: str) -> float:
    """Of this process now, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(entry))


def serve(side: Side, connection: Connection) -> None:
    """A side's process."""
    import torch

    torch.set_num_threads(1)
    if side.scarce:
        from peftlab.training import memory, resident

        memory.HEAP_FACTOR = float("inf")  # no machine has so much to spare
        if side.who != "ours":
            resident.allocate_exactly(True)
    with tempfile.TemporaryDirectory() as folder:
        if side.who == "ours":
            run_ours(side, Path(folder), Turns(connection))
        else:
            run_plain(side, Turns(connection))


def run_ours(side: Side, folder: Path, turns: Any) -> None:
    from peftlab.errors import Stopped
    from peftlab.execution.protocol import Channel, WorkerOptions
    from peftlab.execution.worker import Run
    from peftlab.records.record import RunConfig
    from peftlab.records.run_folder import RunFolder
    from peftlab.study.schema import Train

    task: dict[str, Any] = {"train_size": 1000, "validation_size": 64, "test_size": 64}
    if side.data:
        task |= {"kind": "text-classification", "data": side.data, "train_size": 600}
    else:
        task |= {"kind": "image-classification", "data": "digits", "image_size": side.pixels}
    train = Train(
        max_steps=STEPS,
        epochs=1000,
        batch_size=side.batch,
        learning_rate=LEARNING_RATE,
        weight_decay=DECAY,
        clip_norm=CLIP,
        evaluate_every=1000,
        gradient_checkpointing=side.checkpointing,
    )
    config = RunConfig(
        study="peers",
        arm="lora",
        label="lora",
        slug="lora",
        backbone=side.backbone,
        backbone_fingerprint="",
        task=task,
        data_fingerprint="",
        adapter={"name": "lora", "rank": 8, "targets": side.targets, "dropout": side.dropout, "dora": side.dora},
        quantizer={"name": "none"},
        train=train.model_dump(mode="json"),
        seed=0,
    )
    run = RunFolder(folder / config.run_id)
    run.create(config)
    options = WorkerOptions(cache=folder / "cache", device="cpu", checkpoint_every_s=1e9, fused=side.fused)
    try:
        Run(config, run, options, Channel(None), turns).execute()
    except Stopped:
        return


def run_plain(side: Side, turns: Callable[[], bool]) -> None:
    """One step: batch, forward, loss, backward, clip, AdamW."""
    import torch

    torch.manual_seed(0)
    model, forward = text_model(side) if side.data else image_model(side)
    examples = _texts(side) if side.data else _images(side)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, weight_decay=DECAY, fused=True)
    model.train()
    order = torch.randperm(len(examples["labels"]))
    for step in range(STEPS):
        places = order[torch.arange(step * side.batch, (step + 1) * side.batch) % len(order)]
        batch = {name: values[places] for name, values in examples.items()}
        loss = torch.nn.functional.cross_entropy(forward(batch), batch["labels"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())  # every loop watches its loss
        if turns():
            return


def image_model(side: Side) -> tuple[Any, Callable[[Mapping[str, Any]], Any]]:
    """(timm's model, adapted if so, batch -> logits)."""
    import timm
    from safetensors.torch import load_file

    config = json.loads((Path(side.backbone) / "config.json").read_text())
    model: Any = timm.create_model(config["architecture"], num_classes=CLASSES, img_size=side.pixels)
    weights = {name: value for name, value in load_file(Path(side.backbone) / "model.safetensors").items() if "head." not in name}
    if weights["pos_embed"].shape != model.pos_embed.shape:
        weights.pop("pos_embed")  # of no matter for time
    model.load_state_dict(weights, strict=False)
    if side.checkpointing:
        model.set_grad_checkpointing(True)
    layers = {"standard": "qkv", "fused": "qkv", "all-linear": "qkv|attn.proj|fc1|fc2"}[side.targets]
    model = adapted(model, side, rf".*blocks\.\d+\..*({layers})", ["head"])
    return model, lambda batch: model(batch["pixel_values"])


def text_model(side: Side) -> tuple[Any, Callable[[Mapping[str, Any]], Any]]:
    """(transformers' model, adapted if so, batch -> logits)."""
    from transformers import AutoModelForSequenceClassification, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(side.backbone, num_labels=2)
    if side.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = {"standard": "query|value", "fused": "query|value", "all-linear": "query|key|value|dense"}[side.targets]
    model = adapted(model, side, rf".*encoder\.layer\.\d+\..*({layers})", ["classifier"])
    return model, lambda batch: model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def adapted(model: Any, side: Side, targets: str, head: list[str]) -> Any:
    """PEFT's LoRA on it, with what ours has; as it is where everything trains."""
    if side.who == "full":
        return model
    import peft

    shared: dict[str, Any] = {"r": 8, "lora_alpha": 16, "lora_dropout": side.dropout, "use_dora": side.dora}
    return peft.get_peft_model(model, peft.LoraConfig(**shared, target_modules=targets, modules_to_save=head))


def _images(side: Side) -> dict[str, Any]:
    import torch

    random = torch.Generator().manual_seed(0)
    number = max(4 * side.batch, 64)
    pixels = torch.randn(number, 3, side.pixels, side.pixels, generator=random)
    return {"pixel_values": pixels, "labels": torch.randint(0, CLASSES, (number,), generator=random)}


def _texts(side: Side) -> dict[str, Any]:
    """The same table as ours reads, tokenized once."""
    import torch
    from transformers import AutoTokenizer

    rows = json.loads(Path(side.data).read_text())
    tokens = AutoTokenizer.from_pretrained(side.backbone)([row["text"] for row in rows], return_tensors="pt", padding=True)
    labels = torch.tensor([row["label"] for row in rows])
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], "labels": labels}


def minilm(encoder: Path, folder: Path) -> str:
    """The folder of MiniLM, or a model of its shape with random weights and a small vocabulary."""
    if (encoder / "config.json").is_file():
        return str(encoder)
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    path = folder / "minilm"
    path.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(a + b + c for a in "bdfgk" for b in "aeiou" for c in "lmnrt")]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])  # pyright: ignore
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    shape: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    BertForMaskedLM(BertConfig(vocab_size=len(words), **shape)).save_pretrained(path)
    return str(path)


def sentences(backbone: str, folder: Path, tokens: int) -> str:
    """A table of texts that are ``tokens`` long, special ones included; labels are of no matter here."""
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(backbone).get_vocab()
    words = sorted(word for word in known if word.isalpha() and word.isascii() and word.islower() and 3 <= len(word) <= 8)
    random = np.random.default_rng(0)
    rows = [{"text": " ".join(random.choice(words, tokens - 2)), "label": number % 2} for number in range(1000)]
    path = folder / "sentences.json"
    path.write_text(json.dumps(rows))
    return str(path)
